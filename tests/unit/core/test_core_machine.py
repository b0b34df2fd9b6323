"""Whatever happens, in whatever order: nothing is lost, doubled or oversold."""

from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.labels import parse_desired
from ganger_broker.messages import (
    FailureReason,
    Heartbeat,
    LabelsChanged,
    LogLine,
    Outcome,
    StepFinished,
    StepLogged,
    StepRefreshed,
    StepReleased,
    StepReturned,
    StepStarted,
    StepWaits,
    Trigger,
    WorkerDraining,
    WorkerKilled,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_dispatcher.core import Core
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.core import Fact
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.facts import (
    AssignmentReturned,
    BrokerRestored,
    CancelRequested,
    TimePassed,
    TriggerReceived,
)
from ganger_dispatcher.core.records import Snapshot, split_attempt
from ganger_dispatcher.core.states import TERMINAL, StepStatus
from tests.unit.placement.oracle import meets

from .machine_flows import API, DAGS, FLOWS, KEYS, LABELS, POLICY, RUNS, WISHES, WORKERS
from .machine_invariants import Invariants
from .stored import Stored
from .world import START, address

EVERY = ["dag", *sorted(FLOWS)]


class CoreMachine(Invariants):
    """Facts come as they may; what a worker says it believes is what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.core = Core(POLICY)
        self.stored = Stored()
        self.history: list[tuple[Fact | Snapshot, int, list[Effect]]] = []
        self.incarnations = dict.fromkeys(WORKERS, 0)
        self.sent: list[tuple[str, str, str]] = []  # (worker, incarnation, attempt)
        self.asked: dict[str, set[str]] = {}
        self.answered: Counter[tuple[str, str]] = Counter()
        self.ended: dict[str, Any] = {}
        self.families: set[tuple[str, str]] = set()
        self.said: list[Fact] = []
        self.seq = 0
        self.placed_limited: list[int] = []
        self.ticked: set[str] = set()
        self.newest: dict[tuple[str, str], int] = {}
        self.flows = dict(FLOWS)

    # ── the shell ─────────────────────────────────────────────────────────────────────

    def tell(self, fact: Fact) -> None:
        if isinstance(fact, TriggerReceived):
            if fact.run_id in self.ended:
                ended = self.ended[fact.run_id]
                fact = TriggerReceived(fact.trigger, fact.run_id, fact.reply, ended)
            elif fact.reply:
                self.asked.setdefault(fact.run_id, set()).add(fact.reply.reply_to)
        given = deepcopy(fact)
        counts = not isinstance(fact, StepStarted) or self.is_of_its_worker(fact)
        self.core.begin_batch()
        effects = self.core.handle(fact, self.now)
        assert counts or not any(isinstance(effect, do.StoreStep) for effect in effects)
        self.carry_out(given, effects)
        self.said.append(given)

    def is_of_its_worker(self, fact: StepStarted) -> bool:
        return any(
            f"{run.id}/{name}/{step.attempt}" == fact.attempt and step.worker == fact.worker
            for run in self.core.state.runs.values()
            for name, step in run.steps.items()
        )

    def carry_out(self, cause: Fact | Snapshot, effects: list[Effect]) -> None:
        self.history.append((cause, self.now, deepcopy(effects)))
        late = getattr(cause, "ended", None) is not None
        self.stored.apply(effects)
        for effect in effects:
            match effect:
                case do.Assign(worker, assignment):
                    if assignment.attempt not in {attempt for *_, attempt in self.sent}:
                        units = self.flows[assignment.workflow][0].steps[0].rate_limits
                        self.placed_limited += [self.now] * len(units)
                    self.check_assigned(worker, assignment.attempt)
                    self.sent.append((worker, assignment.incarnation, assignment.attempt))
                case do.EndRun(run_id, header):
                    assert run_id not in self.ended
                    assert all(s.status in TERMINAL for s in self.stored.steps[run_id].values())
                    result = next((e.result for e in effects if isinstance(e, do.Reply)), None)
                    self.ended[run_id] = result
                    assert header.finished_at == self.now
                case do.Note("tick", fields):
                    assert fields["run"] not in self.ticked
                    self.ticked.add(fields["run"])
                case do.Reply(where, result) if not late:
                    self.answered[result.run_id or "", where.reply_to] += 1
        self.forget_dead_letters(effects)

    def forget_dead_letters(self, effects: list[Effect]) -> None:
        """A held trigger that was buried is answered and gone; it may be asked for anew."""
        if any(isinstance(effect, do.Bury) for effect in effects):
            for effect in effects:
                if isinstance(effect, do.Unhold):
                    self.families = {pair for pair in self.families if pair[1] != effect.run_id}
                    for name in self.asked.pop(effect.run_id, ()):
                        assert self.answered.pop((effect.run_id, name)) == 1

    def check_assigned(self, worker: str, attempt: str) -> None:
        """At this time the worker has what the step requires, and a slot; or it is sent again."""
        before = {(w, incarnation) for w, incarnation, a in self.sent if a == attempt}
        if before:
            assert before == {(worker, self.core.state.workers[worker].incarnation)}
            return
        assert self.core.state.workers[worker].used <= self.core.state.workers[worker].slots
        parts = split_attempt(attempt)
        assert parts is not None
        step = self.stored.steps[parts[0]][parts[1]]
        labels = dict(self.core.state.workers[worker].labels)
        for group in parse_desired(step.desired_worker_labels).values():
            for condition in group:
                assert meets(labels, condition) or not condition.required

    @initialize(slots=st.lists(st.integers(0, 3), min_size=3, max_size=3), dag=DAGS)
    def begin(self, slots: list[int], dag: WorkflowDefinition) -> None:
        """Most of what is of interest needs workers and runs."""
        self.flows["dag"] = [dag]
        for worker, number in zip(WORKERS, slots, strict=True):
            if number:
                flows = ["plain", "tree", "dag"] if number > 1 else ["plain"]
                self.join(worker, {"gpu": number}, number, flows, 0, False, False)
        for run, flow in zip(RUNS, ["plain", "tree", "dag"], strict=False):
            self.trigger(run, flow, 1, {}, "p", None, "x")

    # ── programs ──────────────────────────────────────────────────────────────────────

    @rule(
        run=st.sampled_from(RUNS),
        flow=st.sampled_from(EVERY),
        priority=st.integers(1, 3),
        desired=WISHES,
        reply=st.sampled_from(["p", "q"]),
        parent=st.sampled_from([None, None, *RUNS]),
        key=KEYS,
    )
    def trigger(
        self,
        run: str,
        flow: str,
        priority: int,
        desired: Any,
        reply: str,
        parent: str | None,
        key: str,
    ) -> None:
        state = self.core.state
        is_new = not any(run in known for known in (state.runs, state.held, self.ended))
        if is_new and parent in state.runs:
            self.families.add((parent, run))
        trigger = Trigger(
            flow,
            {"key": key},
            run_id=run,
            priority=priority,
            desired_worker_labels=dict(desired),
            parent=None if parent is None else f"{parent}/a",
        )
        self.tell(TriggerReceived(trigger, run, address(reply)))

    @rule(run=st.sampled_from(RUNS))
    def cancel(self, run: str) -> None:
        self.tell(CancelRequested(run, "enough"))

    # ── workers ───────────────────────────────────────────────────────────────────────

    @rule(
        worker=st.sampled_from(WORKERS),
        labels=LABELS,
        slots=st.integers(1, 3),
        flows=st.sampled_from([["plain"], ["tree", "dag"], EVERY, EVERY]),
        version=st.integers(0, 1),
        again=st.booleans(),
        draining=st.sampled_from([False, False, False, True]),
    )
    def join(
        self,
        worker: str,
        labels: Any,
        slots: int,
        flows: list[str],
        version: int,
        again: bool,
        draining: bool,
    ) -> None:
        if not again:
            self.incarnations[worker] += 1
        known = self.core.state.workers.get(worker)
        if known is not None and known.incarnation == self.incarnation(worker):
            slots = known.slots  # a process does not change them
        self.seq += 1
        self.tell(
            WorkerRegistered(
                worker,
                self.incarnation(worker),
                name=worker,
                slots=slots,
                labels=labels,
                label_seq=self.seq,
                workflows=[self.flows[flow][version % len(self.flows[flow])] for flow in flows],
                rate_limits=[API],
                attempts=sorted(self.believed(worker)),
                draining=draining,
            )
        )

    def incarnation(self, worker: str) -> str:
        return str(self.incarnations[worker])

    def believed(self, worker: str) -> set[str]:
        """What the process was sent and has not said to have finished."""
        ends = (StepFinished, StepReturned)
        done = {(f.worker, f.attempt) for f in self.said if isinstance(f, ends)}
        return {
            attempt
            for name, incarnation, attempt in self.sent
            if name == worker
            and incarnation == self.incarnation(worker)
            and (name, attempt) not in done
        }

    @rule(
        worker=st.sampled_from(WORKERS),
        upsert=LABELS,
        delete=st.sampled_from([[], ["gpu"]]),
        late=st.sampled_from([0, 0, 1, 4]),
    )
    def label(self, worker: str, upsert: Any, delete: list[str], late: int) -> None:
        self.seq += 1
        seq = max(1, self.seq - late)
        self.tell(LabelsChanged(worker, self.incarnation(worker), seq, upsert, delete))

    @rule(worker=st.sampled_from(WORKERS))
    def drain(self, worker: str) -> None:
        self.tell(WorkerDraining(worker, self.incarnation(worker)))

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker: str) -> None:
        self.tell(WorkerLeft(worker, self.incarnation(worker)))

    @rule(worker=st.sampled_from(WORKERS), late=st.sampled_from([0, 0, 0, 1]))
    def kill(self, worker: str, late: int) -> None:
        incarnation = str(self.incarnations[worker] - late)
        there = self.core.state.workers.get(worker)
        dies = there is not None and there.incarnation == incarnation
        self.tell(WorkerKilled(worker, incarnation, FailureReason.OUT_OF_MEMORY, "over 64 MB"))
        assert (worker in self.core.state.workers) == (there is not None and not dies)

    @rule(worker=st.sampled_from(WORKERS), forgetful=st.booleans())
    def beat(self, worker: str, forgetful: bool) -> None:
        attempts = [] if forgetful else sorted(self.believed(worker))
        self.tell(Heartbeat(worker, self.incarnation(worker), attempts))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), output=st.integers(0, 9))
    def start_and_finish(self, data: st.DataObject, output: int) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepStarted(worker, incarnation, attempt))
        self.tell(StepFinished(worker, incarnation, attempt, Outcome.SUCCEEDED, output))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepStarted(worker, incarnation, attempt))

    @precondition(lambda self: self.sent)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(Outcome),
        output=st.integers(0, 9),
        retryable=st.booleans(),
        retry_after=st.sampled_from([None, None, 0, 4]),
        lingers=st.sampled_from([False, False, True]),
    )
    def finish(self, data: st.DataObject, outcome: Outcome, output: int, **again: Any) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepFinished(worker, incarnation, attempt, outcome, output, **again))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), timeout=st.sampled_from([1, 100]))
    def refresh(self, data: st.DataObject, timeout: int) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepRefreshed(worker, incarnation, attempt, timeout))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), seq=st.integers(1, 4))
    def wait_for_children(self, data: st.DataObject, seq: int) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepWaits(worker, incarnation, attempt, seq))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def stop_lingering(self, data: st.DataObject) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepReleased(worker, incarnation, attempt))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def has_no_slot(self, data: st.DataObject) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(StepReturned(worker, incarnation, attempt))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), seq=st.integers(1, 4))
    def log(self, data: st.DataObject, seq: int) -> None:
        worker, incarnation, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        lines = [LogLine(each, self.now, "info", "") for each in (seq, seq + 1)]
        self.tell(StepLogged(worker, incarnation, attempt, lines))

    # ── the broker, the clock, the dispatcher ─────────────────────────────────────────

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        self.tell(deepcopy(data.draw(st.sampled_from(self.said[-10:]))))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), no_queue=st.booleans())
    def give_back(self, data: st.DataObject, no_queue: bool) -> None:
        worker, _, attempt = data.draw(st.sampled_from(self.sent[-6:]))
        self.tell(AssignmentReturned(worker, attempt, no_queue))

    @rule(seconds=st.sampled_from([0.001, 1, 2, 5, 9, 30]), alive=st.booleans())
    def wait(self, seconds: float, alive: bool) -> None:
        end = self.now + round(seconds * 1000)
        while self.now < end:
            self.now = min(end, self.now + 1_000)
            for worker in WORKERS if alive else ():
                if worker in self.core.state.workers:
                    attempts = sorted(self.believed(worker))
                    self.tell(Heartbeat(worker, self.incarnation(worker), attempts))
            self.tell(TimePassed())

    @rule(seconds=st.sampled_from([7, 60]))
    def stall(self, seconds: int) -> None:
        fleet = set(self.core.state.workers)
        self.now += seconds * 1000
        self.tell(TimePassed())
        assert set(self.core.state.workers) == fleet

    @rule()
    def broker_restored(self) -> None:
        self.tell(BrokerRestored())

    @rule()
    def take_over(self) -> None:
        snapshot = self.stored.snapshot()
        given = deepcopy(snapshot)
        self.core = Core(POLICY)
        effects = self.core.restore(snapshot, self.now)
        self.carry_out(given, effects)
        sent = {e.assignment.attempt for e in effects if isinstance(e, do.Assign)}
        assert sent == set(self.attempts(StepStatus.ASSIGNED))
        assert self.stored.pending.keys() == set(self.pending())

    def teardown(self) -> None:
        """Equal history gives equal effects."""
        core = Core(POLICY)
        for cause, at, effects in self.history:
            if isinstance(cause, Snapshot):
                core = Core(POLICY)
                again = core.restore(cause, at)
            else:
                core.begin_batch()
                again = core.handle(cause, at)
            assert again == effects


TestCore = pytest.mark.timeout(300)(CoreMachine.TestCase)
TestCore.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

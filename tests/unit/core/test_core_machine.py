"""Whatever happens, in whatever order: nothing is lost, doubled or oversold."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)
from msgspec.structs import replace

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.messages import (
    FailureReason,
    Heartbeat,
    LabelsChanged,
    LogLine,
    Outcome,
    PushEvent,
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
    WorkerPaused,
    WorkerRegistered,
    WorkerResumed,
)
from ganger_broker.schedules import ScheduleRuns
from ganger_dispatcher.core import Core
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.facts import (
    AssignmentReturned,
    BrokerRestored,
    CancelRequested,
    EventPushed,
    ScheduleRequested,
    TimePassed,
    TriggerReceived,
    UnscheduleRequested,
)
from ganger_dispatcher.core.states import StepStatus

from .machine_dags import dags
from .machine_flows import FLOWS, KEYS, LABELS, LIMITS, POLICY, RUNS, WISHES, WORKERS
from .machine_shell import Shell
from .world import address


class CoreMachine(Shell):
    """Facts come as they may; what a worker says it believes is what it was sent."""

    @initialize(
        slots=st.lists(st.integers(0, 3), min_size=3, max_size=3),
        dag=dags(""),
        other=dags("2"),
    )
    def begin(self, slots: list[int], dag: WorkflowDefinition, other: WorkflowDefinition) -> None:
        """Most of what is of interest needs workers and runs."""
        self.flows["dag"] = [dag, other]
        for definition in (each for versions in self.flows.values() for each in versions):
            self.ledger.know(definition)
        for worker, number in zip(WORKERS, slots, strict=True):
            if number:
                flows = ["plain", "tree", "dag"] if number > 1 else ["plain", "dag"]
                self.join(worker, {"gpu": number}, number, flows, 0, False, False)
        for run, flow in zip(RUNS, ["plain", "dag", "tree", "dag"], strict=False):
            self.trigger(run, flow, 1, {}, "p", None, None, "x")

    # ── programs ──────────────────────────────────────────────────────────────────────

    @rule(
        run=st.sampled_from(RUNS),
        flow=st.sampled_from([*sorted(FLOWS), *["dag"] * 6]),
        priority=st.integers(1, 3),
        desired=WISHES,
        reply=st.sampled_from(["p", "q"]),
        parent=st.sampled_from([None, None, *(f"{r}/{s}" for r in RUNS for s in ("a", "oops"))]),
        stays=st.sampled_from([None, *WORKERS]),
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
        stays: str | None,
        key: str,
    ) -> None:
        state = self.core.state
        is_new = self.flow_of(run) is None
        parent_run = (parent or "").partition("/")[0]
        if is_new and parent_run in state.runs:
            self.families.add((parent_run, run))
        trigger = Trigger(
            flow,
            {"key": key},
            run_id=run,
            priority=priority,
            desired_worker_labels=dict(desired),
            parent=parent,
            sticky_to=parent and stays,
        )
        self.ask(TriggerReceived(trigger, run, address(reply)))

    def ask(self, fact: TriggerReceived) -> None:
        if self.flow_of(fact.run_id) in (None, fact.trigger.workflow):
            self.tell(fact)
        elif fact.reply is not None:
            self.refused(fact)

    def flow_of(self, run: str) -> str | None:
        """The workflow of a run that there is."""
        state = self.core.state
        if run in self.ended:
            return str(self.ended[run].workflow)
        if run in state.held:
            return state.held[run].trigger.workflow
        return state.runs[run].header.workflow if run in state.runs else None

    def refused(self, fact: TriggerReceived) -> None:
        """Its run is one of another workflow: it is told so, and nothing else happens. (What waits
        may get back the time in which nobody was heard, as with any fact.)"""
        self.core.begin_batch()
        fact = replace(fact, ended=self.ended.get(fact.run_id))
        effects = self.core.handle(fact, self.now)
        self.history.append((fact, self.now, deepcopy(effects)))
        self.stored.apply(effects)
        kinds = [type(e) for e in effects]
        assert kinds[:5] == [do.Bury, do.Count, do.Count, do.Note, do.Reply]
        assert set(kinds[5:]) <= {do.StoreStep, do.AddPending, do.Hold}
        errors = [e.result.error for e in effects if isinstance(e, do.Reply)]
        assert [error and error.reason for error in errors] == [FailureReason.INVALID_TRIGGER]

    @rule(run=st.sampled_from(RUNS))
    def cancel(self, run: str) -> None:
        self.tell(CancelRequested(run, "enough"))

    @rule(
        event=st.sampled_from(["e0", "e1"]),
        key=st.sampled_from(["image:new", "other"]),
        value=KEYS,
        desired=WISHES,
    )
    def push(self, event: str, key: str, value: str, desired: Any) -> None:
        pushed = PushEvent({"key": value}, desired_worker_labels=dict(desired))
        self.tell(EventPushed(key, pushed, event))

    @rule(
        name=st.sampled_from(["s0", "s1"]),
        flow=st.sampled_from(["dag", "plain"]),
        seconds=st.lists(st.sampled_from([-1, 2, 40]), min_size=1, max_size=2, unique=True),
    )
    def schedule(self, name: str, flow: str, seconds: list[int]) -> None:
        times = [datetime.fromtimestamp(self.now / 1000 + each, UTC) for each in seconds]
        self.tell(ScheduleRequested(ScheduleRuns(flow, times, name, {"key": "x"}), name))

    @rule(name=st.sampled_from(["s0", "s1", "s0-1"]))
    def unschedule(self, name: str) -> None:
        self.tell(UnscheduleRequested(name))

    # ── workers ───────────────────────────────────────────────────────────────────────

    @rule(
        worker=st.sampled_from(WORKERS),
        labels=LABELS,
        slots=st.integers(1, 3),
        flows=st.sampled_from([["plain"], ["tree"], ["dag"], *[[*sorted(FLOWS), "dag"]] * 3]),
        version=st.integers(0, 2),
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
                rate_limits=LIMITS,
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
        delete=st.sampled_from([[], [], ["gpu"], ["model"], ["gpu", "model"]]),
        late=st.sampled_from([0, 0, 1, 4]),
    )
    def label(self, worker: str, upsert: Any, delete: list[str], late: int) -> None:
        self.seq += 1
        seq = max(1, self.seq - late)
        self.tell(LabelsChanged(worker, self.incarnation(worker), seq, upsert, delete))

    @precondition(lambda self: self.attempts(StepStatus.ASSIGNED))
    @rule(data=st.data())
    def crash_with_it_each_time(self, data: st.DataObject) -> None:
        """A step whose workers end and come back, one after the other."""
        attempt = data.draw(st.sampled_from(self.attempts(StepStatus.ASSIGNED)))
        run_id, name, _ = attempt.split("/")
        for _ in range(POLICY.most_losses + 1):
            step = self.stored.steps[run_id][name]
            if step.status is StepStatus.ASSIGNED and step.worker is not None:
                labels = dict(self.ledger.labels[step.worker])
                self.join(step.worker, labels, 2, [*sorted(FLOWS), "dag"], 0, False, False)

    @rule(worker=st.sampled_from(WORKERS))
    def drain(self, worker: str) -> None:
        self.tell(WorkerDraining(worker, self.incarnation(worker)))

    @rule(worker=st.sampled_from(WORKERS))
    def pause(self, worker: str) -> None:
        self.tell(WorkerPaused(worker, self.incarnation(worker)))

    @rule(worker=st.sampled_from(WORKERS))
    def resume(self, worker: str) -> None:
        self.tell(WorkerResumed(worker, self.incarnation(worker)))

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

    @precondition(lambda self: self.attempts(StepStatus.ASSIGNED))
    @rule(data=st.data(), then=st.sampled_from(["cancel", "be deaf", "go on", "go on"]))
    def pick_up(self, data: st.DataObject, then: str) -> None:
        """An attempt that counts runs; and what ends it is not always its worker."""
        attempt = data.draw(st.sampled_from(self.attempts(StepStatus.ASSIGNED)))
        worker = self.ledger.given[attempt]
        self.tell(StepStarted(worker, self.incarnation(worker), attempt))
        if then == "cancel":
            self.cancel(attempt.partition("/")[0])
        elif then == "be deaf":
            self.wait(22, True)

    @precondition(lambda self: self.attempts(StepStatus.RUNNING) and self.unused())
    @rule(
        data=st.data(),
        flow=st.sampled_from(["dag", "plain"]),
        stays=st.booleans(),
        cancel=st.booleans(),
    )
    def spawn(self, data: st.DataObject, flow: str, stays: bool, cancel: bool) -> None:
        """A step that runs has a child; some of them are cancelled with their parent."""
        parent = data.draw(st.sampled_from(self.attempts(StepStatus.RUNNING))).rpartition("/")[0]
        run, _, name = parent.partition("/")
        worker = self.core.state.runs[run].steps[name].worker if stays else None
        child = data.draw(st.sampled_from(self.unused()))
        self.trigger(child, flow, 1, {}, "p", parent, worker, "x")
        if cancel:
            self.cancel(parent.partition("/")[0])

    @precondition(lambda self: len(self.unused()) > 2 and self.core.state.workers)
    @rule(raised=st.booleans(), flow=st.sampled_from(["queued", "replacing"]), last=KEYS)
    def queue_up(self, raised: bool, flow: str, last: str) -> None:
        """Several runs of one key, and another limit while some of them wait."""
        for run, key in zip(self.unused(), ["x", "x", last], strict=False):
            self.trigger(run, flow, 1, {}, "p", None, None, key)
        if raised:
            self.join(WORKERS[0], {"gpu": 1}, 3, ["queued", "dag"], 1, False, False)

    @precondition(lambda self: len(self.unused()) > 3)
    @rule(flows=st.permutations(["both", "both", "big", "newest"]), seconds=st.integers(15, 60))
    def crowd(self, flows: list[str], seconds: int) -> None:
        """Several runs that wait for the same limits, some of them for two."""
        self.join(WORKERS[0], {"gpu": 1}, 9, [*sorted(FLOWS), "dag"], 0, False, False)
        for run, flow in zip(self.unused(), flows, strict=False):
            self.trigger(run, flow, 1, {}, "p", None, None, run)
            self.wait(1, True)
        self.wait(seconds, True)

    def unused(self) -> list[str]:
        """Ids that no run has had."""
        state = self.core.state
        return [r for r in RUNS if r not in state.runs and r not in state.held | self.ended]

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
        fact = deepcopy(data.draw(st.sampled_from(self.said[-10:])))
        if isinstance(fact, TriggerReceived):
            self.ask(fact)
        else:
            self.tell(fact)

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

    @rule(seconds=st.sampled_from([1, 9, 13]), behind=st.sampled_from([0, 5]))
    def wait_unread(self, seconds: int, behind: int) -> None:
        self.now += seconds * 1000
        self.tell(TimePassed(read_to=self.now - behind * 1000))
        to_read = self.core.to_read
        assert to_read is None or to_read > self.now - behind * 1000

    @rule(seconds=st.sampled_from([0, 7]))
    def broker_restored(self, seconds: int) -> None:
        self.tell(BrokerRestored(since=self.now - seconds * 1000))

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


TestCore = pytest.mark.timeout(300)(CoreMachine.TestCase)
TestCore.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

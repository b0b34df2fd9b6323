"""What stands around the core in its state machine: facts go in, effects are carried out."""

from collections import Counter
from copy import deepcopy
from typing import Any

from msgspec.structs import replace

from ganger_broker.labels import Requirement
from ganger_broker.messages import RunResult, StepStarted
from ganger_dispatcher.core import Core
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.core import Fact
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.facts import EventPushed, ScheduleRequested, TriggerReceived
from ganger_dispatcher.core.records import Snapshot
from ganger_dispatcher.core.states import StepStatus
from ganger_dispatcher.placement.scorer import INELIGIBLE

from .machine_flows import FLOWS, POLICY, WORKERS
from .machine_invariants import Invariants
from .machine_ledger import Ledger
from .stored import Stored
from .world import START

__all__ = ["Shell"]


class Shell(Invariants):
    """The core, a store, and what was sent to workers and answered to programs."""

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
        self.units_given: dict[str, list[int]] = {}
        self.limited: dict[str, tuple[str, int]] = {}
        self.ticked: set[str] = set()
        self.newest: dict[tuple[str, str], int] = {}
        self.ledger = Ledger()
        self.going: set[str] = set()
        self.waiting: set[str] = set()
        self.flows = dict(FLOWS)

    def tell(self, fact: Fact) -> None:
        if isinstance(fact, TriggerReceived):
            if fact.run_id in self.ended:
                ended = self.ended[fact.run_id]
                fact = TriggerReceived(fact.trigger, fact.run_id, fact.reply, ended)
            elif fact.reply:
                self.asked.setdefault(fact.run_id, set()).add(fact.reply.reply_to)
        elif isinstance(fact, ScheduleRequested):
            fact = replace(fact, ended=frozenset(self.ended))
        elif isinstance(fact, EventPushed):
            fact = replace(fact, ended=dict(self.ended))
        given = deepcopy(fact)
        counts = not isinstance(fact, StepStarted) or self.is_of_its_worker(fact)
        self.core.begin_batch()
        waited = self.backlog()
        effects = self.core.handle(fact, self.now)
        self.check_turns(effects, waited)
        stored = [effect.value.status for effect in effects if isinstance(effect, do.StoreStep)]
        assert counts or set(stored) <= {StepStatus.PENDING}, (
            "others wait longer, no more than that"
        )
        self.carry_out(given, effects)
        self.said.append(given)

    def backlog(self) -> dict[str, Requirement]:
        """What waits for workers, and for what."""
        backlog = self.core.state.placement.backlog
        return {step_run: backlog.requirement_of(step_run) for step_run in backlog.in_turn()}

    def check_turns(self, effects: list[Effect], waited: dict[str, Requirement]) -> None:
        """Of those that waited, and do so still, none could have had the slot that one whose turn
        is after its own has got. (Who is patient may wait for the label that this one brings.)"""
        state = self.core.state
        waited = {each: waited[each] for each in waited.keys() - state.patient.keys()}
        still = [each for each in self.backlog().items() if each in waited.items()]
        for effect in effects:
            if not isinstance(effect, do.Assign) or effect.worker not in state.workers:
                continue
            if effect.assignment.run_id in state.runs:  # else it ended since
                turn = self.turn_of_step(effect.assignment.attempt.rpartition("/")[0])
                for step_run, requirement in still:
                    if self.takes(effect.worker, requirement):
                        assert turn <= self.turn_of_step(step_run), step_run

    def takes(self, worker: str, requirement: Requirement) -> bool:
        """Whether the worker is eligible; a paused one takes what is pinned to it only."""
        placement = self.core.state.placement
        eligible = placement.score(worker, requirement) != INELIGIBLE
        return eligible and placement.is_open_to(worker, requirement)

    def turn_of_step(self, step_run: str) -> int:
        run_id, _, name = step_run.partition("/")
        run = self.core.state.runs[run_id]
        since = run.steps[name].pending_since or 0
        return self.core.state.turn(run.header.priority, since)

    def is_of_its_worker(self, fact: StepStarted) -> bool:
        return any(
            f"{run.id}/{name}/{step.attempt}" == fact.attempt and step.worker == fact.worker
            for run in self.core.state.runs.values()
            for name, step in run.steps.items()
        )

    def carry_out(self, cause: Fact | Snapshot, effects: list[Effect]) -> None:
        self.history.append((cause, self.now, deepcopy(effects)))
        late = getattr(cause, "ended", None) is not None
        if isinstance(cause, Snapshot):
            self.limited = {}  # they wait anew
        self.stored.apply(effects)
        self.ledger.follow(cause, self.now, effects, self.core)
        for effect in effects:
            match effect:
                case do.Assign(worker, assignment):
                    attempt = assignment.attempt
                    if attempt not in {each for *_, each in self.sent}:
                        self.give_units(assignment.run_id, assignment.step)
                    self.check_assigned(worker, attempt)
                    self.sent.append((worker, assignment.incarnation, attempt))
                case do.EndRun(run_id, header):
                    assert run_id not in self.ended
                    output, error = header.output or {}, header.error
                    self.ended[run_id] = RunResult(
                        header.workflow, run_id, header.status, output, error
                    )
                    assert header.finished_at == self.now
                case do.Note("tick", fields):
                    assert fields["run"] not in self.ticked
                    self.ticked.add(fields["run"])
                case do.Reply(where, result) if not late:
                    self.answered[result.run_id or "", where.reply_to] += 1
        self.forget_dead_letters(effects)
        self.limited = dict(self.core.state.limited)

    def give_units(self, run_id: str, name: str) -> None:
        """None of those that wait for these limits, before and after, has its turn before it."""
        state = self.core.state
        units = self.ledger.step_of(run_id, name).rate_limits
        for key, number in units.items():
            self.units_given.setdefault(key, []).extend([self.now] * number)
        for step_run in self.limited.items() & state.limited.items():
            if step_run[1][0] in units:
                assert self.turn_in_limits(f"{run_id}/{name}") <= self.turn_in_limits(step_run[0])

    def turn_in_limits(self, step_run: str) -> int:
        run_id, _, name = step_run.partition("/")
        since = self.ledger.steps[run_id][name].pending_since or self.now
        return self.core.state.turn(self.ledger.headers[run_id].priority, since)

    def forget_dead_letters(self, effects: list[Effect]) -> None:
        """A held trigger that was buried is answered and gone; it may be asked for anew."""
        if any(isinstance(effect, do.Bury) for effect in effects):
            for effect in effects:
                if isinstance(effect, do.Unhold):
                    self.ticked.discard(effect.run_id)
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

"""What always holds, whatever has happened to the core."""

from collections import Counter
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from ganger_broker.definitions import Concurrency, ConcurrencyStrategy, StickyStrategy
from ganger_broker.messages import RunStatus
from ganger_dispatcher.core import Core
from ganger_dispatcher.core.pools import loads
from ganger_dispatcher.core.rates import next_waiting
from ganger_dispatcher.core.records import Run, Worker
from ganger_dispatcher.core.schedules import tick_run_id
from ganger_dispatcher.core.states import TERMINAL, StepStatus
from ganger_dispatcher.placement.expected import expected_key

from .machine_dags import FAILURE_STEP
from .machine_flows import API
from .machine_ledger import Ledger
from .stored import Stored


class Invariants(RuleBasedStateMachine):
    """Checked after every rule of the state machine."""

    core: Core
    stored: Stored
    now: int
    newest: dict[tuple[str, str], int]
    placed_limited: list[int]
    ticked: set[str]
    asked: dict[str, set[str]]
    answered: Counter[tuple[str, str]]
    ended: dict[str, Any]
    going: set[str]
    ledger: Ledger
    families: set[tuple[str, str]]
    """Of a run and one that came with it as its parent while it went on."""

    def attempts(self, status: StepStatus) -> list[str]:
        return [
            f"{run.id}/{name}/{step.attempt}"
            for run in self.core.state.runs.values()
            for name, step in run.steps.items()
            if step.status is status
        ]

    def pending(self) -> list[str]:
        return [
            f"{run.id}/{name}"
            for run in self.core.state.runs.values()
            for name, step in run.steps.items()
            if step.status is StepStatus.PENDING
        ]

    @invariant()
    def no_slot_is_oversold(self) -> None:
        state = self.core.state
        fleet = state.placement.fleet
        assert set(fleet.row_of) == set(state.workers)
        for worker in state.workers.values():
            row = fleet.row_of[worker.id]
            assert fleet.used[row] == worker.used >= 0
            assert worker.slots == fleet.slots[row]
            assert worker.waits.keys() <= worker.attempts.keys()
            assert worker.coming.keys() <= worker.attempts.keys()
            assert fleet.labels[row] == self.labels_to_match(worker)
            assert fleet.is_open(row) == worker.is_open

    def labels_to_match(self, worker: Worker) -> dict[str, Any]:
        """A worker's labels, and under a key of its own what is expected of one that is set."""
        coming = [label for labels in worker.coming.values() for label in labels.items()]
        expected = {**worker.labels, **dict(coming)}
        keys = self.core.state.placement._expected.keys
        return worker.labels | {expected_key(k): expected[k] for k in keys if k in expected}

    @invariant()
    def labels_never_go_back(self) -> None:
        before, self.newest = self.newest, {}
        for worker in self.core.state.workers.values():
            process = (worker.id, worker.incarnation)
            assert worker.label_seq >= before.get(process, 0)
            self.newest[process] = worker.label_seq

    @invariant()
    def no_step_is_lost(self) -> None:
        state = self.core.state
        held: list[str] = []
        for run in state.runs.values():
            assert any(step.status not in TERMINAL for step in run.steps.values())
            for name, step in run.steps.items():
                match step.status:
                    case StepStatus.WAITING:
                        parents = run.definitions[name].parents
                        undone = any(run.steps[p].status not in TERMINAL for p in parents)
                        assert undone or run.header.queued
                    case StepStatus.PENDING:
                        waits = f"{run.id}/{name}"
                        assert (waits in state.limited) == (step.waits_for is not None)
                        assert (waits in state.placement.backlog) == (waits not in state.limited)
                    case StepStatus.ASSIGNED | StepStatus.RUNNING:
                        attempt = f"{run.id}/{name}/{step.attempt}"
                        assert attempt in state.workers[step.worker or ""].attempts
                        held.append(attempt)
                    case StepStatus.BACKOFF:
                        assert step.retry_at is not None
                        assert (self.core.wake_at or 0) <= step.retry_at
                    case _:
                        assert step.status in TERMINAL
        assert len(state.placement.backlog) + len(state.limited) == len(self.pending())
        every = [attempt for worker in state.workers.values() for attempt in worker.attempts]
        assert len(every) == len(set(every))
        assert set(held) <= set(every)

    @invariant()
    def who_is_patient_waits_for_somebody(self) -> None:
        state = self.core.state
        for step_run, requirement in state.patient.items():
            assert step_run in state.placement.backlog
            assert state.placement.anyone(requirement)

    @invariant()
    def a_hard_run_is_on_one_worker(self) -> None:
        for run in self.core.state.runs.values():
            if run.workflow.definition.sticky is StickyStrategy.HARD:
                held = (StepStatus.ASSIGNED, StepStatus.RUNNING)
                workers = {step.worker for step in run.steps.values() if step.status in held}
                assert workers <= {run.header.pinned}
                for name in run.steps:
                    step_run = f"{run.id}/{name}"
                    if run.header.pinned and step_run in self.core.state.placement.backlog:
                        assert self.asks_for(step_run) == run.header.pinned

    def asks_for(self, step_run: str) -> str | None:
        """The one worker that a pending step waits for."""
        return self.core.state.placement.backlog.requirement_of(step_run).worker

    @invariant()
    def no_pending_step_could_be_placed(self) -> None:
        placement = self.core.state.placement
        for worker in self.core.state.workers:
            assert placement.next_for(worker) is None

    @invariant()
    def what_waits_for_a_pool_is_counted(self) -> None:
        state = self.core.state
        pooled = [f"{run.id}/s" for run in state.runs.values() if run.header.workflow == "pooled"]
        waiting = [step_run for step_run in pooled if step_run in state.placement.backlog]
        assert state.placement.backlog.pools == ({"p": len(waiting)} if waiting else {})
        assert state.pools_watched or not waiting
        assert not state.pools_watched or (self.core.wake_at or 0) <= self.now + 1_000

    @invariant()
    def the_next_tick_is_waited_for(self) -> None:
        for schedule in self.core.state.schedules.values():
            assert (self.core.wake_at or 0) <= max(schedule.next_at, self.now + 1)

    @invariant()
    def a_tick_has_one_run(self) -> None:
        headers = self.stored.headers
        assert self.ticked == {run for run in headers if "schedule" in headers[run].metadata}
        for schedule in self.core.state.schedules.values():
            if schedule.last_at is not None:
                assert tick_run_id(schedule.schedule_id, schedule.last_at) in self.ticked

    @invariant()
    def no_window_has_more_than_its_limit(self) -> None:
        window = self.now - 20_000
        placed = [at for at in self.placed_limited if at > window]
        assert len(placed) <= API.limit
        for key in self.core.state.rates:
            first = next_waiting(self.core.state, key)
            assert first is None or (self.core.wake_at or 0) <= self.now + 21_000

    @invariant()
    def no_more_runs_go_on_than_may(self) -> None:
        """None goes on beyond the limit of now, but for those that did under another one."""
        state = self.core.state
        before, self.going = self.going, {r.id for r in state.runs.values() if not r.header.queued}
        for run_id in self.going - before:
            for rule, peers in self.limits_of(state.runs[run_id]):
                assert len([peer for peer in peers if not peer.header.queued]) <= rule.limit
                for peer in peers if rule.strategy is ConcurrencyStrategy.QUEUE else ():
                    assert not peer.header.queued or self.turn_of(run_id) <= self.turn_of(peer.id)
        queued = [run for run in state.runs.values() if run.header.queued]
        for run in queued:
            full = [
                len([peer for peer in peers if not peer.header.queued]) >= rule.limit
                for rule, peers in self.limits_of(run)
                if rule.strategy is ConcurrencyStrategy.QUEUE
            ]
            assert any(full)

    def limits_of(self, run: Run) -> list[tuple[Concurrency, list[Run]]]:
        """The newest limits that are the run's as well, and the live runs that they count."""
        state = self.core.state
        newest = state.workflows[run.header.workflow].definition.concurrency
        own = [rule.key for rule in run.workflow.definition.concurrency]
        alike = [
            each for each in state.runs.values() if each.header.workflow == run.header.workflow
        ]
        return [
            (rule, [p for p in alike if rule.key is None or p.header.input == run.header.input])
            for rule in newest
            if rule.key in own
        ]

    def turn_of(self, run_id: str) -> int:
        header = self.core.state.runs[run_id].header
        return self.core.state.turn(header.priority, header.created_at)

    @invariant()
    def a_run_is_live_held_or_ended(self) -> None:
        state = self.core.state
        for run in self.asked:
            places = [run in state.runs, run in state.held, run in self.ended]
            assert places.count(True) == 1
        for run, addresses in self.asked.items():
            for reply in addresses:
                assert self.answered[run, reply] == (run in self.ended)

    @invariant()
    def no_child_outlives_a_parent_that_did_not_succeed(self) -> None:
        state = self.core.state
        for parent, child in self.families:
            ended = self.ended.get(parent)
            if ended is not None and ended.status is not RunStatus.SUCCEEDED:
                trigger = self.ledger.triggers.get(child)
                step = (trigger.parent or "").partition("/")[2] if trigger is not None else ""
                of_failure_step = step == FAILURE_STEP and step in ended.output
                assert of_failure_step or not (child in state.runs or child in state.held)

    @invariant()
    def a_run_knows_the_children_it_has(self) -> None:
        state = self.core.state
        for parent, child in self.families:
            if parent in state.runs and (child in state.runs or child in state.held):
                assert child in state.children[parent]

    @invariant()
    def no_line_is_kept_twice(self) -> None:
        for lines in self.stored.logs.values():
            kept = [(line.attempt, line.seq) for line in lines]
            assert len(set(kept)) == len(kept)

    @invariant()
    def what_is_stored_is_what_is(self) -> None:
        state, stored = self.core.state, self.stored
        assert stored.active == set(state.runs)
        for run in state.runs.values():
            assert stored.headers[run.id] == run.header
            assert stored.steps[run.id] == run.steps
        assert stored.held == state.held
        assert stored.schedules == state.schedules
        assert stored.rates.keys() == state.rates.keys()
        assert stored.pools == loads(state)
        for key, rate in state.rates.items():  # what has left its window is forgotten unstored
            assert rate.used.items() <= stored.rates[key].used.items()
        assert stored.pending.keys() == set(self.pending())
        assert stored.workers.keys() == state.workers.keys()
        for worker in state.workers.values():
            kept = stored.workers[worker.id]
            assert stored.attempts[worker.id] == set(worker.attempts)
            assert (kept["labels"], kept["label_seq"]) == (worker.labels, worker.label_seq)
            assert (kept["given_at"], kept["slots"]) == (worker.given_at, worker.slots)
            assert kept["actions"] == worker.actions

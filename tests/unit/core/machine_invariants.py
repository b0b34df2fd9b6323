"""What always holds, whatever has happened to the core."""

from collections import Counter
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant
from msgspec.structs import replace

from ganger_broker.definitions import Concurrency, ConcurrencyStrategy, StickyStrategy
from ganger_broker.messages import RunStatus
from ganger_dispatcher.core import Core
from ganger_dispatcher.core.pools import loads
from ganger_dispatcher.core.rates import next_waiting
from ganger_dispatcher.core.records import Run, Worker, WorkerState
from ganger_dispatcher.core.schedules import tick_run_id
from ganger_dispatcher.core.states import TERMINAL, StepStatus
from ganger_dispatcher.placement.expected import expected_key

from .machine_dags import FAILURE_STEP
from .machine_flows import LIMITS
from .machine_ledger import Ledger
from .stored import Stored


class Invariants(RuleBasedStateMachine):
    """Checked after every rule of the state machine."""

    core: Core
    stored: Stored
    now: int
    newest: dict[tuple[str, str], int]
    units_given: dict[str, list[int]]
    ticked: set[str]
    asked: dict[str, set[str]]
    answered: Counter[tuple[str, str]]
    ended: dict[str, Any]
    going: set[str]
    waiting: set[str]
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
        waiting = Counter(
            run.pools.get("s") or run.definitions["s"].pool
            for run in state.runs.values()
            if run.header.workflow == "pooled" and f"{run.id}/s" in state.placement.backlog
        )
        assert state.placement.backlog.pools == waiting
        assert state.pools_watched or not waiting
        assert not state.pools_watched or (self.core.wake_at or 0) <= self.now + 1_000

    @invariant()
    def the_next_tick_is_waited_for(self) -> None:
        for schedule in self.core.state.schedules.values():
            assert (self.core.wake_at or 0) <= max(schedule.next_at, self.now + 1)

    @invariant()
    def a_tick_has_one_run(self) -> None:
        metadata = {run: header.metadata for run, header in self.stored.headers.items()}
        metadata |= {run: held.trigger.metadata for run, held in self.core.state.held.items()}
        assert self.ticked == {run for run in metadata if "schedule" in metadata[run]}
        for schedule in self.core.state.schedules.values():
            if schedule.last_at is not None:
                last = replace(schedule, next_at=schedule.last_at)
                assert tick_run_id(last) in self.ticked

    @invariant()
    def no_window_has_more_than_its_limit(self) -> None:
        for limit in LIMITS:
            window = round(limit.per * 1000)
            given = self.units_given.get(limit.key, [])
            assert len([at for at in given if at > self.now - window]) <= limit.limit
            rate = self.core.state.rates.get(limit.key)
            if rate is not None and next_waiting(self.core.state, limit.key) is not None:
                looked_at = rate.looked_at or 0
                assert (self.core.wake_at or 0) <= looked_at <= self.now + window + 1_000

    @invariant()
    def new_runs_begin_with_what_came_last_of_what_somebody_has(self) -> None:
        state = self.core.state
        for name, newest in state.workflows.items():
            had = {
                worker.workflows[name][1]
                for worker in state.workers.values()
                if name in worker.workflows
                and worker.state not in (WorkerState.DRAINING, WorkerState.PAUSED)
            }
            live = [which for which in state.came[name] if which in had]
            assert newest.digest == live[-1] if live else newest.digest in state.came[name]
            assert len(live) == len(had)

    @invariant()
    def no_more_runs_go_on_than_may(self) -> None:
        """None goes on beyond the limit of now, but for those that did under another one; nor
        ahead of one that waited before. (Held triggers begin together, higher priorities first.)"""
        state = self.core.state
        waited, self.waiting = self.waiting, {r.id for r in state.runs.values() if r.header.queued}
        before, self.going = self.going, {r.id for r in state.runs.values() if not r.header.queued}
        for run_id in self.going - before:
            for rule, peers in self.limits_of(state.runs[run_id]):
                assert len([peer for peer in peers if not peer.header.queued]) <= rule.limit
                replaces = rule.strategy is ConcurrencyStrategy.CANCEL_IN_PROGRESS
                assert not replaces or len(peers) <= rule.limit
                for peer in peers if rule.strategy is ConcurrencyStrategy.QUEUE else ():
                    if peer.id in waited & self.waiting and rule in self.rules_of(peer):
                        waits_elsewhere = any(each != rule for each in self.full_ones(peer))
                        assert waits_elsewhere or self.turn_of(run_id) <= self.turn_of(peer.id)
        queued = [run for run in state.runs.values() if run.header.queued]
        assert all(self.full_ones(run) for run in queued)

    def rules_of(self, run: Run) -> list[Concurrency]:
        return [rule for rule, _ in self.limits_of(run)]

    def full_ones(self, run: Run) -> list[Concurrency]:
        """The limits that it has to wait for."""
        return [
            rule
            for rule, peers in self.limits_of(run)
            if rule.strategy is ConcurrencyStrategy.QUEUE
            and len([peer for peer in peers if not peer.header.queued]) >= rule.limit
        ]

    def limits_of(self, run: Run) -> list[tuple[Concurrency, list[Run]]]:
        """The run's limits, as large as they are now, and the live runs that they count."""
        state = self.core.state
        newest = state.workflows[run.header.workflow].definition.concurrency
        limits = []
        for own in run.workflow.definition.concurrency:
            peers = [
                each
                for each in state.runs.values()
                if each.header.workflow == run.header.workflow
                and own.key in [rule.key for rule in each.workflow.definition.concurrency]
                and (own.key is None or each.header.input == run.header.input)
            ]
            of_now = [rule.limit for rule in newest if rule.key == own.key]
            limits.append((replace(own, limit=of_now[0]) if of_now else own, peers))
        return limits

    def turn_of(self, run_id: str) -> int:
        """While it is queued, not before its line was served last."""
        header = self.core.state.runs[run_id].header
        served = [
            line.served_at
            for line in self.core.state.lines.values()
            if header.queued and run_id in [each for *_, each in line.runs]
        ]
        return self.core.state.turn(header.priority, max(header.created_at, *served, 0))

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

"""The core's face: facts in, effects out."""

from collections.abc import Collection

from ganger_broker.messages import (
    Event,
    Heartbeat,
    LabelsChanged,
    StepFinished,
    StepLogged,
    StepRefreshed,
    StepReleased,
    StepReturned,
    StepStarted,
    StepWaits,
    WorkerDraining,
    WorkerKilled,
    WorkerLeft,
    WorkerRegistered,
)

from . import (
    attempts,
    concurrency,
    events,
    kills,
    logs,
    placing,
    pools,
    progress,
    schedules,
    triggers,
    workers,
)
from .coming import expect_again
from .effects import Effect
from .facts import (
    AssignmentImpossible,
    AssignmentReturned,
    BrokerRestored,
    CancelRequested,
    EventPushed,
    MessageDropped,
    MessageRefused,
    ScheduleRequested,
    SchedulesAsked,
    TimePassed,
    TriggerReceived,
    UnscheduleRequested,
)
from .rates import Rate
from .records import Run, Snapshot, WorkerState, step_run_id
from .registering import anticipate
from .state import Policy, State, Timer, TimerFailed
from .states import StepStatus
from .versions import actions_of
from .workflow import Workflow

__all__ = ["Core", "Fact", "TimerFailed"]

_DUE = {
    "pending": progress.schedule_timed_out,
    "patience": placing.patience_is_over,
    "schedule": schedules.due,
    "rate": placing.room,
    "backoff": attempts.backoff_is_over,
    "timeout": attempts.timed_out,
    "held": triggers.hold_is_over,
    "pools": pools.look,
}
"""What is done about a wake-up, by its kind; that of workers is looked at together."""

_LOOK_AGAIN = 1000
"""Milliseconds until a silent worker is looked at again while events are still unread."""

Fact = (
    Event
    | TriggerReceived
    | EventPushed
    | MessageRefused
    | CancelRequested
    | ScheduleRequested
    | UnscheduleRequested
    | SchedulesAsked
    | AssignmentReturned
    | AssignmentImpossible
    | MessageDropped
    | BrokerRestored
    | TimePassed
)


class Core:
    """All scheduling, retry and state logic, as a function of what has happened.

    ``state`` may be read (by ``explain``, by tests); only ``handle`` and ``restore``
    change it. ``skipped``: wake-ups by (kind, name) that it failed on before, to be let be.
    """

    def __init__(
        self, policy: Policy | None = None, skipped: Collection[tuple[str, str]] = ()
    ) -> None:
        self.state = State(policy or Policy())
        self._skipped = skipped

    @property
    def wake_at(self) -> int | None:
        """When to hand in ``TimePassed`` at the latest, ms; None: no need."""
        return self.state.wake_at

    def begin_batch(self) -> None:
        """What was returned so far is stored: the store can be asked for runs that ended."""
        self.state.ended.clear()

    def handle(self, fact: Fact, now: int) -> list[Effect]:
        """What is to be done because of ``fact`` at ``now`` (ms), in order."""
        state = self.state
        late = now - state.wake_at if state.wake_at is not None else 0
        state.now = now
        if late > state.policy.worker_timeout // 2:
            # this process was held up: what the workers said meanwhile is still in the queue
            workers.fresh_deadlines(state)
        state.effects = []
        self._handle(fact)
        while state.orphans or state.vacated:
            triggers.cancel_orphans(state)
            concurrency.admit_waiting(state)
        while state.look_again:
            placing.look_again(state)
        return state.effects

    def _handle(self, fact: Fact) -> None:
        state = self.state
        match fact:
            case TriggerReceived():
                triggers.received(state, fact)
            case EventPushed():
                events.pushed(state, fact)
            case ScheduleRequested():
                schedules.requested(state, fact)
            case UnscheduleRequested():
                schedules.unschedule_requested(state, fact)
            case SchedulesAsked():
                schedules.asked(state, fact)
            case MessageRefused():
                triggers.refused(state, fact)
            case CancelRequested():
                triggers.cancel_requested(state, fact)
            case AssignmentReturned():
                workers.returned(state, fact)
            case AssignmentImpossible():
                attempts.impossible(state, fact)
            case MessageDropped():
                triggers.dropped(state, fact)
            case TimePassed():
                self._time_passed(fact)
            case BrokerRestored():
                workers.fresh_deadlines(state)
            case WorkerRegistered():
                workers.registered(state, fact)
            case _:
                self._worker_event(fact)

    def _worker_event(self, event: Event) -> None:
        state = self.state
        worker = workers.heard(state, event)
        if worker is None:
            return
        match event:
            case StepStarted():
                attempts.started(state, event)
            case StepFinished():
                attempts.finished(state, event, worker)
            case StepReleased():
                attempts.released(state, event, worker)
            case StepReturned(attempt=attempt):
                fact = AssignmentReturned(worker.id, attempt, no_queue=False)
                workers.returned(state, fact)
            case StepWaits():
                placing.waits(state, event, worker)
            case StepRefreshed():
                attempts.refreshed(state, event)
            case StepLogged():
                logs.logged(state, event)
            case LabelsChanged():
                workers.labels_changed(state, event, worker)
            case Heartbeat():
                workers.heartbeat(state, event, worker)
            case WorkerDraining():
                workers.draining(state, event, worker)
            case WorkerLeft():
                workers.left(state, event, worker)
            case WorkerKilled():
                kills.killed(state, event, worker)

    def _time_passed(self, fact: TimePassed) -> None:
        state = self.state
        due = list(state.due())
        if not fact.caught_up:
            # the workers' word may be among what is still to be read
            for timer in due:
                if timer.kind in ("worker", "timeout"):
                    state.wake(state.now + _LOOK_AGAIN, timer.kind, timer.name)
            due = [timer for timer in due if timer.kind not in ("worker", "timeout")]
        # those that are lost go before anything is given to them
        due = [timer for timer in due if not self._is_skipped(timer)]
        workers.silence(state, [timer.name for timer in due if timer.kind == "worker"])
        for timer in due:
            if timer.kind != "worker":
                try:
                    _DUE[timer.kind](state, timer.name)
                except Exception as exc:
                    raise TimerFailed(timer.kind, timer.name) from exc

    def _is_skipped(self, timer: Timer) -> bool:
        return (timer.kind, timer.name) in self._skipped

    def restore(self, snapshot: Snapshot, now: int) -> list[Effect]:
        """Begin from what the leader before left in Redis; what is to be done or done again."""
        state = self.state
        state.now = now
        state.effects = []
        state.seen.update(snapshot.definitions)
        for definition in snapshot.workflows:
            state.workflows[definition.name] = Workflow(definition)
            anticipate(state, definition)
        for worker in sorted(snapshot.workers, key=lambda w: (w.given_at, w.registered_at, w.id)):
            worker.heartbeat_at = now
            worker.attempts = dict.fromkeys(worker.attempts, now)
            if worker.state is WorkerState.UNREACHABLE:
                worker.state = WorkerState.READY
            state.workers[worker.id] = worker
            state.versions.add(worker)
            state.placement.join(
                worker.id,
                worker.labels,
                actions_of(worker),
                worker.slots,
                worker.used,
                is_open=worker.is_open,
            )
            if worker.coming:
                expect_again(state, worker)
            workers.watch(state, worker)
            pools.noticed(state, worker.labels)
        pools.restore(state, snapshot.pools)
        state.unheard.update(state.workers)
        for use in snapshot.rates:
            state.rates[use.limit.key] = Rate(use.limit, use.used)
        for schedule in snapshot.schedules:
            schedules.watch(state, schedule)
        self._restore_runs(snapshot, now)
        for held in snapshot.held:
            state.held[held.run_id] = held
            state.wake(held.until, "held", held.run_id)
            triggers.join_family(state, held.run_id, held.trigger.parent)
        while state.look_again:
            placing.look_again(state)
        return state.effects

    def _restore_runs(self, snapshot: Snapshot, now: int) -> None:
        state = self.state
        pending = []
        began_with = {
            name: Workflow(definition) for name, definition in snapshot.definitions.items()
        }
        runs = sorted(snapshot.runs, key=lambda run: (run[1].created_at, run[0]))
        for run_id, header, step_runs in runs:
            run = Run(run_id, header, began_with[header.definition], step_runs)
            state.runs[run_id] = run
            concurrency.enter_again(state, run)
            for name, step in step_runs.items():
                if step.status is StepStatus.PENDING:
                    turn = state.turn(header.priority, step.pending_since or 0)
                    pending.append((turn, run_id, name))
                elif step.status is StepStatus.BACKOFF:
                    state.wake(step.retry_at or now, "backoff", step_run_id(run_id, name))
                elif step.status in (StepStatus.ASSIGNED, StepStatus.RUNNING):
                    attempts.resend(state, run, name)
                    attempts.watch(state, run, name)
        for run in state.runs.values():
            triggers.join_family(state, run.id, run.header.parent)
        for *_, run_id, name in sorted(pending):
            placing.place_again(state, state.runs[run_id], name)
        state.vacated.update(dict.fromkeys(state.groups))
        concurrency.admit_waiting(state)

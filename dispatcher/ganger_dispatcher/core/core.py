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
    WorkerPaused,
    WorkerRegistered,
    WorkerResumed,
)
from ganger_broker.to_worker import RegisterAgain

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
from .effects import Effect, Tell
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
from .outages import all_are_heard, hold_longer, nobody_was_heard, without
from .rates import Rate
from .records import Run, Snapshot, Worker, WorkerState, step_run_id
from .registering import anticipate, choose_newest, has_lost_some
from .state import Policy, State, Timer, TimerFailed, to_blame
from .states import StepStatus
from .versions import take_in
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

_FOR_WANT_OF_WORD = {
    "worker": workers.is_silent,
    "timeout": attempts.is_over_time,
    "pending": progress.is_overdue,
    "patience": placing.is_patient,
    "held": triggers.is_held_too_long,
}
"""Wake-ups that are for nothing once a worker has said something, and whether they still mean
anything: nothing is done about them before all that was said until they were due has been read."""

_WAITING = ("pending", "patience", "held")
"""Those for which time stands still while workers cannot be heard."""

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

    @property
    def to_read(self) -> int | None:
        """Up to when, ms, the workers' words have to be read for ``TimePassed`` to mean more."""
        state = self.state
        dues = [timer.due for timer in state.unread]
        if state.to_read is not None:
            dues.append(state.to_read)
        return min(dues, default=None)

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
            nobody_was_heard(state, now - late)
        state.effects = []
        self._handle(fact)
        if state.deaf_since is not None and not state.unheard:
            all_are_heard(state)
        while state.orphans or state.vacated:
            triggers.cancel_orphans(state)
            concurrency.admit_waiting(state)
        placing.fill(state)
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
            case BrokerRestored(since=since):
                nobody_was_heard(state, since)
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
            case WorkerPaused():
                workers.paused(state, event, worker)
            case WorkerResumed():
                workers.resumed(state, event, worker)
            case WorkerLeft():
                workers.left(state, event, worker)
            case WorkerKilled():
                kills.killed(state, event, worker)

    def _time_passed(self, fact: TimePassed) -> None:
        state = self.state
        state.read_to = fact.read_to
        if state.to_read is not None and (fact.read_to is None or state.to_read <= fact.read_to):
            state.to_read = None
        before, state.unread = state.unread, []
        due = []
        for timer in (*before, *state.due()):
            with to_blame(timer.kind, timer.name):
                if self._counts(timer, fact.read_to):
                    due.append(timer)
        # those that are lost go before anything is given to them
        workers.silence(state, [timer.name for timer in due if timer.kind == "worker"])
        for timer in due:
            with to_blame(timer.kind, timer.name):
                if timer.kind != "worker" and self._means_something(timer):
                    _DUE[timer.kind](state, timer.name)

    def _counts(self, timer: Timer, read_to: int | None) -> bool:
        """Whether something is to be done about it now; if not yet, it is kept."""
        if (timer.kind, timer.name) in self._skipped or not self._means_something(timer):
            return False
        if timer.kind not in _FOR_WANT_OF_WORD:
            return True
        if timer.kind in _WAITING and self.state.deaf_since is not None:
            self.state.stand_still.append(timer)
            return False
        if read_to is not None and read_to < timer.due:
            self.state.unread.append(timer)
            return False
        return True

    def _means_something(self, timer: Timer) -> bool:
        means_something = _FOR_WANT_OF_WORD.get(timer.kind)
        return means_something is None or means_something(self.state, timer.name)

    def restore(self, snapshot: Snapshot, now: int) -> list[Effect]:
        """Begin from what the leader before left in Redis; what is to be done or done again."""
        state = self.state
        state.now = now
        state.read_to = 0
        state.effects = []
        began_with = _workflows(state, snapshot)
        # not all may have been heard again since an outage that a leader before knew of
        heard_at = min((worker.heartbeat_at for worker in snapshot.workers), default=now)
        for worker in sorted(snapshot.workers, key=lambda w: (w.given_at, w.registered_at, w.id)):
            self._restore_worker(worker)
        pools.restore(state, snapshot.pools)
        if state.workers:
            nobody_was_heard(state, now)
        for use in snapshot.rates:
            state.rates[use.limit.key] = Rate(use.limit, use.used)
        for schedule in snapshot.schedules:
            schedules.watch(state, schedule)
        choose_newest(state, [*state.workflows])
        self._restore_runs(snapshot, began_with, heard_at)
        for held in snapshot.held:
            hold_longer(state, held, heard_at)
            triggers.join_family(state, held.run_id, held.trigger.parent)
        placing.fill(state)
        return state.effects

    def _restore_worker(self, worker: Worker) -> None:
        """It is taken for one that is there, from now on, and has what it had."""
        state = self.state
        worker.attempts = dict.fromkeys(worker.attempts, state.now)
        if worker.state is WorkerState.UNREACHABLE:
            worker.state = WorkerState.READY
        state.workers[worker.id] = worker
        state.versions.add(worker)
        take_in(state.placement, worker)
        if worker.coming:
            expect_again(state, worker)
        worker.heartbeat_at = state.now
        workers.watch(state, worker)
        pools.noticed(state, worker.labels)
        if has_lost_some(state, worker):
            state.emit(Tell(worker.id, RegisterAgain()))

    def _restore_runs(
        self, snapshot: Snapshot, began_with: dict[str, Workflow], heard_at: int
    ) -> None:
        """``heard_at``: since then nobody was heard, ms."""
        state = self.state
        pending = []
        runs = sorted(snapshot.runs, key=lambda run: (run[1].created_at, run[0]))
        for run_id, header, step_runs in runs:
            run = Run(run_id, header, began_with[header.definition], step_runs)
            state.runs[run_id] = run
            concurrency.enter_again(state, run)
            for name, step in list(step_runs.items()):
                if step.status is StepStatus.PENDING:
                    step_runs[name] = without(step, heard_at, state.now)
                    turn = state.turn(header.priority, step.pending_since or 0)
                    pending.append((turn, run_id, name))
                elif step.status is StepStatus.BACKOFF:
                    state.wake(step.retry_at or state.now, "backoff", step_run_id(run_id, name))
                elif step.status in (StepStatus.ASSIGNED, StepStatus.RUNNING):
                    attempts.resend(state, run, name)
                    attempts.watch(state, run, name)
        for run in state.runs.values():
            triggers.join_family(state, run.id, run.header.parent)
        for *_, run_id, name in sorted(pending):
            placing.place_again(state, state.runs[run_id], name)
        state.vacated.update(dict.fromkeys(state.groups))
        concurrency.admit_waiting(state)


def _workflows(state: State, snapshot: Snapshot) -> dict[str, Workflow]:
    """Know the definitions that there are; all of them by digest."""
    by_digest = {which: Workflow(each) for which, each in snapshot.definitions.items()}
    for definition in snapshot.workflows:
        newest = Workflow(definition)
        state.workflows[definition.name] = newest
        came = [which for which in snapshot.came.get(definition.name, ()) if which in by_digest]
        state.came[definition.name] = {which: by_digest[which] for which in came}
        state.came[definition.name].setdefault(newest.digest, newest)
        anticipate(state, definition)
    return by_digest

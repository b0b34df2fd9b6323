"""What workers say of themselves, and their silence."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy

from ganger_broker.messages import (
    CancelAttempt,
    Event,
    Heartbeat,
    LabelsChanged,
    Refused,
    RegisterAgain,
    WorkerDraining,
    WorkerKilled,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_broker.pool_labels import pool_of_worker

from .attempts import attempt_lost, attempt_returned, is_current, is_started
from .coming import arrived
from .effects import (
    Beat,
    Count,
    DeleteQueue,
    DropWorker,
    Note,
    StoreLabels,
    StoreLoad,
    StoreWorker,
    Tell,
)
from .facts import AssignmentReturned
from .placing import (
    hold,
    look_again,
    match,
    release,
    repin,
    tell_apart,
)
from .pools import noticed
from .records import Worker, WorkerState
from .registering import bad_definition, register_limits, register_workflows, retire
from .state import State, TimerFailed
from .triggers import workflow_registered
from .versions import actions_of, versions_of

__all__ = [
    "draining",
    "forget",
    "fresh_deadlines",
    "heard",
    "heartbeat",
    "labels_changed",
    "left",
    "registered",
    "returned",
    "silence",
    "watch",
]


_PAST = 4
"""Replaced incarnations remembered of a worker."""


def heard(state: State, event: Event) -> Worker | None:
    """The worker that speaks, its deadline put off; None where the event is not to count."""
    worker = state.workers.get(event.worker)
    if worker is None:
        if not isinstance(event, WorkerLeft | WorkerKilled):
            state.emit(Tell(event.worker, RegisterAgain()))
        return None
    if worker.incarnation != event.incarnation:
        return None  # the process before this one; it is gone
    worker.heartbeat_at = state.now
    state.unheard.discard(worker.id)
    if isinstance(event, Heartbeat):
        worker.memory_mb, worker.cpus = event.memory_mb, event.cpus
        state.emit(Beat(worker.id, state.now, event.memory_mb, event.cpus))
    else:
        state.emit(Beat(worker.id, state.now))
    if worker.state is WorkerState.UNREACHABLE and not isinstance(event, WorkerKilled):
        state.emit(Tell(worker.id, RegisterAgain()))  # it may have a queue again
    return worker


def registered(state: State, event: WorkerRegistered) -> None:
    """A worker has come, or speaks again."""
    known = state.workers.get(event.worker)
    if known is not None and event.incarnation in known.past:
        return  # delivered again: to believe it would take the steps from the process of now
    conflict = state.versions.conflict(event) or bad_definition(state, event)
    if conflict is not None:
        state.emit(Tell(event.worker, Refused(conflict, for_good=True)))
        state.emit(Note("worker_refused", {"worker": event.worker, "reason": conflict}))
        return
    if known is not None and known.incarnation == event.incarnation:
        worker, lost = _renewed(state, known, event), []
    else:
        lost = forget(state, known) if known is not None else []
        past = [*known.past, known.incarnation][-_PAST:] if known is not None else []
        worker = _joined(state, event, past)
    state.unheard.discard(worker.id)
    several = state.versions.add(worker)
    state.emit(StoreWorker(deepcopy(worker)))
    for attempt in event.attempts:
        if attempt not in worker.attempts:
            hold(state, worker, attempt)
            state.emit(Tell(worker.id, CancelAttempt(attempt, "it was given to another worker")))
    register_limits(state, event)
    fresh = register_workflows(state, event)
    if several:
        tell_apart(state, several)
    match(state, worker)
    for attempt in lost:
        attempt_lost(state, attempt)
    for name in fresh:
        workflow_registered(state, name)
    look_again(state)


def _joined(state: State, event: WorkerRegistered, past: list[str]) -> Worker:
    worker = Worker(
        id=event.worker,
        incarnation=event.incarnation,
        name=event.name,
        slots=event.slots,
        labels=dict(event.labels),
        label_seq=event.label_seq,
        actions=_actions(event),
        registered_at=state.now,
        heartbeat_at=state.now,
        state=WorkerState.DRAINING if event.draining else WorkerState.READY,
        host=event.host,
        pid=event.pid,
        version=event.version,
        past=past,
        workflows=versions_of(event),
    )
    state.workers[worker.id] = worker
    state.placement.join(
        worker.id, worker.labels, actions_of(worker), worker.slots, is_open=worker.is_open
    )
    watch(state, worker)
    noticed(state, worker.labels)
    state.emit(
        Count("workers_registered"),
        Note("worker_joined", {"worker": worker.id, "labels": worker.labels}),
    )
    return worker


def _renewed(state: State, worker: Worker, event: WorkerRegistered) -> Worker:
    """The same incarnation again: after a lost connection, or because it was told to."""
    worker.heartbeat_at = worker.registered_at = state.now
    state.versions.drop(worker)
    worker.state = WorkerState.DRAINING if event.draining else WorkerState.READY
    worker.actions, worker.workflows = _actions(event), versions_of(event)
    changed = dict(event.labels.items() - worker.labels.items())
    if event.label_seq >= worker.label_seq:
        worker.labels, worker.label_seq = dict(event.labels), event.label_seq
    state.placement.rejoin(worker.id, worker.labels, actions_of(worker), is_open=worker.is_open)
    arrived(state, worker, changed)
    noticed(state, worker.labels)
    return worker


def _actions(event: WorkerRegistered) -> list[str]:
    pool = pool_of_worker(event.labels)
    return sorted(action for flow in event.workflows for action in flow.actions_on(pool))


def heartbeat(state: State, event: Heartbeat, worker: Worker) -> None:
    """Compare what the worker holds with what it should: both sides may have lost a message."""
    mentioned = dict.fromkeys(event.attempts)
    overdue = state.now - state.policy.pickup_deadline
    gone = [a for a, given in worker.attempts.items() if a not in mentioned and given < overdue]
    for attempt in gone:
        release(state, worker, attempt)
    for attempt in mentioned:
        if attempt not in worker.attempts:
            hold(state, worker, attempt)
        if not is_current(state, attempt):
            state.emit(Tell(worker.id, CancelAttempt(attempt, "it does not count any more")))
    if gone:
        match(state, worker)
        for attempt in gone:
            attempt_lost(state, attempt)


def labels_changed(state: State, event: LabelsChanged, worker: Worker) -> None:
    """All keys of one change at once; only newer changes count."""
    if event.seq <= worker.label_seq:
        return
    worker.label_seq = event.seq
    delete = tuple(key for key in event.delete if key not in event.upsert)
    for key in delete:
        worker.labels.pop(key, None)
    worker.labels.update(event.upsert)
    state.placement.change_labels(worker.id, event.upsert, delete)
    noticed(state, event.upsert)
    state.emit(
        StoreLabels(worker.id, event.seq, event.upsert, delete),
        Count("label_changes"),
        Note("labels", {"worker": worker.id, "upsert": event.upsert, "delete": delete}),
    )
    arrived(state, worker, event.upsert)
    match(state, worker)
    look_again(state)


def draining(state: State, _: WorkerDraining, worker: Worker) -> None:
    """The worker takes no more."""
    _close(state, worker, WorkerState.DRAINING)


def _close(state: State, worker: Worker, to: WorkerState) -> None:
    worker.state = to
    if to is WorkerState.DRAINING:
        state.versions.drop(worker)  # it makes way for those that come
        retire(state, worker)
    state.placement.set_open(worker.id, False)
    state.emit(
        StoreLoad(worker.id, worker.used, worker.state, worker.given_at),
        Note(f"worker_{to}", {"worker": worker.id}),
    )
    look_again(state)


def left(state: State, _: WorkerLeft, worker: Worker) -> None:
    """The worker has ended; what it had still is for others, and is no loss that counts."""
    attempts = forget(state, worker)
    retire(state, worker)
    state.emit(DeleteQueue(worker.id), Note("worker_left", {"worker": worker.id}))
    for attempt in attempts:
        attempt_lost(state, attempt, counts=False)
    repin(state, worker.id)
    look_again(state)


def watch(state: State, worker: Worker) -> None:
    """Look at the worker when it has been silent for too long. One timer an incarnation, or
    a worker that restarts often would be looked at ever more often."""
    due = worker.heartbeat_at + state.policy.worker_timeout
    state.wake(due, "worker", f"{worker.id}/{worker.incarnation}")


def silence(state: State, names: Iterable[str]) -> None:
    """Deadlines of these workers were due: they are lost, but for those heard since.

    All of them go before the first attempt is given anew, or it would go round those that
    died with its worker, and be given up after a few of them.
    """
    lost = {name: worker for name in names if (worker := _remove_silent(state, name)) is not None}
    for name, worker in lost.items():
        with _to_blame(name):
            for attempt in worker.attempts:
                attempt_lost(state, attempt)
    for name, worker in lost.items():
        with _to_blame(name):
            repin(state, worker.id)
    look_again(state)


@contextmanager
def _to_blame(name: str) -> Iterator[None]:
    """A defect that shows at one worker's loss is that wake-up's, and costs no other's."""
    try:
        yield
    except Exception as exc:
        raise TimerFailed("worker", name) from exc


def _remove_silent(state: State, name: str) -> Worker | None:
    worker_id, _, incarnation = name.partition("/")
    worker = state.workers.get(worker_id)
    if worker is None or worker.incarnation != incarnation:
        return None
    if worker.heartbeat_at + state.policy.worker_timeout > state.now:
        watch(state, worker)
        return None
    attempts = forget(state, worker)
    state.emit(
        DeleteQueue(worker_id),
        Count("workers_lost"),
        Note("worker_lost", {"worker": worker_id, "attempts": sorted(attempts)}),
    )
    return worker


def fresh_deadlines(state: State) -> None:
    """Nobody could be heard lately: silence until now says nothing about the workers."""
    for worker in state.workers.values():
        worker.heartbeat_at = state.now
    state.unheard.update(state.workers)


def forget(state: State, worker: Worker) -> list[str]:
    """The worker is gone; the attempts it held, for which something is still to be done."""
    del state.workers[worker.id]
    state.unheard.discard(worker.id)
    state.versions.drop(worker)
    state.placement.leave(worker.id)
    state.emit(DropWorker(worker.id))
    return list(worker.attempts)


def returned(state: State, fact: AssignmentReturned) -> None:
    """An assignment came back. Without a queue the worker gets no more until it registers anew."""
    worker = state.workers.get(fact.worker)
    if is_started(state, fact.attempt):
        return  # a copy, sent again at a take-over: the worker has the first one
    if worker is not None and fact.attempt in worker.attempts:
        given = worker.attempts[fact.attempt]
        release(state, worker, fact.attempt)
        if fact.no_queue and worker.is_open and given >= worker.registered_at:
            _close(state, worker, WorkerState.UNREACHABLE)
        else:
            match(state, worker)
    attempt_returned(state, fact.attempt)

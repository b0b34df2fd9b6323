"""What workers say of themselves, and their silence."""

from collections.abc import Iterable
from copy import deepcopy

from ganger_broker.messages import (
    Event,
    Heartbeat,
    LabelsChanged,
    WorkerDraining,
    WorkerKilled,
    WorkerLeft,
    WorkerPaused,
    WorkerRegistered,
    WorkerResumed,
)
from ganger_broker.pool_labels import pool_of_worker
from ganger_broker.to_worker import CancelAttempt, Refused, RegisterAgain

from .attempts import attempt_lost, attempt_returned, by_priority, is_current, is_started
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
    release,
    repin,
    tell_apart,
)
from .pools import noticed
from .records import Worker, WorkerState
from .registering import (
    bad_definition,
    choose_newest,
    has_lost_some,
    register_limits,
    register_workflows,
)
from .state import State, to_blame
from .triggers import workflow_registered
from .versions import actions_of, versions_of

__all__ = [
    "draining",
    "forget",
    "heard",
    "heartbeat",
    "is_silent",
    "labels_changed",
    "left",
    "paused",
    "registered",
    "resumed",
    "returned",
    "silence",
    "watch",
]


_OF_ITS_KEEPER = (WorkerKilled, WorkerPaused, WorkerResumed)
"""What is said of a worker by who keeps its process."""
_REACHABLE = (WorkerState.READY, WorkerState.PAUSED)
_PAST = 32
"""Replaced incarnations remembered of a worker."""


def heard(state: State, event: Event) -> Worker | None:
    """The worker that speaks, its deadline put off; None where the event is not to count."""
    worker = state.workers.get(event.worker)
    if worker is None:
        if not isinstance(event, (WorkerLeft, *_OF_ITS_KEEPER)):
            state.emit(Tell(event.worker, RegisterAgain()))
        return None
    if worker.incarnation != event.incarnation:
        _replaced(state, event, worker)
        return None
    if isinstance(event, _OF_ITS_KEEPER):
        return worker  # that is no sign of its own
    worker.heartbeat_at = state.now
    state.unheard.discard(worker.id)
    if isinstance(event, Heartbeat):
        worker.memory_mb, worker.cpus = event.memory_mb, event.cpus
        state.emit(Beat(worker.id, state.now, event.memory_mb, event.cpus))
    else:
        state.emit(Beat(worker.id, state.now))
    if worker.state is WorkerState.UNREACHABLE:
        state.emit(Tell(worker.id, RegisterAgain()))  # it may have a queue again
    return worker


def _replaced(state: State, event: Event, worker: Worker) -> None:
    """The process before this one speaks. Most likely it is gone; one that lives must not take
    from the queue what is for this one. (Words sent while it lived are no sign that it does: but
    it is told by its incarnation, and this one does not heed that.)"""
    if isinstance(event, Heartbeat) and event.incarnation in worker.past:
        text = (
            f"worker id {worker.id!r}: another process has registered with it since (host "
            f"{worker.host}, pid {worker.pid}); give each worker an id of its own"
        )
        state.emit(
            Tell(worker.id, Refused(text, for_good=True, incarnation=event.incarnation)),
            Note("worker_twice", {"worker": worker.id, "reason": text}),
        )


def registered(state: State, event: WorkerRegistered) -> None:
    """A worker has come, or speaks again."""
    known = state.workers.get(event.worker)
    if known is not None and event.incarnation in known.past:
        return  # delivered again: to believe it would take the steps from the process of now
    makes_way = event.draining or (known is not None and _is_paused(known, event))
    conflict = None if makes_way else state.versions.conflict(event)
    conflict = conflict or bad_definition(state, event)
    if conflict is not None:
        state.emit(Tell(event.worker, Refused(conflict, for_good=True)))
        state.emit(Note("worker_refused", {"worker": event.worker, "reason": conflict}))
        return
    before = set(known.workflows) if known is not None else set()
    if known is not None and known.incarnation == event.incarnation:
        worker, lost = _renewed(state, known, event), []
    else:
        lost = forget(state, known) if known is not None else []
        past = [*known.past, known.incarnation][-_PAST:] if known is not None else []
        worker = _joined(state, event, past)
    state.unheard.discard(worker.id)
    state.room[worker.id] = None
    several = state.versions.add(worker)
    state.emit(StoreWorker(deepcopy(worker)))
    for attempt in event.attempts:
        if attempt not in worker.attempts:
            hold(state, worker, attempt)
            state.emit(Tell(worker.id, CancelAttempt(attempt, "it was given to another worker")))
    register_limits(state, event)
    fresh = register_workflows(state, event)
    tell_apart(state, several | choose_newest(state, before | set(worker.workflows)))
    for attempt in by_priority(state, lost):
        attempt_lost(state, attempt)
    for name in fresh:
        workflow_registered(state, name)
    look_again(state)


def _is_paused(known: Worker, event: WorkerRegistered) -> bool:
    return known.state is WorkerState.PAUSED and known.incarnation == event.incarnation


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
    if event.draining:
        worker.state = WorkerState.DRAINING
    elif worker.state is not WorkerState.PAUSED:  # that is for who keeps it to say
        worker.state = WorkerState.READY
    worker.actions, worker.workflows = _actions(event), versions_of(event)
    changed = dict(event.labels.items() - worker.labels.items())
    if event.label_seq >= worker.label_seq:
        worker.labels, worker.label_seq = dict(event.labels), event.label_seq
    state.placement.rejoin(worker.id, worker.labels, actions_of(worker), is_open=worker.is_open)
    if worker.state is WorkerState.PAUSED:
        state.placement.pause(worker.id)
    arrived(state, worker, changed)
    noticed(state, worker.labels)
    return worker


def _actions(event: WorkerRegistered) -> list[str]:
    pool = pool_of_worker(event.labels)
    return sorted(action for flow in event.workflows for action in flow.actions_on(pool))


def heartbeat(state: State, event: Heartbeat, worker: Worker) -> None:
    """Compare what the worker holds with what it should: both sides may have lost a message.

    What it does not mention it lacks only if it can have had it when it said so: its word may have
    been on its way for long, and all that is known is that it is younger than what was read before.
    """
    is_draining = worker.state is WorkerState.DRAINING
    if event.label_seq > worker.label_seq or (event.draining and not is_draining):
        state.emit(Tell(worker.id, RegisterAgain()))  # Redis was set back, say
    mentioned = dict.fromkeys(event.attempts)
    gone = []
    for attempt, given in worker.attempts.items():
        due = max(given, state.heard_anew) + state.policy.pickup_deadline
        if attempt in mentioned or due >= state.now:
            continue
        if state.read_to is None or state.read_to > due:
            gone.append(attempt)
        else:
            state.to_read = max(due + 1, state.to_read or 0)
    for attempt in gone:
        release(state, worker, attempt)
    for attempt in mentioned:
        if attempt not in worker.attempts:
            hold(state, worker, attempt)
        if not is_current(state, attempt):
            state.emit(Tell(worker.id, CancelAttempt(attempt, "it does not count any more")))
    for attempt in by_priority(state, gone):
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
    state.room[worker.id] = None
    noticed(state, event.upsert)
    state.emit(
        StoreLabels(worker.id, event.seq, event.upsert, delete),
        Count("label_changes"),
        Note("labels", {"worker": worker.id, "upsert": event.upsert, "delete": delete}),
    )
    arrived(state, worker, event.upsert)
    look_again(state)


def paused(state: State, _: WorkerPaused, worker: Worker) -> None:
    """It is to take no more for now, but what is pinned to it: runs that began there go on."""
    if worker.state is WorkerState.READY:
        _close(state, worker, WorkerState.PAUSED)


def resumed(state: State, _: WorkerResumed, worker: Worker) -> None:
    """It is to take steps again. Where another has come with a different definition of the same
    version it stays paused: that one's runs must not come here."""
    if worker.state is not WorkerState.PAUSED or state.versions.clash(worker):
        return
    if has_lost_some(state, worker):  # till it has registered again
        state.emit(Tell(worker.id, RegisterAgain()))
        return
    worker.state = WorkerState.READY
    several = state.versions.add(worker)
    state.placement.set_open(worker.id, True)
    state.room[worker.id] = None
    state.emit(
        StoreLoad(worker.id, worker.used, worker.state, worker.given_at),
        Note("worker_resumed", {"worker": worker.id}),
    )
    tell_apart(state, several | choose_newest(state, worker.workflows))
    look_again(state)


def draining(state: State, _: WorkerDraining, worker: Worker) -> None:
    """The worker takes no more."""
    _close(state, worker, WorkerState.DRAINING)


def _close(state: State, worker: Worker, to: WorkerState) -> None:
    was_paused, worker.state = worker.state is WorkerState.PAUSED, to
    changed = set()
    if was_paused and to is WorkerState.UNREACHABLE:  # it is ready when it comes back
        changed = state.versions.add(worker) | choose_newest(state, worker.workflows)
    if to in (WorkerState.DRAINING, WorkerState.PAUSED):
        state.versions.drop(worker)  # it makes way for those that come
        changed = choose_newest(state, worker.workflows)
    if to is WorkerState.PAUSED:
        state.placement.pause(worker.id)
    else:
        state.placement.set_open(worker.id, False)
    state.emit(
        StoreLoad(worker.id, worker.used, worker.state, worker.given_at),
        Note(f"worker_{to}", {"worker": worker.id}),
    )
    tell_apart(state, changed)
    repin(state, worker.id)
    look_again(state)


def left(state: State, _: WorkerLeft, worker: Worker) -> None:
    """The worker has ended; what it had still is for others, and is no loss that counts."""
    attempts = forget(state, worker)
    changed = choose_newest(state, worker.workflows)
    state.emit(DeleteQueue(worker.id), Note("worker_left", {"worker": worker.id}))
    for attempt in by_priority(state, attempts):
        attempt_lost(state, attempt, counts=False)
    tell_apart(state, changed)
    repin(state, worker.id)
    look_again(state)


def watch(state: State, worker: Worker) -> None:
    """Look at the worker when it has been silent for too long. One timer an incarnation, or
    a worker that restarts often would be looked at ever more often."""
    due = worker.heartbeat_at + state.policy.worker_timeout
    state.wake(due, "worker", f"{worker.id}/{worker.incarnation}")


def is_silent(state: State, name: str) -> bool:
    """Whether a worker whose deadline was due has not been heard since; one that has has a new
    one."""
    worker_id, _, incarnation = name.partition("/")
    worker = state.workers.get(worker_id)
    if worker is None or worker.incarnation != incarnation:
        return False
    if worker.heartbeat_at + state.policy.worker_timeout <= state.now:
        return True
    watch(state, worker)
    return False


def silence(state: State, names: Iterable[str]) -> None:
    """Deadlines of these workers are over: they are lost.

    All of them go before the first attempt is given anew, or it would go round those that
    died with its worker, and be given up after a few of them.
    """
    lost = {name: _remove(state, name.partition("/")[0]) for name in dict.fromkeys(names)}
    changed = choose_newest(state, {n for worker in lost.values() for n in worker.workflows})
    names_of = {attempt: name for name, worker in lost.items() for attempt in worker.attempts}
    for attempt in by_priority(state, names_of):
        with to_blame("worker", names_of[attempt]):
            attempt_lost(state, attempt)
    for name, worker in lost.items():
        with to_blame("worker", name):
            repin(state, worker.id)
    tell_apart(state, changed)
    look_again(state)


def _remove(state: State, worker_id: str) -> Worker:
    worker = state.workers[worker_id]
    attempts = forget(state, worker)
    state.emit(
        DeleteQueue(worker_id),
        Count("workers_lost"),
        Note("worker_lost", {"worker": worker_id, "attempts": sorted(attempts)}),
    )
    return worker


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
        if fact.no_queue and worker.state in _REACHABLE and given >= worker.registered_at:
            _close(state, worker, WorkerState.UNREACHABLE)
    attempt_returned(state, fact.attempt)

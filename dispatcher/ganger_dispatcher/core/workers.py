"""What workers say of themselves, and their silence."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy

from ganger_broker.crons import check_cron
from ganger_broker.definitions import WorkflowDefinition, check_rates
from ganger_broker.errors import InvalidInput
from ganger_broker.expressions import check_expression, check_sets_labels
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

from .attempts import (
    attempt_lost,
    attempt_returned,
    is_current,
    is_started,
)
from .effects import (
    Beat,
    Count,
    DeleteQueue,
    DropWorker,
    Note,
    StoreLabels,
    StoreLoad,
    StoreRate,
    StoreWorker,
    StoreWorkflow,
    Tell,
)
from .facts import AssignmentReturned
from .inputs import InputSchema, schema_problem
from .placing import hold, look_again, match, place_patient_anew, release, repin, room
from .pools import noticed
from .rates import Rate
from .records import RateUse, Worker, WorkerState
from .schedules import follow_crons
from .state import State, TimerFailed
from .triggers import workflow_registered
from .versions import versions_of
from .workflow import Workflow

__all__ = [
    "anticipate",
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
    conflict = state.versions.conflict(event) or _bad_definition(state, event)
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
    worker.workflows = versions_of(event)
    state.versions.add(worker)
    state.emit(StoreWorker(deepcopy(worker)))
    for attempt in event.attempts:
        if attempt not in worker.attempts:
            hold(state, worker, attempt)
            state.emit(Tell(worker.id, CancelAttempt(attempt, "it was given to another worker")))
    _register_limits(state, event)
    fresh = _register_workflows(state, event)
    match(state, worker)
    for attempt in lost:
        attempt_lost(state, attempt)
    for name in fresh:
        workflow_registered(state, name)
    look_again(state)


def _bad_definition(state: State, event: WorkerRegistered) -> str | None:
    limits = {key: rate.limit for key, rate in state.rates.items()}
    limits |= {limit.key: limit for limit in event.rate_limits}
    for flow in event.workflows:
        place = f"workflow {flow.name!r}"
        schema = flow.input_schema
        problem = schema_problem(schema) if schema is not None else None
        if problem is not None:
            return f"{place}: input_schema: is no JSON Schema: {problem}"
        try:
            for number, cron in enumerate(flow.on_crons):
                check_cron(cron, f"{place}: on_crons[{number}]")
                unfit = schema and InputSchema(schema).problem(cron.input)
                if unfit:
                    return f"{place}: on_crons[{number}]: {unfit}"
            for number, rule in enumerate(flow.concurrency):
                if rule.key is not None:
                    check_expression(rule.key, f"{place}: concurrency[{number}].key")
            for step in flow.every_step():
                check_sets_labels(step.sets_labels, f"{place}: step {step.name!r}: sets_labels")
                check_rates(step, limits, f"{place}: step {step.name!r}: rate_limits")
        except InvalidInput as exc:
            return str(exc)
    return None


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
    )
    state.workers[worker.id] = worker
    state.placement.join(
        worker.id, worker.labels, worker.actions, worker.slots, is_open=worker.is_open
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
    worker.actions = _actions(event)
    if event.label_seq >= worker.label_seq:
        worker.labels, worker.label_seq = dict(event.labels), event.label_seq
    state.placement.rejoin(worker.id, worker.labels, worker.actions, is_open=worker.is_open)
    noticed(state, worker.labels)
    return worker


def _actions(event: WorkerRegistered) -> list[str]:
    pool = pool_of_worker(event.labels)
    return sorted(action for flow in event.workflows for action in flow.actions_on(pool))


def _register_workflows(state: State, event: WorkerRegistered) -> list[str]:
    """Keep definitions that are new or changed; the names that were not known before."""
    fresh = []
    for definition in event.workflows:
        known = state.workflows.get(definition.name)
        if known is None:
            fresh.append(definition.name)
        workflow = Workflow(definition)
        old_news = event.again and workflow.digest in state.seen
        if known is None or (known.definition != definition and not old_news):
            state.workflows[definition.name] = workflow
            state.seen.add(workflow.digest)
            anticipate(state, definition)
            state.emit(StoreWorkflow(definition))
            follow_crons(state, definition)
        elif definition.on_crons and known.definition == definition:
            follow_crons(state, definition)  # one may have been deleted while nobody was there
    return fresh


def anticipate(state: State, definition: WorkflowDefinition) -> None:
    """Preferences count the labels that its steps set from the moment they are assigned."""
    keys = {key for step in definition.every_step() for key in step.sets_labels}
    if keys and state.placement.anticipate(keys):
        place_patient_anew(state)


def _register_limits(state: State, event: WorkerRegistered) -> None:
    """Keep rate limits that are new or changed; there may be more room now."""
    for limit in event.rate_limits:
        rate = state.rates.get(limit.key)
        if rate is None or (rate.limit != limit and not event.again):
            used = rate.used if rate is not None else {}
            waiting = rate.waiting if rate is not None else []
            state.rates[limit.key] = Rate(limit, used)
            state.rates[limit.key].waiting = waiting
            state.emit(StoreRate(RateUse(limit, dict(used))))
            room(state, limit.key)


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
    match(state, worker)
    look_again(state)


def draining(state: State, _: WorkerDraining, worker: Worker) -> None:
    """The worker takes no more."""
    _close(state, worker, WorkerState.DRAINING)


def _close(state: State, worker: Worker, to: WorkerState) -> None:
    worker.state = to
    if to is WorkerState.DRAINING:
        state.versions.drop(worker)  # it makes way for those that come
    state.placement.set_open(worker.id, False)
    state.emit(
        StoreLoad(worker.id, worker.used, worker.state, worker.given_at),
        Note(f"worker_{to}", {"worker": worker.id}),
    )
    look_again(state)


def left(state: State, _: WorkerLeft, worker: Worker) -> None:
    """The worker has ended; what it had still is for others, and is no loss that counts."""
    attempts = forget(state, worker)
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

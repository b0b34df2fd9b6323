"""Pending steps and the workers that get them."""

from msgspec.structs import replace

from ganger_broker.labels import Requirement
from ganger_broker.messages import StepWaits
from ganger_broker.to_worker import Assignment
from ganger_dispatcher.placement.scorer import weights

from . import pools
from .coming import bring, coming_labels, expect
from .effects import (
    AddPending,
    Assign,
    DropPending,
    Note,
    ReleaseAttempt,
    StoreLoad,
    StoreStep,
    StoreWaits,
    TakeAttempt,
)
from .moving import follow_pool
from .patience import plain, stages
from .rates import blocked_by, count_on, has_room, held_back, look_at, next_waiting, take
from .records import Run, StepRun, Worker, attempt_id, step_run_id
from .state import State
from .states import Change, StepStatus, after
from .sticky import LENT_WITHIN, may_repin, pin, preferred, requirement_of, soon_lent, unpin
from .versions import as_defined

__all__ = [
    "assignment",
    "fill",
    "hold",
    "is_patient",
    "is_waiting",
    "leave_backlog",
    "look_again",
    "make_pending",
    "patience_is_over",
    "place_again",
    "place_patient_anew",
    "release",
    "repin",
    "room",
    "tell_apart",
    "waits",
]


def make_pending(
    state: State, run: Run, name: str, step: StepRun, *, change: Change = Change.READY
) -> None:
    status = after(step.status, change)
    if status is None:
        return
    deadline = state.now + round(run.definitions[name].schedule_timeout * 1000)
    since = step.pending_since if change is Change.RETURN else None  # it has not had its turn
    run.steps[name] = replace(
        step,
        status=status,
        worker=None,
        retry_at=None,
        pending_since=since or state.now,
        patient_since=None,
        deadline=deadline,
        assigned_at=None,
        started_at=None,
        timeout_at=None,
    )
    place(state, run, name)


def place(state: State, run: Run, name: str, *, in_turn: str | None = None) -> None:
    """Give a pending step to the best worker, or put it in the backlog.

    While a preference with patience is required, only as long as somebody meets it.
    ``in_turn``: key of a rate limit in which it overtakes nobody who waits for it.
    """
    has_room(state, run, name)
    _after_those_before(state, run, name)
    if may_repin(state, run):
        unpin(state, run)
    may_move = follow_pool(state, run, name)
    full = state.placement.expecting(requirement_of(run, name))
    own = _by_its_definition(state, run, full)
    full = own or full
    prefer = preferred(run, name)
    if prefer is not None and state.placement.can_take(prefer, plain(full)):
        _give(state, run, name, prefer, in_turn=in_turn)
        return
    rather = stages(full)
    if soon_lent(state, run, name, prefer):
        rather = ((LENT_WITHIN, replace(plain(full), worker=prefer)), *rather)
    if rather and held_back(state, run, name, in_turn=in_turn):
        return  # it does not wait for workers meanwhile
    since = run.steps[name].waits_since or state.now
    for lasts, strict in rather:
        if since + lasts > state.waiting_now:
            worker = state.placement.choose(strict, prefer)
            if worker is not None:
                _give(state, run, name, worker, in_turn=in_turn)
                return
            if state.placement.anyone(strict):
                state.patient[step_run_id(run.id, name)] = strict
                state.wake(since + lasts, "patience", step_run_id(run.id, name))
                _add_to_backlog(state, run, name, strict)
                return
    worker = state.placement.choose(plain(full), prefer)
    if worker is not None:
        _give(state, run, name, worker, in_turn=in_turn)
        return
    if own is not None or (may_move and state.placement.anyone(plain(full))):
        state.patient[step_run_id(run.id, name)] = plain(full)
    _add_to_backlog(state, run, name, plain(full))


def _after_those_before(state: State, run: Run, name: str) -> None:
    """Those that waited, and whose turn is before this step's, get the slots that are free now."""
    turn = state.turn(run.header.priority, run.steps[name].pending_since or state.now)
    for worker in list(state.room):
        if worker in state.workers:
            _match(state, state.workers[worker], until=turn)


def fill(state: State) -> None:
    """All that the fact makes pending is so: what room there is goes to those whose turn it is."""
    while state.room or state.look_again:
        room, state.room = state.room, {}
        for worker in room:
            if worker in state.workers:
                _match(state, state.workers[worker])
        if state.look_again:
            look_again(state)


def _by_its_definition(state: State, run: Run, full: Requirement) -> Requirement | None:
    """While workers have different definitions of its workflow a run keeps to those that have its
    own, as long as one of them could take the step."""
    if not state.versions.several(run.header.workflow):
        return None
    own = replace(full, action=as_defined(full.action, run.header.definition))
    return own if state.placement.anyone(plain(own)) else None


def tell_apart(state: State, workflows: set[str]) -> None:
    """There are several definitions of these since a worker came: it must not be given what is
    pending of runs that began with another. Or a new one, which may have other pools."""
    if not workflows:
        return
    for step_run in state.placement.backlog.in_turn():
        if state.runs[step_run.partition("/")[0]].header.workflow in workflows:
            _place_anew(state, step_run)


def _give(state: State, run: Run, name: str, chosen: str, *, in_turn: str | None) -> None:
    """Assign it, unless a rate limit holds it back. Where it brings labels, or its run is bound
    to that worker from now on, other steps may go there as well."""
    if held_back(state, run, name, in_turn=in_turn):
        return
    worker = state.workers[chosen]
    follow = _assign(state, run, name, worker)
    if worker.coming or follow:
        state.room[worker.id] = None


def _add_to_backlog(state: State, run: Run, name: str, requirement: Requirement) -> None:
    step, step_run = run.steps[name], step_run_id(run.id, name)
    deadline, since = step.deadline or state.now, step.pending_since or state.now
    backlog = state.placement.backlog
    backlog.add(step_run, requirement, state.turn(run.header.priority, since))
    if backlog.pools:
        pools.watch(state)
    state.wake(deadline, "pending", step_run)
    state.emit(
        StoreStep(run.id, name, step),
        AddPending(step_run, deadline),
        Note("pending", {"step_run": step_run}),
    )


def room(state: State, key: str) -> None:
    """There may be room in a rate limit: place those that wait for it, in their turn."""
    state.rates[key].looked_at = None
    while (first := next_waiting(state, key)) is not None:
        step_run = first[2]
        run_id, _, name = step_run.partition("/")
        run = state.runs[run_id]
        blocked = blocked_by(state, run, name, in_turn=key)
        if blocked is not None and blocked[0] == key:
            count_on(state, run, name, key)
            look_at(state, key, blocked[1])
            return
        leave_backlog(state, step_run)
        place(state, run, name, in_turn=key)


def is_patient(state: State, step_run: str) -> bool:
    """Whether a step waits for a worker that it prefers."""
    return step_run in state.patient


def patience_is_over(state: State, step_run: str) -> None:
    """The time for a stage of a step's preferences is over."""
    _place_anew(state, step_run)


def look_again(state: State) -> None:
    """Workers changed or are gone: patient steps for which there is nobody now wait no more."""
    state.look_again = False
    there: dict[Requirement, bool] = {}
    for step_run, requirement in list(state.patient.items()):
        if requirement not in there:
            there[requirement] = state.placement.anyone(requirement)
        if not there[requirement] and step_run in state.patient:
            _place_anew(state, step_run)


def place_patient_anew(state: State) -> None:
    """What they wait for is to be understood otherwise from now on."""
    for step_run in list(state.patient):
        _place_anew(state, step_run)


def _place_anew(state: State, step_run: str) -> None:
    run_id, _, name = step_run.partition("/")
    if step_run not in state.placement.backlog:
        return  # it went along with one that was placed just before
    leave_backlog(state, step_run)
    place(state, state.runs[run_id], name)


def leave_backlog(state: State, step_run: str) -> None:
    """The step run is placed, or ends, or is looked at anew."""
    if state.limited.pop(step_run, None) is None:
        state.placement.backlog.remove(step_run)
        state.patient.pop(step_run, None)
    state.emit(DropPending(step_run))


def is_waiting(state: State, step_run: str) -> bool:
    """Whether a step run waits for a worker, or for a rate limit."""
    return step_run in state.placement.backlog or step_run in state.limited


def repin(state: State, worker: str) -> None:
    """A worker is gone: steps that waited for it alone go to others, where they may."""
    for step_run in state.placement.backlog.pinned_to(worker):
        run = state.runs[step_run.partition("/")[0]]
        if may_repin(state, run) or run.header.pinned != worker:
            _place_anew(state, step_run)


def _match(state: State, worker: Worker, *, until: int | None = None) -> None:
    """The worker changed: give it the pending steps that it can take now; those only whose turn
    is not after ``until``."""
    placement = state.placement
    while (turn := placement.next_for(worker.id)) is not None:
        if until is not None and turn.turn > until:
            return
        leave_backlog(state, turn.step_run)
        run_id, _, name = turn.step_run.partition("/")
        if not held_back(state, state.runs[run_id], name):
            _assign(state, state.runs[run_id], name, worker)


def _assign(state: State, run: Run, name: str, worker: Worker) -> bool:
    """It is the worker's; whether the run's other pending steps wait for that one now."""
    step = run.steps[name]
    requirement = plain(state.placement.expecting(run.requirements[name]))
    highest, total = weights(state.placement.score(worker.id, requirement))
    attempt = attempt_id(run.id, name, step.attempt)
    run.steps[name] = replace(
        step, status=StepStatus.ASSIGNED, worker=worker.id, assigned_at=state.now
    )
    worker.attempts[attempt] = worker.given_at = state.now
    take(state, run, name)
    state.placement.take(worker.id)
    pinned = pin(state, run, worker.id)
    note = {
        "attempt": attempt,
        "worker": worker.id,
        "highest_weight": highest,
        "total_weight": total,
        "waited_ms": state.now - (step.pending_since or state.now),
    }
    state.emit(
        StoreStep(run.id, name, run.steps[name]),
        TakeAttempt(worker.id, attempt),
        _load(worker),
        Note("placed", note),
        Assign(worker.id, assignment(run, name, worker)),
    )
    bring(state, worker, attempt, coming_labels(run, name))
    return pinned and _wait_for_its_worker(state, run)


def _wait_for_its_worker(state: State, run: Run) -> bool:
    """The run has its one worker now: what else of it is pending is for that one alone.

    They keep their turns: nothing is given to them here, ahead of steps that wait for longer.
    """
    waiting = [n for n in run.steps if step_run_id(run.id, n) in state.placement.backlog]
    for name in waiting:
        leave_backlog(state, step_run_id(run.id, name))
        full = state.placement.expecting(requirement_of(run, name))
        _add_to_backlog(state, run, name, plain(full))  # patience is for who has a choice
    return bool(waiting)


def assignment(run: Run, name: str, worker: Worker) -> Assignment:
    step, definition, header = run.steps[name], run.definitions[name], run.header
    parents, errors = definition.parents, {}
    if definition is run.workflow.on_failure:
        parents = [n for n, s in run.steps.items() if s.status is StepStatus.SUCCEEDED]
        errors = {n: s.error for n, s in run.steps.items() if s.status is StepStatus.FAILED}
    return Assignment(
        attempt=attempt_id(run.id, name, step.attempt),
        incarnation=worker.incarnation,
        run_id=run.id,
        workflow=header.workflow,
        step=name,
        input=header.input,
        parents={parent: run.steps[parent].output for parent in parents},
        metadata=header.metadata,
        retry_count=step.failures,
        timeout=definition.timeout,
        priority=header.priority,
        errors={n: error for n, error in errors.items() if error is not None},
        stream_to=[address for address in header.reply if address.stream],
    )


def place_again(state: State, run: Run, name: str) -> None:
    """After a take-over: a pending step may find a worker now, and is in the backlog else."""
    place(state, run, name)
    if run.steps[name].status is not StepStatus.PENDING:
        state.emit(DropPending(step_run_id(run.id, name)))


def hold(state: State, worker: Worker, attempt: str) -> None:
    """The worker has something that it should not: a slot is taken until that is gone."""
    worker.attempts[attempt] = state.now
    state.placement.take_back(worker.id)
    state.emit(TakeAttempt(worker.id, attempt), _load(worker))


def release(state: State, worker: Worker, attempt: str) -> None:
    """The worker holds the attempt no more; its slot is given away by ``fill``, when what becomes
    of the attempt is settled: what follows from it may have its turn before others."""
    del worker.attempts[attempt]
    waits = worker.waits.pop(attempt, None)
    if waits is not None:
        state.emit(StoreWaits(worker.id, dict(worker.waits)))
    if not (waits or 0) % 2:
        state.placement.release(worker.id)
    if worker.coming.pop(attempt, None) is not None:
        expect(state, worker)
    state.room[worker.id] = None
    state.emit(
        ReleaseAttempt(worker.id, attempt),
        _load(worker),
        Note("released", {"attempt": attempt, "worker": worker.id}),
    )


def waits(state: State, event: StepWaits, worker: Worker) -> None:
    """An attempt waits and needs no slot, or needs one again; only newer words count."""
    last = worker.waits.get(event.attempt, 0)
    if event.attempt not in worker.attempts or event.seq <= last:
        return
    worker.waits[event.attempt] = event.seq
    if event.seq % 2 == last % 2:
        return
    if event.seq % 2:
        state.placement.release(worker.id)
    else:
        state.placement.take_back(worker.id)
    state.emit(StoreWaits(worker.id, dict(worker.waits)), _load(worker))
    state.room[worker.id] = None


def _load(worker: Worker) -> StoreLoad:
    return StoreLoad(worker.id, worker.used, worker.state, worker.given_at)

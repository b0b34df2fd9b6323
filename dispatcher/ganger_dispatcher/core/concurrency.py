"""How many runs of a workflow go on at once, for each value of a key of their input.

A run that has to wait is queued: none of its steps is pending yet. As each key has its own few
runs among the pending steps, and a run that is let in goes behind those that are pending, keys
take turns whatever the number of runs that one of them has queued.
"""

from heapq import heappop, heappush

from msgspec.structs import replace

from ganger_broker.definitions import Concurrency, ConcurrencyStrategy
from ganger_broker.messages import FailureReason, RunError

from .effects import Count, Note, StoreRun, Unqueue
from .groups import Group, GroupId, groups_of
from .progress import cancel_run, start_ready
from .records import Run
from .state import State

__all__ = ["admit_waiting", "enter", "enter_again", "limits_changed"]


def enter(state: State, run: Run) -> None:
    """A new run: it goes on, or is queued, or is cancelled, or others are for it."""
    if _is_one_too_many(state, run):
        return
    full = _full(state, run) or _behind_others(state, run)
    if full is None:
        _go_on(state, run)
        return
    _wait(state, run, *full)
    state.emit(
        Count("runs_queued"),
        Note("queued", {"run": run.id, "reason": run.header.queued}),
    )


def _is_one_too_many(state: State, run: Run) -> bool:
    """Whether it is cancelled, as a rule says of the newest."""
    for group_id, group, rule in groups_of(state, run):
        if rule.strategy is ConcurrencyStrategy.CANCEL_NEWEST and _is_full(group, rule):
            text = f"concurrency: {_text(group_id, rule)}"
            cancel_run(state, run, RunError(FailureReason.CANCELLED, text))
            return True
    return False


def enter_again(state: State, run: Run) -> None:
    """After a take-over: it is where it was."""
    if run.header.queued:
        full = _full(state, run)
        _wait(state, run, *(full or groups_of(state, run)[0]))
        return
    for _, group, _ in groups_of(state, run):
        group.running[run.id] = None


def admit_waiting(state: State) -> None:
    """Runs have ended: let in those whose turn it is."""
    while state.vacated:
        group_id = next(iter(state.vacated))
        del state.vacated[group_id]
        group = state.groups.get(group_id)
        if group is None:
            continue
        _admit_into(state, group_id, group)
        if not group.running and not group.waiting:
            del state.groups[group_id]


def _admit_into(state: State, group_id: GroupId, group: Group) -> None:
    while group.waiting:
        turn = heappop(group.waiting)
        run = state.runs.get(turn[2])
        if run is None or not run.header.queued:
            continue  # it has ended
        full = _full(state, run)
        if full is None:
            if _is_one_too_many(state, run):
                continue
            run.header = replace(run.header, queued=None)
            state.emit(Unqueue(run.id), Note("admitted", {"run": run.id}))
            _go_on(state, run)
        elif full[0] == group_id:
            heappush(group.waiting, turn)
            return
        else:
            _wait(state, run, *full)


def _go_on(state: State, run: Run) -> None:
    for group_id, group, rule in groups_of(state, run):
        while rule.strategy is ConcurrencyStrategy.CANCEL_IN_PROGRESS and _is_full(group, rule):
            oldest = state.runs[next(iter(group.running))]
            text = f"run {run.id} took its place; concurrency: {_text(group_id, rule)}"
            cancel_run(state, oldest, RunError(FailureReason.CANCELLED, text))
        group.running[run.id] = None
    start_ready(state, run)


def _wait(state: State, run: Run, group_id: GroupId, group: Group, rule: Concurrency) -> None:
    """Wait in the one group that is full; it is looked at again when that one has room."""
    turn = state.turn(run.header.priority, run.header.created_at)
    state.sequence += 1
    heappush(group.waiting, (turn, state.sequence, run.id))
    text = f"concurrency: {_text(group_id, rule)}"
    if run.header.queued != text:
        run.header = replace(run.header, queued=text)
        state.emit(StoreRun(run.id, run.header))


def _full(state: State, run: Run) -> tuple[GroupId, Group, Concurrency] | None:
    """The first of its groups that it would have to wait for."""
    for group_id, group, rule in groups_of(state, run):
        if rule.strategy is ConcurrencyStrategy.QUEUE and _is_full(group, rule):
            return group_id, group, rule
    return None


def _behind_others(state: State, run: Run) -> tuple[GroupId, Group, Concurrency] | None:
    """A group that has room, which is for those that wait there already; they are let in first,
    in their turn."""
    for group_id, group, rule in groups_of(state, run):
        if rule.strategy is ConcurrencyStrategy.QUEUE and _anybody_waits(state, group):
            state.vacated[group_id] = None
            return group_id, group, rule
    return None


def _anybody_waits(state: State, group: Group) -> bool:
    while group.waiting and not _waits(state, group.waiting[0][2]):
        heappop(group.waiting)
    return bool(group.waiting)


def _waits(state: State, run_id: str) -> bool:
    run = state.runs.get(run_id)
    return run is not None and bool(run.header.queued)


def limits_changed(state: State, workflow: str) -> None:
    """There is a new definition of the workflow: its limits count for all of its runs."""
    for group_id, group in list(state.groups.items()):
        if group_id[0] == workflow and group.waiting:
            waiting, group.waiting = group.waiting, []
            for *_, run_id in sorted(waiting):
                if _waits(state, run_id):
                    run = state.runs[run_id]
                    of = {each: rule for each, _, rule in groups_of(state, run)}
                    _wait(state, run, group_id, group, of[group_id])
            state.vacated[group_id] = None


def _is_full(group: Group, rule: Concurrency) -> bool:
    return len(group.running) >= rule.limit


def _text(group_id: GroupId, rule: Concurrency) -> str:
    workflow, _, value = group_id
    of = "" if rule.key is None else f" with {rule.key} = {value}"
    return f"at most {rule.limit} run{'s' if rule.limit > 1 else ''} of {workflow}{of} at once"

"""How many runs of a workflow go on at once, for each value of a key of their input.

A run that has to wait is queued: none of its steps is pending yet. As each key has its own few
runs among the pending steps, and a run that is let in goes behind those that are pending, keys
take turns whatever the number of runs that one of them has queued. So they do where a second limit
holds for all of them: there each key waits as one, and goes behind the others when it was served.
"""

from collections.abc import Collection, Iterable
from heapq import heappop, heappush, heapreplace

from msgspec.structs import replace

from ganger_broker.definitions import Concurrency, ConcurrencyStrategy
from ganger_broker.messages import FailureReason, RunError

from .effects import Count, Note, StoreRun, Unqueue
from .groups import Group, GroupId, Line, LineId, groups_of
from .progress import cancel_run, start_ready
from .records import Run
from .state import State

__all__ = ["admit_waiting", "enter", "enter_again", "limits_changed"]


def enter(state: State, run: Run) -> None:
    """A new run: it goes on, or is queued, or is cancelled, or others are for it."""
    if _is_one_too_many(state, run, _replaced(state, run)):
        return
    for group_id, group, rule in groups_of(state, run):
        while _takes_a_place(rule) and len(group.running) + len(group.queued) >= rule.limit:
            _cancel_oldest(state, run, group_id, rule, [*group.running, *group.queued])
    turn = state.turn(run.header.priority, run.header.created_at)
    full = _full(state, run) or _behind_others(state, run, (turn, state.sequence + 1))
    if full is None:
        _go_on(state, run)
        return
    _wait(state, run, *full)
    state.emit(
        Count("runs_queued"),
        Note("queued", {"run": run.id, "reason": run.header.queued}),
    )


def _replaced(state: State, run: Run) -> set[str]:
    """The runs whose places it takes, if it is not one too many itself."""
    found: set[str] = set()
    for _, group, rule in groups_of(state, run):
        if not _takes_a_place(rule):
            continue
        there = [each for each in (*group.running, *group.queued) if each not in found]
        if len(there) >= rule.limit:
            there.sort(key=lambda each: state.runs[each].header.created_at)
            found.update(there[: len(there) - rule.limit + 1])
    return found


def _is_one_too_many(state: State, run: Run, replaced: Collection[str] = ()) -> bool:
    """Whether it is cancelled, as a rule says of the newest; it needs no room beside those whose
    places it takes."""
    for group_id, group, rule in groups_of(state, run):
        if rule.strategy is not ConcurrencyStrategy.CANCEL_NEWEST:
            continue
        if len(group.running) - sum(each in group.running for each in replaced) >= rule.limit:
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
        if not group.running and not group.queued and not group.waiting:
            del state.groups[group_id]


def _admit_into(state: State, group_id: GroupId, group: Group) -> None:
    while (found := _next_line(state, group)) is not None:
        line_id, line, run = found
        full = _full(state, run)
        if full is not None and full[0] == group_id:
            return
        turn = heappop(group.waiting)[:2]
        full = full or _behind_others(state, run, turn, group_id)
        if full is not None:
            _queue(state, line_id, line, run, *full)
            continue
        heappop(line.runs)
        if not _is_one_too_many(state, run):
            line.served_at = state.now
            run.header = replace(run.header, queued=None)
            state.emit(Unqueue(run.id), Note("admitted", {"run": run.id}))
            _go_on(state, run)
        following = _first(state, line)
        if following is None:
            del state.lines[line_id]
        else:
            _queue(
                state, line_id, line, following, group_id, group, _rule(state, following, group_id)
            )


def _go_on(state: State, run: Run) -> None:
    for group_id, group, rule in groups_of(state, run):
        group.queued.pop(run.id, None)
        while _takes_a_place(rule) and _is_full(group, rule):  # it was lowered since
            _cancel_oldest(state, run, group_id, rule, group.running)
        group.running[run.id] = None
    start_ready(state, run)


def _takes_a_place(rule: Concurrency) -> bool:
    return rule.strategy is ConcurrencyStrategy.CANCEL_IN_PROGRESS


def _cancel_oldest(
    state: State, run: Run, group_id: GroupId, rule: Concurrency, among: Iterable[str]
) -> None:
    """The run takes the place of another; also while that, or itself, waits for another limit."""
    oldest = min((state.runs[each] for each in among), key=lambda each: each.header.created_at)
    text = f"run {run.id} took its place; concurrency: {_text(group_id, rule)}"
    cancel_run(state, oldest, RunError(FailureReason.CANCELLED, text))


def _wait(state: State, run: Run, group_id: GroupId, group: Group, rule: Concurrency) -> None:
    """Wait in line for the one group that is full; it is looked at again when that has room."""
    groups = groups_of(state, run)
    for _, each, _ in groups:
        each.queued[run.id] = None
    line_id = tuple(each for each, _, _ in groups)
    line = state.lines.setdefault(line_id, Line())
    first = _first(state, line)
    state.sequence += 1
    turn = state.turn(run.header.priority, run.header.created_at)
    heappush(line.runs, (turn, state.sequence, run.id))
    _tell(state, run, group_id, rule)
    if first is not None:
        if _first(state, line) is not run:
            return
        group_id = line.group_id  # its turn is before the one that the line has there
        group, rule = state.groups[group_id], _rule(state, run, group_id)
    _queue(state, line_id, line, run, group_id, group, rule)


def _queue(
    state: State,
    line_id: LineId,
    line: Line,
    run: Run,
    group_id: GroupId,
    group: Group,
    rule: Concurrency,
) -> None:
    """The line, with this run as its first, waits for the group, and for no other."""
    state.sequence += 1
    line.group_id, line.number = group_id, state.sequence
    heappush(group.waiting, (*_turn(state, line, run), line.number, line_id))
    _tell(state, run, group_id, rule)


def _turn(state: State, line: Line, first: Run) -> tuple[int, int]:
    """When it is the line's turn, with this run as its first."""
    since = max(first.header.created_at, line.served_at)
    return state.turn(first.header.priority, since), line.runs[0][1]


def _tell(state: State, run: Run, group_id: GroupId, rule: Concurrency) -> None:
    text = f"concurrency: {_text(group_id, rule)}"
    if run.header.queued != text:
        run.header = replace(run.header, queued=text)
        state.emit(StoreRun(run.id, run.header))


def _next_line(state: State, group: Group) -> tuple[LineId, Line, Run] | None:
    """The line whose turn it is in the group, with the first of its runs."""
    while group.waiting:
        *_, number, line_id = group.waiting[0]
        line = state.lines.get(line_id)
        if line is not None and line.number == number:
            run = _first(state, line)
            if run is None:
                del state.lines[line_id]
            elif group.waiting[0][:2] == (turn := _turn(state, line, run)):
                return line_id, line, run
            else:  # the run whose turn that was has ended
                heapreplace(group.waiting, (*turn, number, line_id))
                continue
        heappop(group.waiting)
    return None


def _first(state: State, line: Line) -> Run | None:
    """The run of the line whose turn it is."""
    while line.runs:
        run = state.runs.get(line.runs[0][2])
        if run is not None and run.header.queued:
            return run
        heappop(line.runs)  # it has ended
    return None


def _rule(state: State, run: Run, group_id: GroupId) -> Concurrency:
    return next(rule for each, _, rule in groups_of(state, run) if each == group_id)


def _full(state: State, run: Run) -> tuple[GroupId, Group, Concurrency] | None:
    """The first of its groups that it would have to wait for."""
    for group_id, group, rule in groups_of(state, run):
        if rule.strategy is ConcurrencyStrategy.QUEUE and _is_full(group, rule):
            return group_id, group, rule
    return None


def _behind_others(
    state: State, run: Run, turn: tuple[int, int], own: GroupId | None = None
) -> tuple[GroupId, Group, Concurrency] | None:
    """A group that has room, which is for those that wait there already, and whose turn is before
    this one's. In its ``own`` it has its turn now."""
    for group_id, group, rule in groups_of(state, run):
        if rule.strategy is not ConcurrencyStrategy.QUEUE or group_id == own:
            continue
        if _next_line(state, group) is not None and group.waiting[0][:2] < turn:
            state.vacated[group_id] = None
            return group_id, group, rule
    return None


def limits_changed(state: State, workflow: str) -> None:
    """There is a new definition of the workflow: its limits count for all of its runs."""
    for line in state.lines.values():
        if line.group_id[0] != workflow:
            continue
        for *_, run_id in line.runs:
            run = state.runs.get(run_id)
            if run is not None and run.header.queued:
                _tell(state, run, line.group_id, _rule(state, run, line.group_id))
        state.vacated[line.group_id] = None


def _is_full(group: Group, rule: Concurrency) -> bool:
    return len(group.running) >= rule.limit


def _text(group_id: GroupId, rule: Concurrency) -> str:
    workflow, _, value = group_id
    of = "" if rule.key is None else f" with {rule.key} = {value}"
    return f"at most {rule.limit} run{'s' if rule.limit > 1 else ''} of {workflow}{of} at once"

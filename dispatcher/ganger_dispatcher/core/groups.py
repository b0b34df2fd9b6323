"""Groups of runs that a workflow's concurrency limits: who is in, and who waits."""

from hashlib import blake2s

from msgspec.json import encode
from msgspec.structs import replace

from ganger_broker.definitions import Concurrency
from ganger_broker.expressions import evaluate

from .effects import Unqueue
from .records import Run
from .state import State

__all__ = ["Group", "GroupId", "Line", "LineId", "groups_of", "leave"]

_MOST_TEXT = 100

GroupId = tuple[str, str, str]
"""Workflow, expression, and the value of the expression as JSON; of a long one its beginning and
a digest."""


LineId = tuple[GroupId, ...]
"""All the groups of the runs in a line."""


class Group:
    """Runs of one value of the key: those that go on, and those that are queued, for whatever
    limit. And the lines that wait for room here: a heap of turns, of which those count that are
    their line's newest."""

    __slots__ = ("queued", "running", "waiting")

    def __init__(self) -> None:
        self.running: dict[str, None] = {}
        self.queued: dict[str, None] = {}
        self.waiting: list[tuple[int, int, int, LineId]] = []


class Line:
    """Runs of the same groups that wait, in their turn. The line waits as one, in one group that
    is full: so lines take turns there, however many runs are in each."""

    __slots__ = ("group_id", "number", "runs", "served_at")

    def __init__(self) -> None:
        self.runs: list[tuple[int, int, str]] = []
        self.group_id: GroupId
        """Where it waits, and with which number."""
        self.number = 0
        self.served_at = 0
        """When a run of it was let in, ms: the next one has its turn after others since."""


def groups_of(state: State, run: Run) -> list[tuple[GroupId, Group, Concurrency]]:
    """The groups that a run belongs to, and the rule of each: the run's own, with the limit that
    the newest definition of the workflow has for it."""
    found = []
    for rule in run.workflow.definition.concurrency:
        value = None if rule.key is None else evaluate(rule.key, run.header.input)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1.0 and 1 are one number, as they are of labels
        text = encode(value, order="sorted").decode()
        if len(text) > _MOST_TEXT:  # it is shown to people, and kept with each run that waits
            text = f"{text[:_MOST_TEXT]}…{blake2s(text.encode(), digest_size=8).hexdigest()}"
        group_id = (run.header.workflow, rule.key or "", text)
        group = state.groups.get(group_id)
        if group is None:
            group = state.groups[group_id] = Group()
        found.append((group_id, group, _as_of_now(state, run, rule)))
    return found


def _as_of_now(state: State, run: Run, rule: Concurrency) -> Concurrency:
    """Runs of several versions are in one group: were each to go by its own limit, those of the
    larger one would pass those of the smaller one for ever."""
    newest = state.workflows.get(run.header.workflow, run.workflow)
    if newest is run.workflow:
        return rule
    of_key = [each for each in newest.definition.concurrency if each.key == rule.key]
    alike = [each for each in of_key if each.strategy is rule.strategy] or of_key
    return replace(rule, limit=alike[0].limit) if alike else rule


def leave(state: State, run: Run) -> None:
    """The run has ended: there is room for another one."""
    if run.header.queued:
        state.emit(Unqueue(run.id))
    for group_id, group, _ in groups_of(state, run):
        group.running.pop(run.id, None)
        group.queued.pop(run.id, None)
        state.vacated[group_id] = None

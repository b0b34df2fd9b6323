"""Groups of runs that a workflow's concurrency limits: who is in, and who waits."""

from hashlib import blake2s

from msgspec.json import encode

from ganger_broker.definitions import Concurrency
from ganger_broker.expressions import evaluate

from .effects import Unqueue
from .records import Run
from .state import State

__all__ = ["Group", "GroupId", "groups_of", "leave"]

_MOST_TEXT = 100

GroupId = tuple[str, str, str]
"""Workflow, expression, and the value of the expression as JSON; of a long one its beginning and
a digest."""


class Group:
    """Runs of one value of the key: those that go on, oldest first, and those that wait."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running: dict[str, None] = {}
        self.waiting: list[tuple[int, int, str]] = []


def groups_of(state: State, run: Run) -> list[tuple[GroupId, Group, Concurrency]]:
    """The groups that a run belongs to, and the rule of each."""
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
        found.append((group_id, group, rule))
    return found


def leave(state: State, run: Run) -> None:
    """The run has ended: there is room for another one."""
    if run.header.queued:
        state.emit(Unqueue(run.id))
    for group_id, group, _ in groups_of(state, run):
        group.running.pop(run.id, None)
        state.vacated[group_id] = None

"""The step that runs here, where one does: who waits for a run in it lends the step's slot."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .children import Children

__all__ = [
    "are_steps_under_way",
    "as_current_step",
    "children_here",
    "is_step_known",
    "slot_lent_here",
]

_children: ContextVar["Children | None"] = ContextVar("children", default=None)
_under_way: set["Children"] = set()


@contextmanager
def as_current_step(children: "Children") -> Iterator[None]:
    """While it is open the step of these children runs here, and in what it starts."""
    token = _children.set(children)
    _under_way.add(children)
    try:
        yield
    finally:
        _children.reset(token)
        _under_way.discard(children)
        children.is_over = True  # what it has left behind waits for itself


def children_here() -> "Children | None":
    """Of the step that runs here, in its own task or thread or one that it has started."""
    children = _children.get()
    return None if children is None or children.is_over else children


def is_step_known() -> bool:
    """Whether it is known which step runs here, or has left this behind."""
    return _children.get() is not None


def are_steps_under_way() -> bool:
    """Whether steps run in this process."""
    return bool(_under_way)


@asynccontextmanager
async def slot_lent_here() -> AsyncIterator[None]:
    """While it is open whoever runs here waits; where that is a step, its slot is for others."""
    children = children_here()
    if children is None or not children.is_on_its_loop():
        yield
        return
    async with children.waiting():
        yield

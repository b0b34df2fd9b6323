"""The step that runs here, where one does: who waits for a run in it lends the step's slot."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .children import Children

__all__ = ["as_current_step", "children_here", "slot_lent_here"]

_children: ContextVar["Children | None"] = ContextVar("children", default=None)


@contextmanager
def as_current_step(children: "Children") -> Iterator[None]:
    """While it is open the step of these children runs here, and in what it starts."""
    token = _children.set(children)
    try:
        yield
    finally:
        _children.reset(token)
        children.is_over = True  # what it has left behind waits for itself


def children_here() -> "Children | None":
    """Of the step that runs here, in its own task or thread or one that it has started."""
    children = _children.get()
    return None if children is None or children.is_over else children


@asynccontextmanager
async def slot_lent_here() -> AsyncIterator[None]:
    """While it is open whoever runs here waits; where that is a step, its slot is for others."""
    children = children_here()
    if children is None or not children.is_on_its_loop():
        yield
        return
    async with children.waiting():
        yield

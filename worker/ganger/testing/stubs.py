"""Steps of a worker under test: what takes the place of some, and of threads' sense of time."""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ganger.context import Context
from ganger.workflow import BoundStep

from .virtual_time import VirtualEvent, VirtualLoop

__all__ = ["Stub", "on_virtual_time"]


@dataclass(frozen=True)
class Stub:
    """What a step does instead: it takes ``lasts`` seconds, then calls, raises or returns."""

    lasts: float = 0
    does: Callable[[Context], Any] | None = None
    raises: BaseException | None = None
    returns: Any = None

    def in_place_of(self, step: BoundStep) -> BoundStep:
        """The step with nothing of its own left but its place, its input and its time-out."""
        return replace(step, call=self._call, is_async=True)

    async def _call(self, context: Context) -> Any:
        if self.lasts:
            await asyncio.sleep(self.lasts)
        if self.raises is not None:
            raise self.raises
        if self.does is None:
            return self.returns
        returned = self.does(context)
        return await returned if inspect.isawaitable(returned) else returned


def on_virtual_time(step: BoundStep, loop: VirtualLoop) -> BoundStep:
    """A step that runs in a thread, and whose ``wait_cancelled`` takes virtual time."""
    if step.is_async:
        return step

    def call(context: Context) -> Any:
        context._exit = VirtualEvent(loop)  # type: ignore[assignment]
        return step.call(context)

    return replace(step, call=call)

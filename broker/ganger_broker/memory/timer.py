"""When queues are due, kept by whichever event loop is there: no thread, no polling."""

import heapq
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from .consumer import LoopCaller
from .queue import MemoryQueue

__all__ = ["Timer"]


class Timer:
    """Calls ``on_due`` from an attached loop when the first queue is due.

    Touched under ``lock``, the broker's, which is held as well when ``on_due`` is called.
    """

    def __init__(
        self,
        lock: AbstractContextManager[object],
        on_due: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._lock = lock
        self._on_due = on_due
        self._heap: list[tuple[float, str]] = []
        self._callers: list[LoopCaller] = []
        self._armed: tuple[LoopCaller, float] | None = None

    def attach(self, caller: LoopCaller) -> None:
        """One more loop that can keep the time."""
        self._callers.append(caller)
        self._arm()

    def detach(self, caller: LoopCaller) -> None:
        """A loop less; another one takes over."""
        if caller in self._callers:
            self._callers.remove(caller)
        if caller.timer is not None:
            caller.timer.cancel()
        if self._armed is not None and self._armed[0] is caller:
            self._armed = None
            self._arm()

    def watch(self, queue: MemoryQueue) -> None:
        """Look at a queue when it is due next, if that is sooner than planned."""
        at = queue.next_due()
        if at is not None and (queue.due is None or at < queue.due):
            queue.due = at
            heapq.heappush(self._heap, (at, queue.name))
            self._arm()

    def pop_due(self, now: float) -> list[str]:
        """Names of the queues to look at now, perhaps in vain."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[1])
        if due:
            self._armed = None
            self._arm()
        return due

    def _arm(self) -> None:
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._armed is not None and self._armed[1] <= at and not self._armed[0].loop.is_closed():
            return
        for caller in self._callers:
            armed = (caller, at)
            if caller.call(partial(self._set, armed)):
                self._armed = armed
                return

    def _set(self, armed: tuple[LoopCaller, float]) -> None:
        """In the loop: wait for that moment, unless another was set since."""
        with self._lock:
            if self._armed is not armed:
                return
        caller, at = armed
        if caller.timer is not None:
            caller.timer.cancel()
        caller.timer = caller.loop.call_later(at - self._clock(), self._fire, armed)

    def _fire(self, armed: tuple[LoopCaller, float]) -> None:
        with self._lock:
            if self._armed is armed:
                self._armed = None
            self._on_due()
            self._arm()  # a loop's clock may be early by its resolution: then it is set anew

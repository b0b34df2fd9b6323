"""An event loop whose time is in a test's hand: it stands still until it is told to go on."""

import asyncio
import concurrent.futures
import selectors
import time
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["ThreadTooSlow", "VirtualEvent", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LOOK_EVERY = 0.005
"""Real seconds between looks at threads that may have begun to wait for virtual time."""


class ThreadTooSlow(Exception):
    """A thread has been at work for too long, in real time."""


class _Selector(selectors.DefaultSelector):
    """Asks what to do where the loop would sleep."""

    def __init__(self, sleep: Callable[[float | None], list[Any]]) -> None:
        super().__init__()
        self._sleep = sleep

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = self.wait(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        return self._sleep(timeout)

    def wait(self, timeout: float | None) -> list[Any]:
        """What has come from outside within so many real seconds."""
        return super().select(timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers fire by ``forward`` only; what other threads do takes no time.

    ``computing`` says how many calls run in threads that ``run_in_executor`` does not know
    of; ``patience`` is how long such a call may take, in real seconds.
    """

    def __init__(self, computing: Callable[[], int], patience: float) -> None:
        self._now = 0  # whole µs: timers that are set for one moment fire in one turn
        self._goal = 0  # where it goes on to, between two turns: no callback takes time
        self._computing = computing
        self._patience = patience
        self._in_executor = 0
        self._waits: set[concurrent.futures.Future[bool]] = set()
        self._settled: asyncio.Future[int | None] | None = None
        self._give_up_at = 0.0
        self._selecting = _Selector(self._sleep)
        super().__init__(self._selecting)

    def time(self) -> float:
        """Virtual seconds since it was made."""
        return self._now / 1_000_000

    @property
    def now(self) -> int:
        """Virtual µs since it was made."""
        return self._now

    def forward(self, to: int) -> None:
        """Go on to this moment, µs, when all has been done that takes no time."""
        self._goal = max(self._now, to)

    async def settled(self) -> int | None:
        """Wait until all has been done that takes no time; when the next timer is due, µs.

        Raises:
            ThreadTooSlow: a call in a thread does not end.
        """
        self._give_up_at = time.monotonic() + self._patience
        self._settled = self.create_future()
        try:
            return await self._settled
        finally:
            self._settled = None

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """As ever; time stands still meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executor += 1
        future.add_done_callback(self._executed)
        return future

    def _executed(self, _: object) -> None:
        self._in_executor -= 1

    def _sleep(self, timeout: float | None) -> list[Any]:
        """There is nothing to do at this moment of virtual time."""
        if self._settled is None or self._settled.done():
            return self._selecting.wait(None)  # until somebody outside wants something
        if self._in_executor or self._computing() > len(self._waits):
            came = self._selecting.wait(_LOOK_EVERY)
            now = time.monotonic()
            if came:
                self._give_up_at = now + self._patience
            elif now > self._give_up_at:
                self._settled.set_exception(ThreadTooSlow())
            return came
        if self._goal > self._now:
            self._now = self._goal
            return []  # what is due now happens
        # at least one µs: a float may say that a moment is not there yet when it is
        due = None if timeout is None else self._now + max(1, round(timeout * 1_000_000))
        self._settled.set_result(due)
        return []

    # ── for threads that wait ─────────────────────────────────────────────────────────

    def wait_begins(self, waiting: "concurrent.futures.Future[bool]") -> None:
        """A thread is not at work while this is not done; on the loop."""
        self._waits.add(waiting)

    def wait_ends(self, waiting: "concurrent.futures.Future[bool]", outcome: bool) -> None:
        """It goes on, and time stands still for it; on the loop."""
        if waiting in self._waits:
            self._waits.remove(waiting)
            waiting.set_result(outcome)


class VirtualEvent:
    """A ``threading.Event`` whose ``wait`` takes virtual time. ``set`` it on the loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._is_set = False
        self._waiting: list[concurrent.futures.Future[bool]] = []

    def set(self) -> None:
        """Let everybody go on."""
        self._is_set = True
        for waiting in self._waiting:
            self._loop.wait_ends(waiting, True)
        self._waiting.clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Block, not on the loop, for so many virtual seconds at most; whether it is set."""
        waiting: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._begin, waiting, timeout)
        return waiting.result()

    def _begin(self, waiting: "concurrent.futures.Future[bool]", timeout: float | None) -> None:
        self._loop.wait_begins(waiting)
        if self._is_set:
            self._loop.wait_ends(waiting, True)
            return
        self._waiting.append(waiting)
        if timeout is not None:
            self._loop.call_later(timeout, self._end, waiting)

    def _end(self, waiting: "concurrent.futures.Future[bool]") -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._loop.wait_ends(waiting, False)

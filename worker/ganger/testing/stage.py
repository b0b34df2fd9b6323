"""What a fleet stands on: an event loop with a thread, a broker, a dispatcher, and its time."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

from ganger.background import BackgroundLoop
from ganger.embedded import adopt, load_part, release
from ganger_broker.errors import GangerError
from ganger_broker.memory import MemoryBroker
from ganger_broker.settings import Settings
from ganger_broker.transports import drop_memory_broker, put_memory_broker

from .virtual_time import ThreadTooSlow, VirtualLoop

__all__ = ["SECOND", "Stage"]

T = TypeVar("T")

SECOND = 1_000_000  # µs
_CLOSING = 10 * SECOND
"""Virtual time that cancelled steps have to clean up in."""


class Stage:
    """Everything but workers and runs. Tests call it from any thread but its own.

    ``computing``: how many calls of steps run in threads.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        starts_at: datetime,
        patience: float,
        computing: Callable[[], int],
    ) -> None:
        make = load_part("ganger.testing", "ganger.testing")
        url = f"memory://testing-{uuid4().hex}"
        # nobody competes for the lease: to renew it is work for nothing
        given = {"lease": "1h", **settings, "broker_url": url, "redis_url": url}
        self.settings = Settings.load(**given)
        self._epoch = round(starts_at.timestamp() * 1000)
        self._patience = patience
        self._busy = threading.Lock()
        self._closed = False
        self.loop = VirtualLoop(computing, patience)
        self._pool = ThreadPoolExecutor(thread_name_prefix="ganger-fleet")
        self.loop.set_default_executor(self._pool)
        self._background = BackgroundLoop("ganger-fleet", self.loop)
        put_memory_broker(url, MemoryBroker(self.loop.time))
        self.dispatcher = make(self.settings, self.clock)
        adopt(self.settings, self.dispatcher)
        try:
            self.call(self.dispatcher.start())
        except BaseException:
            self.close()
            raise

    def clock(self) -> int:
        """Milliseconds since 1970, by its own time."""
        return self._epoch + self.loop.now // 1000

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop, and wait for it.

        Raises:
            GangerError: it is closed, or in use: it is a step that calls; or a step's thread
                does not end.
        """
        try:
            if self._closed:
                raise GangerError("the fleet is closed")
            if not self._busy.acquire(blocking=False):
                raise GangerError("the fleet is for the test: a step must not call it")
        except GangerError:
            work.close()
            raise
        try:
            return self._background.call(work)
        except ThreadTooSlow:
            raise GangerError(
                f"a step that is a plain function has run for {self._patience:g} s of real time, "
                "and the fleet's time stands still meanwhile. Put a stub in its place; or where "
                "it waits, have it wait with context.wait_cancelled(seconds), whose seconds "
                "are the fleet's"
            ) from None
        finally:
            self._busy.release()

    def ask(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the dispatcher says when all has been done that takes no time."""

        async def look() -> T:
            await self.settle()
            return await ask()

        return self.call(look())

    def close(self, first: Callable[[], Iterable["asyncio.Task[Any]"]] = list) -> None:
        """Cancel what runs, these tasks before others, and forget all of it."""
        if self._closed:
            return
        try:
            self.call(self._end_all(first))
        finally:
            self._closed = True
            release(self.settings)
            drop_memory_broker(self.settings.broker_url)
            self._background.halt()  # a step that did not let itself be cancelled ends with it
            self._pool.shutdown(wait=False)

    # ── on the loop ───────────────────────────────────────────────────────────────────

    async def settle(self) -> int | None:
        """Wait until all has been done that takes no time; when the next timer is due, µs."""
        return await self.loop.settled()

    async def let_pass(self, until: int) -> None:
        """Fire timers, moment by moment, up to this one, µs."""
        while (due := await self.settle()) is not None and due <= until:
            self.loop.forward(due)
        self.loop.forward(until)
        await self.settle()

    async def _end_all(self, first: Callable[[], Iterable["asyncio.Task[Any]"]]) -> None:
        with contextlib.suppress(ThreadTooSlow):
            await self._cancel(first())
            await self._cancel(asyncio.all_tasks() - {asyncio.current_task()})

    async def _cancel(self, tasks: Iterable["asyncio.Task[Any] | None"]) -> None:
        left = [task for task in tasks if task is not None and task.cancel()]
        until = self.loop.now + _CLOSING
        while (due := await self.settle()) is not None and due <= until:
            if all(task.done() for task in left):
                return
            self.loop.forward(due)

"""An event loop on a thread of its own: where the synchronous twins of async calls run."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

from ganger_broker.errors import GangerError
from ganger_broker.event_loop import new_event_loop

__all__ = ["BackgroundLoop", "check_may_block", "loops_at_work"]

T = TypeVar("T")

STANDSTILL = 10.0
"""Real seconds that a call waits while the clock of a test stands still."""

loops_at_work: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
"""Loops that a worker has run on: to block one may be to wait for oneself."""


def check_may_block(
    what: str, instead: str, needed: asyncio.AbstractEventLoop | None = None
) -> None:
    """Refuse to wait here for a run where the loop that runs here has to bring it to its end: one
    that a worker has run on, or the one that is ``needed``.

    Raises:
        RuntimeError: it is such a loop; the text says what to write ``instead``.
    """
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        return
    if here is needed or here in loops_at_work:
        raise RuntimeError(
            f"{what} would block the event loop that the result needs: "
            f"{instead}, or call it from a step that is a plain function"
        )


class BackgroundLoop:
    """Runs coroutines on a daemon thread; any thread may give it some.

    ``loop``: by default a new one; it is closed with this.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there, and wait for what it returns or raises."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: don't leave it running
            raise

    def call_in_time(self, work: Coroutine[Any, Any, T], clock: Callable[[], int]) -> T:
        """The same, where time is in somebody's hand: whoever waits here may be the one.

        Raises:
            GangerError: the clock has stood still for so long that nobody moves it.
        """
        future = self.submit(work)
        try:
            while True:
                before = clock()
                done, _ = concurrent.futures.wait([future], STANDSTILL)
                if done:
                    return future.result()
                if clock() == before:
                    raise GangerError(
                        f"what is waited for has not come in {STANDSTILL:g} s of real time, and "
                        "the fleet's time stands still: who waits cannot move it. Use "
                        "fleet.run(…), or fleet.start(…) and fleet.advance(…)"
                    )
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what runs there, and end the thread."""
        if self._thread.is_alive():
            self.call(_cancel_others())
            self.halt()

    def halt(self) -> None:
        """End the thread, whatever runs there."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

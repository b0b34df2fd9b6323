"""Threads for the steps that are plain functions."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Raised", "StepThreads"]


class Raised:
    """What a call in a thread raised. A future cannot carry StopIteration; this can."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_Call = tuple[Callable[[], Any], asyncio.Future[Any]]


class StepThreads:
    """Threads, started as they are needed: a call never waits for one, as its time runs.

    How many calls there are at once is the matter of those who make them. They are daemons, which
    those of ``concurrent.futures`` are not: at exit it joins its threads, so one step that hangs
    would keep a worker that was told to leave.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = 0
        self._busy = 0

    async def run(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns, or ``Raised``; it runs on even if waiting is cancelled."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._busy == self._threads:
            self._threads += 1
            name = f"{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._busy += 1
        self._calls.put((call, future))
        return await future

    @property
    def busy(self) -> int:
        """Calls that have not returned."""
        return self._busy

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            call, future = given
            result: Any
            try:
                result = call()
            except BaseException as exc:  # SystemExit too: it is the step that ends
                result = Raised(exc)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._done, future, result)
            del given, call, future, result  # not kept alive while waiting for the next

    def _done(self, future: asyncio.Future[Any], result: Any) -> None:
        self._busy -= 1
        if not future.done():
            future.set_result(result)

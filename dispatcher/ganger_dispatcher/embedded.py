"""A dispatcher inside the user's own process, for ``memory://``, ``ganger dev`` and tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from ganger_broker.settings import Settings
from ganger_broker.transports import open_transport

from .inspection import explain_step
from .service import Dispatcher
from .store import RedisStore, open_redis

__all__ = ["EmbeddedDispatcher"]


class EmbeddedDispatcher:
    """Runs a ``Dispatcher`` on the event loop it is started on.

    ``clock``: milliseconds since 1970, by default those of this machine.
    """

    def __init__(self, settings: Settings, clock: Callable[[], int] | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start; returns when it leads and consumes.

        Raises:
            GangerError: it could not start.
        """
        settings = self._settings
        self._store = self._open_store()
        transport = open_transport(settings, "dispatcher")
        self._dispatcher = Dispatcher(settings, transport, self._store, self._clock)
        self._task = asyncio.create_task(self._dispatcher.run())
        leading = asyncio.create_task(self._dispatcher.leading.wait())
        await asyncio.wait([self._task, leading], return_when=asyncio.FIRST_COMPLETED)
        leading.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Stop; returns when it has given back what it had not handled."""
        if self._task is not None:
            self._dispatcher.stop()
            await self._task
            await self._store.close()

    async def explain(self, step_run: str) -> dict[str, Any]:
        """Why a step run waits, as ``ganger explain --json`` prints it. On any event loop."""
        async with self._reading() as store:
            explained: dict[str, Any] = msgspec.to_builtins(await explain_step(store, step_run))
        return explained

    async def feed(self, after: str = "0") -> list[tuple[str, dict[str, str]]]:
        """What has happened since entry ``after``: (entry id, fields), oldest first.

        On any event loop.
        """
        async with self._reading() as store:
            return await store.feed(after)

    async def logs(self, run_id: str) -> list[dict[str, Any]]:
        """What the steps of a run have logged, as ``ganger logs --json`` prints it.

        On any event loop.
        """
        async with self._reading() as store:
            found: list[dict[str, Any]] = msgspec.to_builtins(await store.log(run_id))
        return found

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[RedisStore]:
        store = self._open_store()  # a client of its own: connections belong to one loop
        try:
            yield store
        finally:
            await store.close()

    def _open_store(self) -> RedisStore:
        settings = self._settings
        return RedisStore(open_redis(settings.redis_url), settings.keys(), settings.feed_length)

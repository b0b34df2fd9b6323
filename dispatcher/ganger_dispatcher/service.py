"""The dispatcher process: leads while it holds the lease, stands by while another does."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from uuid import uuid4

import structlog

from ganger_broker.errors import EpochSuperseded, StoreError
from ganger_broker.settings import Settings
from ganger_broker.transport import Transport

from .inbox import Inbox
from .metrics import Metrics
from .stopping import done_unless
from .store.redis_store import RedisStore
from .term import Term

__all__ = ["Dispatcher"]


_PAUSE = 0.5
"""Seconds after a term that ended by itself: what failed may fail again at once."""
_LONGEST_PAUSE = 15.0
"""Seconds at most, when term after term ends."""
_STEADY = 60.0
"""Seconds that a term has to last for its end not to count as one of several."""


class _Clock:
    """Milliseconds since 1970 that never go back while this process lives."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> int:
        return round((self._offset + time.monotonic()) * 1000)


class Dispatcher:
    """Campaigns for the lease, and leads while it holds it."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        store: RedisStore,
        clock: Callable[[], int] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """``metrics``: where to say how it stands."""
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.leading = asyncio.Event()
        self._settings = settings
        self._transport = transport
        self._store = store
        self._clock = clock or _Clock()
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._term: Term | None = None
        self._inbox: Inbox | None = None
        self._failures = 0
        self._skipped: set[tuple[str, str]] = set()
        self._log = structlog.get_logger("ganger.dispatcher").bind(dispatcher=self.id)

    async def run(self) -> None:
        """Lead or stand by until ``stop`` is called."""
        self._transport.on_reconnect(self._reconnected)
        try:
            if await done_unless(self._stopping, self._transport.connect()):
                # a standby that could not lead says so now, and not when it is needed
                declaring = self._transport.declare(self._settings.topology().shared())
                await done_unless(self._stopping, declaring)
            while not self._stopping.is_set():
                epoch = await self._campaign()
                if epoch is not None:
                    await self._lead(epoch)
        finally:
            await self._transport.close()

    def _reconnected(self) -> None:
        if self._term is not None:
            self._term.reconnected()

    def stop(self) -> None:
        """End soon: commit and send what is being handled, give the rest and the lease back."""
        self._stopping.set()
        if self._term is not None:
            self._term.end()

    async def _campaign(self) -> int | None:
        """Wait for the lease; its epoch, or None when stopping."""
        lease = round(self._settings.lease * 1000)
        self._log.info("standing_by")
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._settings.lease):
                    epoch, wait = await self._store.lease(self.id, lease)
                if self._settings.health_file is not None:
                    self._settings.health_file.touch()
            except (StoreError, TimeoutError) as exc:
                self._log.warning("store_unreachable", error=str(exc) or "no answer")
                epoch, wait = 0, 1000
            if epoch:
                return epoch
            await self._give_back()  # somebody else leads
            await self._rest(wait / 1000 + 0.01)
        return None

    async def _lead(self, epoch: int) -> None:
        if self._inbox is None:
            # it has the priority over a leader before it that is cut off, and consumes still
            self._inbox = Inbox(self._transport, self._settings.batch, priority=epoch)
        term = self._term = Term(
            self.id,
            epoch,
            self._settings,
            self._transport,
            self._store,
            self._clock,
            self._inbox,
            self._skipped,
            self._metrics,
        )
        if self._stopping.is_set():
            term.end()
        began = time.monotonic()
        try:
            await term.serve(self.leading.set)
        except EpochSuperseded as exc:
            self._log.warning("superseded", error=str(exc))
            await self._give_back()
        except StoreError as exc:
            self._log.error("store_failed", error=str(exc))
        finally:
            self._term = None
            self.leading.clear()
        steady = term.put_aside or time.monotonic() - began > _STEADY
        self._failures = 0 if steady else self._failures + 1
        await self._rest(min(_PAUSE * 2**self._failures, _LONGEST_PAUSE))
        if self._stopping.is_set():
            await self._give_back()
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(self._settings.lease):
                    await self._store.resign(self.id)
            self._log.info("resigned")

    async def _give_back(self) -> None:
        """Stop consuming; all that is not settled is for somebody else.

        Between terms of its own it is kept: each time it went back would count as one of the
        deliveries that a quorum queue makes of a message at most.
        """
        inbox, self._inbox = self._inbox, None
        if inbox is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.lease):
                await inbox.close()
        inbox.give_back()

    async def _rest(self, seconds: float) -> None:
        """Wait, unless it is to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

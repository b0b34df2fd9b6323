"""What steps say to those who stream their runs, on its way: in order, and never in the way."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable

import structlog

from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.transport import Outgoing, Published, Transport

__all__ = ["StreamSender"]

_log = structlog.get_logger(__name__)

MAX_BATCH = 200
"""Messages published in one go. The next go waits for its confirms, so that however much the
steps say, the worker's own events are never far behind it."""


class StreamSender:
    """Publishes to the reply addresses of runs; one for all steps of a worker.

    A message is published once: where nobody takes it, nobody listens. (One that a lost
    connection left unconfirmed is published again, so it may arrive twice.)
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: deque[tuple[list[Outgoing], Callable[[], None]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._something = asyncio.Event()
        self._closed = False

    def send(self, messages: list[Outgoing], then: Callable[[], None]) -> None:
        """Publish after all that was given before, from any thread; ``then`` is called on the
        loop when the broker has them, or nobody ever will."""
        self._waiting.append((messages, then))
        if threading.get_ident() == self._thread:
            self._wake()
        else:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._closed:
            self._drop()
        self._something.set()

    async def run(self) -> None:
        """Publish what is given; until cancelled."""
        try:
            while True:
                while self._waiting:
                    await self._publish()
                self._something.clear()
                await self._something.wait()
        finally:
            self._closed = True
            self._drop()

    async def _publish(self) -> None:
        messages: list[Outgoing] = []
        done: list[Callable[[], None]] = []
        while self._waiting and len(messages) < MAX_BATCH:
            each, then = self._waiting.popleft()
            messages += each
            done.append(then)
        try:
            outcomes = await self._transport.publish(messages)
        except TransportClosed:
            pass  # the worker has left
        except TransportError as exc:
            _log.warning("items of a stream cannot be sent", error=str(exc))
        else:
            lost = sum(outcome is not Published.CONFIRMED for outcome in outcomes)
            if lost:
                _log.warning("items of a stream were not taken", count=lost)
        finally:
            for then in done:
                then()

    def _drop(self) -> None:
        while self._waiting:
            self._waiting.popleft()[1]()

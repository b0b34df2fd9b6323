"""The ordered outbox: everything a worker says, in the order in which it is said."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgpack
import structlog

from ganger_broker.codec import encode_event
from ganger_broker.errors import GangerError, TransportClosed
from ganger_broker.messages import Event
from ganger_broker.transport import Delivery

__all__ = ["Outbox"]

_log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 256 * 1024
"""A body is sent when one more event would make it larger; one event alone may be."""
MAX_BODY_EVENTS = 500
MAX_IN_FLIGHT = 4
"""Bodies not confirmed yet. While that many are on their way events gather into one body,
so under load the bodies grow instead of their number."""


class _Entry(NamedTuple):
    event: Event | bytes
    delivery: Delivery | None
    then: Callable[[GangerError | None], None] | None


class Outbox:
    """Events appended, from any thread, are published as lists, in order.

    ``publish`` takes one body and returns when it is confirmed. ``settle`` is called, on
    the loop, with the deliveries whose events are confirmed.
    """

    def __init__(
        self,
        publish: Callable[[bytes], Awaitable[None]],
        settle: Callable[[list[Delivery]], None],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._publish = publish
        self._settle = settle
        self._max_bytes = max_body_bytes
        self._entries: deque[_Entry] = deque()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._something = asyncio.Event()
        self._window = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._closed: GangerError | None = None
        self._lock = threading.Lock()

    def append(
        self,
        event: Event | bytes,
        *,
        delivery: Delivery | None = None,
        then: Callable[[GangerError | None], None] | None = None,
    ) -> None:
        """Say ``event`` (packed already, or not) after all that was said before.

        ``delivery`` is settled when it is confirmed. ``then`` is called on the loop with
        None when it is confirmed, with the error when it never will be.
        """
        with self._lock:  # so that nothing is appended once the closed outbox was emptied
            closed = self._closed
            if closed is None:
                self._entries.append(_Entry(event, delivery, then))
        if closed is not None:
            if then is not None:
                then(closed)
        elif threading.get_ident() == self._thread:
            self._something.set()
        else:
            self._loop.call_soon_threadsafe(self._something.set)

    def settle(self, delivery: Delivery) -> None:
        """Settle a delivery of which there is nothing to say yet."""
        self._settle([delivery])

    async def say(self, event: Event) -> None:
        """Append, and wait until it is confirmed.

        Raises:
            GangerError: it never will be.
        """
        confirmed: asyncio.Future[None] = self._loop.create_future()

        def done(error: GangerError | None) -> None:
            if confirmed.done():
                return
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(error)

        self.append(event, then=done)
        await confirmed

    async def run(self) -> None:
        """Publish what is appended; until cancelled.

        Whatever else ends it is a defect, and raised: a worker must not go mute.
        """
        try:
            while self._failure is None:
                if not self._entries:
                    self._something.clear()
                    await self._something.wait()
                    # steps that were just begun have their first turn: many end in it, and
                    # their start and end go in one body
                    await asyncio.sleep(0)
                await self._window.acquire()
                body, entries = self._take()
                task = self._loop.create_task(self._send(body, entries))
                self._sending.add(task)
                task.add_done_callback(self._sent)
            raise self._failure
        finally:
            self._close()

    def _take(self) -> tuple[bytes, list[_Entry]]:
        taken: list[_Entry] = []
        parts: list[bytes] = []
        size = 0
        while self._entries and len(taken) < MAX_BODY_EVENTS:
            entry = self._entries[0]
            try:
                part = entry.event if isinstance(entry.event, bytes) else encode_event(entry.event)
            except GangerError as exc:
                self._entries.popleft()
                _log.error("an event cannot be sent", what=repr(entry.event), error=str(exc))
                _tell([entry], exc)
                continue
            if taken and size + len(part) > self._max_bytes:
                self._entries[0] = entry._replace(event=part)
                break
            self._entries.popleft()
            taken.append(entry)
            parts.append(part)
            size += len(part)
        return msgpack.Packer().pack_array_header(len(parts)) + b"".join(parts), taken

    async def _send(self, body: bytes, entries: list[_Entry]) -> None:
        try:
            if entries:
                await self._publish(body)
        except TransportClosed as exc:
            _tell(entries, exc)
            return
        except BaseException:
            _tell(entries, TransportClosed("the worker has left"))
            raise
        finally:
            self._window.release()
        settled = [entry.delivery for entry in entries if entry.delivery is not None]
        if settled:
            self._settle(settled)
        _tell(entries, None)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._something.set()

    def _close(self) -> None:
        with self._lock:
            self._closed = TransportClosed("the worker has left")
            left = list(self._entries)
            self._entries.clear()
        for task in self._sending:
            task.cancel()
        _tell(left, self._closed)


def _tell(entries: list[_Entry], error: GangerError | None) -> None:
    for entry in entries:
        if entry.then is not None:
            entry.then(error)

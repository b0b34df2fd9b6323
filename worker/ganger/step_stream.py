"""What one attempt of a step says while it runs: lines kept with its run, items for its stream."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, get_args

from ganger_broker.codec import encode
from ganger_broker.errors import GangerError, InvalidInput
from ganger_broker.fields import MAX_LOG_LINES, MAX_LOG_TEXT, LogLevel
from ganger_broker.messages import LogLine, StepLogged, StreamItem
from ganger_broker.plain_values import plain
from ganger_broker.to_worker import Assignment
from ganger_broker.transport import Outgoing

from .outbox import Outbox
from .stream_sender import StreamSender

__all__ = ["StepStream", "check_level"]

TOLD_EVERY = 0.1
"""Seconds in which lines gather into one event."""
MAX_EVENT_BYTES = 64 * 1024
"""Of lines in one event: heartbeats go between them."""
MAX_ITEM_BYTES = 256 * 1024
MAX_UNSENT_BYTES = 2**20
"""Items of one attempt that the broker does not have yet: beyond it a thread waits, and what
must not wait is refused."""
LINE_BYTES = 64
"""What a line takes beside its text, about."""

_LEVELS = get_args(LogLevel)


def check_level(level: str) -> None:
    """See that it is the level of a line.

    Raises:
        InvalidInput: it is not; the text names those there are.
    """
    if level not in _LEVELS:
        raise InvalidInput(f"level: {level!r} must be one of {', '.join(_LEVELS)}")


class StepStream:
    """Takes lines and chunks from any thread. ``seq`` counts them, together, from 1.

    Lines gather for a moment and go to the dispatcher as events; the next ones only when those
    have arrived. Meanwhile the newest are kept, as many as are kept of a run at all, so what a
    step logs too fast to be told would not have been kept either.
    """

    def __init__(
        self,
        assignment: Assignment,
        worker_id: str,
        incarnation: str,
        outbox: Outbox,
        sender: StreamSender,
        *,
        max_bytes: int,
    ) -> None:
        self._assignment = assignment
        self._worker = worker_id
        self._incarnation = incarnation
        self._outbox = outbox
        self._sender = sender
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._changed = threading.Condition()  # guards all below
        self._room: asyncio.Event | None = None  # made for the first who awaits it: few do
        self._lines: deque[LogLine] = deque(maxlen=MAX_LOG_LINES)
        self._telling = False  # lines gather, or are on their way
        self._seq = 0
        self._unsent = 0
        self._stopped = False
        self._ended = False
        self._then: Callable[[], None] | None = None

    # ── for the step, from any thread ─────────────────────────────────────────────────

    def log(self, message: str, level: LogLevel) -> None:
        """Keep a line with the run, and send it where it is streamed. Never raises: an item
        that there is no room for is left out of the stream."""
        text = message.encode(errors="backslashreplace").decode()
        if len(text) > MAX_LOG_TEXT:
            text = text[: MAX_LOG_TEXT - 1] + "…"
        while len(text.encode()) > self._max_bytes // 4:
            text = text[: len(text) // 2]
        with self._changed:
            self._wait_in_thread()
            if self._ended:
                return
            item = self._next("log", text, level)
            self._lines.append(LogLine(item.seq, item.at, level, text))
            begin, self._telling = not self._telling, True
            self._send(item)
        if begin:
            self._loop.call_soon_threadsafe(self._tell_soon)

    def put(self, data: Any) -> None:
        """Send a chunk to those who stream the run. A thread waits where too much is unsent.

        Raises:
            InvalidInput: it cannot be sent, or too much is unsent and this must not wait.
        """
        checked = self._checked(data)
        with self._changed:
            self._wait_in_thread()
            if self._must_wait():
                raise InvalidInput(
                    f"put_stream: {self._unsent:,} bytes are not sent yet; "
                    "`await context.async_put_stream(…)` waits until there is room"
                )
            self._put(checked)

    async def put_when_room(self, data: Any) -> None:
        """The same; waits on the loop where too much is unsent.

        Raises:
            InvalidInput: it cannot be sent.
        """
        checked = self._checked(data)
        room = self._room = self._room or asyncio.Event()
        while True:
            with self._changed:
                if not self._must_wait():
                    self._put(checked)
                    return
                room.clear()
            await room.wait()

    # ── for the worker, on the loop ───────────────────────────────────────────────────

    def stop(self) -> None:
        """The step is to stop: let go of its threads that wait here."""
        with self._changed:
            self._stopped = True
            self._make_room()

    def end(self, then: Callable[[], None]) -> None:
        """The step has ended: say what it has logged, and take no more. ``then`` is called when
        the broker has all items, so that the run's result comes after them."""
        with self._changed:
            self._ended = True
            self._tell()
            if self._unsent:
                self._then = then
                return
        then()

    # ── lines ─────────────────────────────────────────────────────────────────────────

    def _tell_soon(self) -> None:
        self._loop.call_later(TOLD_EVERY, self._tell_gathered)

    def _tell_gathered(self) -> None:
        with self._changed:
            if not self._ended:
                self._tell(self._told)

    def _told(self, error: GangerError | None) -> None:
        """The lines have arrived; those that have come meanwhile are next."""
        with self._changed:
            self._telling = bool(self._lines) and error is None and not self._ended
            if self._telling:
                self._tell_soon()

    def _tell(self, then: Callable[[GangerError | None], None] | None = None) -> None:
        lines, attempt = list(self._lines), self._assignment.attempt
        self._lines.clear()
        most = min(MAX_EVENT_BYTES, self._max_bytes // 2)
        while lines:
            size = count = 0
            for line in lines:
                size += len(line.message.encode()) + LINE_BYTES
                if count and size > most:
                    break
                count += 1
            event = StepLogged(self._worker, self._incarnation, attempt, lines[:count])
            del lines[:count]
            self._outbox.append(event, then=None if lines else then)

    # ── items ─────────────────────────────────────────────────────────────────────────

    def _checked(self, data: Any) -> Any:
        if isinstance(data, bytes | bytearray | memoryview):
            raise InvalidInput(
                "put_stream: bytes are not taken, as JSON has none; decode them, or make them "
                "text with base64"
            )
        checked = plain(data, "put_stream: $")
        size, most = len(encode({"data": checked})), min(MAX_ITEM_BYTES, self._max_bytes // 2)
        if size > most:
            raise InvalidInput(
                f"put_stream: is {size:,} bytes packed, at most {most:,} are taken; put it in "
                "pieces, or keep it elsewhere and say where it is"
            )
        return checked

    def _put(self, checked: Any) -> None:
        if not self._ended:
            self._send(self._next("chunk", checked))

    def _next(self, kind: Any, data: Any, level: LogLevel | None = None) -> StreamItem:
        given = self._assignment
        self._seq += 1
        now = round(time.time() * 1000)
        return StreamItem(
            given.run_id, given.step, given.attempt, self._seq, now, kind, data, level
        )

    def _send(self, item: StreamItem) -> None:
        if self._unsent > MAX_UNSENT_BYTES:
            return  # a line without room; of a step that is to stop, a chunk too
        messages = [
            Outgoing(
                "",
                to.reply_to,
                encode(item, to.content_type),
                content_type=to.content_type,
                correlation_id=to.correlation_id,
                mandatory=False,  # where there is no such queue nobody listens
            )
            for to in self._assignment.stream_to
        ]
        if messages:
            size = sum(len(message.body) for message in messages)
            self._unsent += size
            self._sender.send(messages, lambda: self._sent(size))

    def _sent(self, size: int) -> None:
        with self._changed:
            self._unsent -= size
            if self._unsent <= MAX_UNSENT_BYTES:
                self._make_room()
            then = None if self._unsent else self._then
            if then is not None:
                self._then = None
        if then is not None:
            then()

    def _make_room(self) -> None:
        self._changed.notify_all()
        if self._room is not None:
            self._room.set()

    def _must_wait(self) -> bool:
        return self._unsent > MAX_UNSENT_BYTES and not self._stopped and not self._ended

    def _wait_in_thread(self) -> None:
        if threading.get_ident() != self._thread:
            self._changed.wait_for(lambda: not self._must_wait())

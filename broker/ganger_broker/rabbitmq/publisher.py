"""Publishing to RabbitMQ: pipelined, confirmed, in order, over as many channels as it takes.

``aiormq.Channel.basic_publish`` runs one task a message, and looks at every unconfirmed one
for each batch of confirms. Here a whole chunk is written as one to the connection, and confirms
are counted here, at a fraction of the processor time. That is sound because nobody else
publishes on the channel.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import takewhile
from secrets import token_hex
from struct import error as StructError  # noqa: N812

import structlog
from aiormq import Channel
from aiormq import exceptions as amqp
from pamqp.exceptions import PAMQPException

from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.transport import Outgoing, Published

from .frames import Tap
from .session import attempt, reason_of
from .wire import Confirms, publish_frames

__all__ = ["Publisher"]

log = structlog.get_logger(__name__)

MAX_IN_FLIGHT = 1000
"""Unconfirmed messages at most: what a lost connection has us send again."""
CHUNK_MESSAGES = 200
CHUNK_BYTES = 2**18
"""Written as one before other channels (acknowledgements, heartbeats) get their turn."""

UNSOUND = (
    amqp.ConnectionInternalError,
    amqp.ConnectionSyntaxError,
    amqp.ConnectionFrameError,
    amqp.ConnectionCommandInvalid,
    amqp.ConnectionNotImplemented,
)
"""What the server closes a connection with when it chokes on what it was sent; a shutdown or
an operator's closing it is none of these."""
UNPACKABLE = (AttributeError, TypeError, ValueError, OverflowError, StructError, PAMQPException)


class _Batch:
    """The messages of one ``publish``, and what became of each."""

    __slots__ = ("done", "left", "outcomes")

    def __init__(self, size: int) -> None:
        self.outcomes: list[Published | None] = [None] * size
        self.left = size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Pending:
    """A message on its way."""

    __slots__ = ("alone", "batch", "blamed", "index", "message", "message_id", "sent")

    def __init__(self, message: Outgoing, message_id: str, batch: _Batch, index: int) -> None:
        self.message = message
        self.message_id = message_id
        self.batch = batch
        self.index = index
        self.sent = False
        """It was written to a channel: the server may have it."""
        self.alone = False
        """The server closed the channel on it or its neighbours: sent with nobody beside it."""
        self.blamed = 0
        """How often the server closed the connection while it was alone."""

    @property
    def settled(self) -> bool:
        """Nobody waits for it any more, or what became of it is known."""
        return self.batch.done.done() or self.batch.outcomes[self.index] is not None

    def settle(self, outcome: Published) -> None:
        if self.settled:
            return
        self.batch.outcomes[self.index] = outcome
        self.batch.left -= 1
        if not self.batch.left:
            self.batch.done.set_result(None)

    def fail(self, error: TransportError) -> None:
        if not self.batch.done.done():
            self.batch.done.set_exception(error)


class Publisher:
    """Takes messages at any time, and writes them whenever there is a channel."""

    def __init__(self, open_channel: Callable[[], Awaitable[tuple[Channel, Tap]]]) -> None:
        """``open_channel`` returns a confirming channel and its connection's stream, however
        long it takes to get them."""
        self._open_channel = open_channel
        self._waiting: deque[_Pending] = deque()
        self._in_flight: dict[int, _Pending] = {}
        self._by_id: dict[str, _Pending] = {}
        self._channel: Channel | None = None
        self._last_tag = 0
        self._wake = asyncio.Event()
        self._id_prefix = token_hex(8)
        self._ids_made = 0

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        """Publish; see the port."""
        if not messages:
            return []
        batch = _Batch(len(messages))
        self._waiting.extend(
            _Pending(message, message.message_id or self._make_id(), batch, index)
            for index, message in enumerate(messages)
        )
        self._wake.set()
        # Cancelled, this cancels `done` too, which tells the writer that nobody waits.
        await batch.done
        return [outcome for outcome in batch.outcomes if outcome is not None]

    def close(self) -> None:
        """Fail whatever still waits."""
        error = TransportClosed("closed before the message was confirmed")
        for pending in (*self._in_flight.values(), *self._waiting):
            pending.fail(error)
        self._in_flight.clear()
        self._waiting.clear()

    async def run(self) -> None:
        """Write until cancelled, on one channel after the other."""
        while True:
            channel, tap = await self._open_channel()
            self._last_tag = 0
            tap.divert(channel, Confirms(partial(self._on_confirm, channel), self._on_return))
            self._channel = channel
            writer = asyncio.create_task(self._write(channel, tap))
            # The writer ends by itself only when the channel fails under it.
            channel.closing.add_done_callback(partial(_cancel, writer))
            try:
                (error,) = await asyncio.gather(writer, return_exceptions=True)
            finally:
                writer.cancel()
            if not channel.is_closed:
                log.error("publishing broke off, taken up on a new channel", exc_info=error)
                await attempt("channel", channel.close())
            self._channel = None
            self._take_back(reason_of(channel.closing))

    async def _write(self, channel: Channel, tap: Tap) -> None:
        while True:
            chunk = self._next_chunk()
            payload = b"".join([self._start(channel, pending) for pending in chunk])
            if not payload:
                if not chunk:
                    self._wake.clear()
                    await self._wake.wait()
                continue
            tap.write(channel, payload)
            await tap.drain()

    def _next_chunk(self) -> list[_Pending]:
        chunk: list[_Pending] = []
        size = 0
        room = min(CHUNK_MESSAGES, MAX_IN_FLIGHT - len(self._in_flight))
        while self._waiting and len(chunk) < room and size < CHUNK_BYTES:
            pending = self._waiting[0]
            if pending.settled:
                self._waiting.popleft()
                continue
            # A returned message is found by its id, so none may be there twice.
            if pending.message_id in self._by_id:
                break
            if pending.alone and (chunk or self._in_flight):
                break
            self._waiting.popleft()
            self._by_id[pending.message_id] = pending
            chunk.append(pending)
            size += len(pending.message.body)
            if pending.alone:
                break
        return chunk

    def _start(self, channel: Channel, pending: _Pending) -> bytes:
        """Expect a confirm for this message; its frames."""
        payload = b"" if pending.settled else _packed(channel, pending)
        if not payload:
            del self._by_id[pending.message_id]
            return b""
        pending.sent = True
        self._last_tag += 1
        self._in_flight[self._last_tag] = pending
        return payload

    def _on_confirm(self, channel: Channel, last: int, multiple: bool, acked: bool) -> None:
        """The server has, or refuses, one message or all up to one."""
        if channel is not self._channel:
            return
        outcome = Published.CONFIRMED if acked else Published.REFUSED
        # in the order of the tags: the first are the oldest
        tags = takewhile(last.__ge__, self._in_flight) if multiple else (last,)
        for tag in list(tags):
            pending = self._in_flight.pop(tag, None)
            if pending is not None:
                del self._by_id[pending.message_id]
                pending.settle(outcome)  # a returned one is settled, and stays so
        self._wake.set()

    def _on_return(self, message_id: str | None) -> None:
        """No queue took it. The server confirms it as well, right after this."""
        pending = self._by_id.get(message_id or "")
        if pending is not None:
            pending.settle(Published.RETURNED)

    def _take_back(self, reason: BaseException | None) -> None:
        """The channel is gone: what it has not confirmed is written again, before all else."""
        unconfirmed = [pending for pending in self._in_flight.values() if not pending.settled]
        self._in_flight.clear()
        self._by_id.clear()
        if isinstance(reason, (amqp.AMQPChannelError, *UNSOUND)):
            log.warning("publishing channel closed by the broker", error=str(reason))
            unconfirmed = _without_culprit(unconfirmed, reason)
        self._waiting.extendleft(reversed(unconfirmed))

    def _make_id(self) -> str:
        self._ids_made += 1
        return f"{self._id_prefix}{self._ids_made:x}"


def _cancel(writer: asyncio.Task[None], _: object) -> None:
    writer.cancel()


def _without_culprit(unconfirmed: list[_Pending], reason: Exception) -> list[_Pending]:
    """The server closes a channel for one message and does not say for which: sent one by
    one, the culprit is the one it closes the channel for again. A connection it may close for
    reasons of its own as well, so that has to happen once more."""
    match unconfirmed:
        case [culprit] if culprit.alone:
            culprit.blamed += 1
            if isinstance(reason, amqp.AMQPChannelError) or culprit.blamed > 1:
                _give_up(culprit, reason)
                return []
    for pending in unconfirmed:
        pending.alone = True
    return unconfirmed


def _give_up(culprit: _Pending, reason: Exception) -> None:
    missing = isinstance(reason, amqp.ChannelNotFoundEntity)
    culprit.settle(Published.RETURNED if missing else Published.IMPOSSIBLE)
    log.error(
        "message refused by the broker",
        exchange=culprit.message.exchange,
        routing_key=culprit.message.routing_key,
        error=str(reason),
    )


def _packed(channel: Channel, pending: _Pending) -> bytes:
    """Its frames; empty when it cannot be packed, which its publisher is told."""
    message = pending.message
    try:
        return publish_frames(
            channel.number,
            message,
            pending.message_id,
            channel.max_content_size,
            again=pending.sent,
        )
    except UNPACKABLE as exc:
        where = f"message to exchange {message.exchange!r}, key {message.routing_key!r}"
        pending.fail(TransportError(f"{where}: cannot be packed: {exc}"))
        return b""

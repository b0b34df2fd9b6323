"""Messages and confirms past the driver: straight from the connection, and straight to it.

For each frame that it reads the driver makes an object, puts it in a queue and wakes a task,
and for each message another task or a future. On channels whose only use is to consume, or to
publish, the frames of messages are taken out of the stream before it sees them, many in one
turn of the loop. All other frames it gets as they came.
"""

import asyncio
from contextlib import suppress
from typing import Any

from aiormq import Channel, TransportFactory
from aiormq.connection import TCPTransportFactory, TLSTransportFactory
from yarl import URL

from .wire import CLOSE, FRAME, FRAME_END, HEARTBEAT, KINDS, METHOD, Taker

__all__ = ["Tap", "TapFactory"]

_READ_BYTES = 2**18


class Tap:
    """The stream of a connection, as the driver reads it, with takers for some channels."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._takers: dict[int, Taker] = {}
        self._unsorted = b""
        """The beginning of a frame."""
        self._left = b""
        """Frames for the driver."""
        self._left_at = 0

    def divert(self, channel: Channel, taker: Taker) -> None:
        """Give the channel's frames to ``taker`` first, until it is closed."""
        number = channel.number
        self._takers[number] = taker

        def end(_: object) -> None:
            if self._takers.get(number) is taker:  # it may be another channel's number now
                del self._takers[number]

        channel.closing.add_done_callback(end)

    def write(self, channel: Channel, frames: bytes) -> None:
        """Send whole frames of a channel with a taker, after all that was sent before.

        Nothing is sent on a channel that the server has closed: after the driver's answer to
        that it would close the connection for it.
        """
        if channel.number in self._takers:
            self._writer.write(frames)

    async def drain(self) -> None:
        """Wait while too much is written and not sent."""
        with suppress(ConnectionError):  # the driver sees it too, and closes the channels
            await self._writer.drain()

    # ── what the driver reads with ──

    def at_eof(self) -> bool:
        """Whether all was read, and no more comes."""
        read = self._left_at == len(self._left)
        return read and not self._unsorted and self._reader.at_eof()

    async def readexactly(self, size: int) -> bytes:
        """The next bytes of the frames that nobody took.

        Raises:
            IncompleteReadError: the connection ended before.
        """
        while len(self._left) - self._left_at < size:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise asyncio.IncompleteReadError(self._left[self._left_at :], size)
            self._left = self._left[self._left_at :] + self._sort(self._unsorted + data)
            self._left_at = 0
        at, self._left_at = self._left_at, self._left_at + size
        return self._left[at : self._left_at]

    def _sort(self, data: bytes) -> bytes:
        """Give the whole frames in ``data`` to who takes them; the others."""
        others: list[bytes] = []
        at, size, any_taken = 0, len(data), False
        while at + FRAME.size < size:
            kind, channel, length = FRAME.unpack_from(data, at)
            begin = at + FRAME.size
            end = begin + length
            if kind in KINDS and end >= size:
                break
            if kind not in KINDS or data[end] != FRAME_END:
                others.append(data[at:])  # no frame: the driver knows what to say
                at = size
                break
            taker = self._takers.get(channel)
            if taker is not None and taker.take(kind, data, begin, end):
                any_taken = True
            else:
                others.append(data[at : end + 1])
                if data.startswith(CLOSE, begin) and kind == METHOD:
                    self._takers.pop(channel, None)
            at = end + 1
        self._unsorted = data[at:]
        if any_taken:
            others.append(HEARTBEAT)  # the driver closes connections on which it sees nothing
        return b"".join(others)


class TapFactory(TransportFactory):
    """Has the driver read through a ``Tap``, which is then here."""

    tap: Tap

    def __init__(self, url: URL) -> None:
        secure = url.scheme == "amqps"
        self._inner: TransportFactory = TLSTransportFactory() if secure else TCPTransportFactory()

    async def create(self, url: URL, **kwargs: Any) -> tuple[Any, asyncio.StreamWriter]:
        """Connect."""
        reader, writer = await self._inner.create(url, **kwargs)
        self.tap = Tap(reader, writer)
        return self.tap, writer

"""Frames from RabbitMQ, also those with properties that the driver cannot decode.

Any program may publish to Ganger's exchange, and RabbitMQ passes properties on as it got them:
a timestamp in nanoseconds, text that is no UTF-8. The driver takes each for the end of the
connection, and the message is the first to come on the next one. Here what cannot be decoded is
left out, or marked as ``UNREADABLE`` where Ganger goes by it; the message can then be put aside.
"""

import asyncio
from struct import error as StructError  # noqa: N812
from struct import unpack_from
from typing import Any

import aio_pika
from aio_pika.abc import UnderlayConnection
from aiormq import Connection, spec
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp import constants, decode, frame
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader
from yarl import URL

__all__ = ["ForgivingConnection", "content_header", "deliver_method", "unreadable"]

UNDECODABLE = (ValueError, TypeError, IndexError, OverflowError, OSError, StructError)
"""What decoding raises, dates out of range included."""

NEEDED = ("content_type", "correlation_id", "reply_to", "message_id")
"""Properties that say what is to be done; the rest is only passed on or not looked at."""
MOST_SHORT = 255
"""Bytes of a short string."""
DELIVER = spec.Basic.Deliver.index.to_bytes(4)
"""What the method frame of a delivery begins with."""


def content_header(data: bytes) -> ContentHeader:
    """A message's properties, as far as they can be decoded."""
    header = ContentHeader()
    try:
        header.unmarshal(data)
    except UNDECODABLE:
        return _piece_by_piece(data)
    return header


def unreadable(header: ContentHeader) -> str:
    """Which properties that Ganger goes by could not be decoded, in words; mostly none."""
    return getattr(header, "unreadable", "")


def deliver_method(data: bytes) -> spec.Basic.Deliver:
    """A delivery's method frame, the routing key with a replacement where it is no UTF-8."""
    size, tag = _short(data)
    number, redelivered = unpack_from(">Q?", data, size)
    exchange_size, exchange = _short(data[size + 9 :])
    _, key = _short(data[size + 9 + exchange_size :])
    return spec.Basic.Deliver(
        consumer_tag=_text(tag),
        delivery_tag=number,
        redelivered=redelivered,
        exchange=_text(exchange),
        routing_key=_text(key),
    )


class _Header(ContentHeader):
    """One of which something could not be decoded."""

    unreadable = ""


def _piece_by_piece(data: bytes) -> ContentHeader:
    header = _Header()
    header.class_id, header.weight, header.body_size = unpack_from(">HHQ", data)
    bad: list[str] = []
    try:
        used, flags = ContentHeader._get_flags(data[12:])
        rest = data[12 + used :]
        for name in spec.Basic.Properties.__slots__:
            if flags & spec.Basic.Properties.flags[name]:
                size, value = _property(name, rest, bad)
                setattr(header.properties, name, value)
                rest = rest[size:]
    except UNDECODABLE as exc:
        bad.append(f"properties ({exc})")
    header.unreadable = ", ".join(f"{name}: cannot be decoded" for name in bad)
    return header


def _property(name: str, data: bytes, bad: list[str]) -> tuple[int, Any]:
    """Its size and value; one that is needed and cannot be decoded is named in ``bad``."""
    kind = getattr(spec.Basic.Properties, f"_{name}")
    try:
        return decode.by_type(data, kind)
    except UNDECODABLE as exc:
        if kind == "table":
            said = {"ganger-headers": f"left out, they cannot be decoded: {exc}"}
            return 4 + unpack_from(">I", data)[0], said
        if kind == "timestamp":
            return 8, None
        if kind != "shortstr":
            raise
        size, raw = _short(data)
        if name in NEEDED:
            bad.append(name)
        return size, None if name == "reply_to" else _text(raw)


def _short(data: bytes) -> tuple[int, bytes]:
    return data[0] + 1, data[1 : data[0] + 1]


def _text(raw: bytes) -> str:
    """As text that fits where it came from: a replacement is longer than what it replaces."""
    text = raw.decode(errors="replace")
    return text.encode()[:MOST_SHORT].decode(errors="ignore")


class _Receiver(FrameReceiver):
    """Reads frames as the driver does, but for what the driver cannot decode."""

    async def get_frame(self) -> Any:
        """The next one: size, channel, frame."""
        if self.reader.at_eof():
            raise StopAsyncIteration
        try:
            start = await self.reader.readexactly(constants.FRAME_HEADER_SIZE)
            kind, channel, size = frame.frame_parts(start)
            data = start + await self.reader.readexactly((size or 0) + 1)
        except asyncio.IncompleteReadError as exc:
            raise AMQPConnectionError("the broker closed the connection") from exc
        except OSError as exc:
            raise AMQPConnectionError(f"the connection broke: {exc!r}") from exc
        payload = data[constants.FRAME_HEADER_SIZE : -1]
        if kind == constants.FRAME_HEADER:
            return len(data), channel, content_header(payload)
        try:
            return frame.unmarshal(data)
        except (PAMQPException, *UNDECODABLE) as exc:
            if not payload.startswith(DELIVER):
                raise InvalidFrameError(str(exc)) from exc
            return len(data), channel, deliver_method(payload[len(DELIVER) :])


class _Underlay(Connection):
    """The driver's connection with a reader that forgives."""

    async def _Connection__reader(self, receiver: FrameReceiver) -> None:  # noqa: N802
        await super()._Connection__reader(_Receiver(receiver.reader))  # type: ignore[misc]


if not hasattr(Connection, "_Connection__reader"):  # better loudly now than deaf later
    raise RuntimeError("aiormq's Connection has no __reader: this version is not supported")


class _Making(UnderlayConnection):
    @classmethod
    async def make_connection(
        cls,
        url: URL,
        timeout: float | None = None,  # noqa: ASYNC109
        **kwargs: Any,
    ) -> _Underlay:
        properties = kwargs.pop("client_properties", None)
        connection = _Underlay(url, **kwargs)
        async with asyncio.timeout(timeout):
            await connection.connect(properties)
        await connection.ready()
        return connection


class ForgivingConnection(aio_pika.Connection):
    """aio-pika's connection, for ``aio_pika.connect(…, connection_class=…)``."""

    async def connect(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Connect."""
        self.transport = await _Making.connect(
            self.url, self._on_connection_close, timeout=timeout, **self.kwargs
        )
        await self._on_connected()

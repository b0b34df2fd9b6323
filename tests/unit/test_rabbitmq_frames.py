"""Frames are packed and read here as the driver's library does it, however they arrive."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from ganger_broker.errors import TransportClosed
from ganger_broker.rabbitmq.frames import Tap
from ganger_broker.rabbitmq.publisher import Publisher
from ganger_broker.rabbitmq.wire import (
    Confirms,
    Deliveries,
    ack_frame,
    nack_frame,
    publish_frames,
)
from ganger_broker.transport import Delivery, Outgoing

MOST = 8192
"""Bytes of a body in one frame."""

words = st.text(max_size=20)
some = st.none() | st.text(min_size=1, max_size=20)
headers = st.dictionaries(
    st.text(min_size=1, max_size=8), st.integers(-5, 2**40) | words | st.booleans() | st.none()
)


def read_all(data: bytes) -> list[Any]:
    frames = []
    while data:
        size, channel, read = frame.unmarshal(data)
        assert channel == 7
        frames.append(read)
        data = data[size:]
    return frames


@settings(max_examples=200)
@given(words, words, st.integers(0, 3 * MOST).map(bytes), some, some, some, headers, st.booleans())
def test_the_library_reads_what_is_packed(
    exchange: str,
    key: str,
    body: bytes,
    content_type: str | None,
    reply_to: str | None,
    correlation_id: str | None,
    given_headers: dict[str, Any],
    mandatory: bool,
) -> None:
    message = Outgoing(
        exchange,
        key,
        body,
        content_type=content_type or "",
        reply_to=reply_to,
        correlation_id=correlation_id,
        headers=given_headers,
        mandatory=mandatory,
    )
    # the first frame by hand: the library checks names of exchanges that AMQP allows
    packed = publish_frames(7, message, "id", MOST)
    size = 8 + int.from_bytes(packed[3:7])
    assert packed[7:13] == b"\x00\x3c\x00\x28\x00\x00"
    assert packed[13 : size - 2].endswith(bytes([len(key.encode())]) + key.encode())
    assert packed[size - 2] == mandatory
    header, *parts = read_all(packed[size:])
    assert header.body_size == len(body)
    assert b"".join(part.value for part in parts) == body
    assert all(len(part.value) <= MOST for part in parts)
    properties = header.properties
    assert properties.content_type == content_type
    assert properties.delivery_mode == 2
    assert properties.message_id == "id"
    assert properties.reply_to == reply_to
    assert properties.correlation_id == correlation_id
    assert (properties.headers or {}) == given_headers


def test_what_is_sent_again_is_not_new() -> None:
    message = Outgoing("", "key", b"", new=True)
    once, again = (
        frame.unmarshal(packed[packed.index(b"\x02\x00\x07") :])[2]
        for packed in (
            publish_frames(7, message, "id", MOST),
            publish_frames(7, message, "id", MOST, again=True),
        )
    )
    assert once.properties.message_type == "ganger-new"
    assert again.properties.message_type is None


async def test_what_a_lost_channel_has_not_confirmed_is_sent_again_and_not_as_new() -> None:
    lines = [Line(), Line()]
    channels: list[Any] = [Opened(7), Opened(7)]
    pairs = iter(zip(channels, [line.tap for line in lines], strict=True))
    forever: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def open_channel() -> Any:
        return next(pairs, None) or await forever

    publisher = Publisher(open_channel)
    running = asyncio.create_task(publisher.run())
    publishing = asyncio.create_task(publisher.publish([Outgoing("", "key", b"", new=True)]))
    await lines[0].written.wait()
    channels[0].closing.set_result(None)
    await lines[1].written.wait()
    assert b"ganger-new" in lines[0].sent[0]
    assert b"ganger-new" not in lines[1].sent[0]
    publisher.close()
    with pytest.raises(TransportClosed):
        await publishing
    running.cancel()


def test_what_is_too_long_is_not_packed() -> None:
    with pytest.raises(ValueError, match="range"):
        publish_frames(1, Outgoing("", "k" * 256, b""), "id", MOST)


def test_the_library_reads_acknowledgements() -> None:
    packed = ack_frame(7, 2**40, multiple=True) + ack_frame(7, 1) + nack_frame(7, 3)
    up_to, one, nack = read_all(packed)
    assert (up_to.delivery_tag, up_to.multiple) == (2**40, True)
    assert (one.delivery_tag, one.multiple) == (1, False)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (3, False, True)


# ── the stream ────────────────────────────────────────────────────────────────────────


class Opened:
    """A channel, as far as a tap knows one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.max_content_size = MOST

    @property
    def is_closed(self) -> bool:
        return self.closing.done()


class Line:
    """A tap on a stream that the test feeds; ``sent`` is what was written."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.sent: list[bytes] = []
        self.written = asyncio.Event()
        writer: Any = SimpleNamespace(write=self._write, drain=self._drain)
        self.tap = Tap(self.reader, writer)

    def _write(self, data: bytes) -> None:
        self.sent.append(data)
        self.written.set()

    async def _drain(self) -> None:
        pass

    def feed(self, *frames: Any, channel: int = 7) -> None:
        self.reader.feed_data(b"".join(frame.marshal(each, channel) for each in frames))

    async def read(self, *, end: bool = True) -> list[Any]:
        """What the driver reads until the end, which is here or is still to come."""
        if end:
            self.reader.feed_eof()
        found = []
        while not self.tap.at_eof():
            try:
                data = await self.tap.readexactly(7)
            except asyncio.IncompleteReadError:
                break  # the end came while it waited
            data += await self.tap.readexactly(int.from_bytes(data[3:7]) + 1)
            found.append(frame.unmarshal(data)[2])
        return found


def message(tag: int, body: bytes, key: str = "key", **properties: Any) -> list[Any]:
    header = ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
    return [
        commands.Basic.Deliver("consumer", tag, True, "exchange", key),
        header,
        *(ContentBody(body[at : at + MOST]) for at in range(0, len(body), MOST)),
    ]


async def test_deliveries_are_taken_and_the_rest_is_the_drivers() -> None:
    line = Line()
    got: list[Delivery] = []
    line.tap.divert(Opened(7), Deliveries(3, got.append))  # type: ignore[arg-type]
    everything = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "headers": {"a": [1, {"b": None}]},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "1000",
        "message_id": "m",
        "app_id": "a",
    }
    frames = [
        commands.Basic.ConsumeOk("consumer"),
        *message(1, b""),
        *message(2, b"x" * 25, "schlüssel", **everything),
        commands.Basic.Cancel("consumer"),
    ]
    data = b"".join(frame.marshal(each, 7) for each in frames)
    other = frame.marshal(commands.Queue.DeclareOk("q", 1, 1), 8)
    read = asyncio.ensure_future(line.read(end=False))
    for byte in data + other:  # in the smallest pieces
        line.reader.feed_data(bytes([byte]))
        await asyncio.sleep(0)
    line.reader.feed_eof()
    kinds = [type(each) for each in await read if not isinstance(each, Heartbeat)]

    assert kinds == [
        commands.Basic.ConsumeOk,
        commands.Basic.Cancel,
        commands.Queue.DeclareOk,
    ]
    assert got == [
        Delivery(b"", "key", (3, 1), redelivered=True),
        Delivery(
            b"x" * 25,
            "schlüssel",
            (3, 2),
            content_type="text/plain",
            message_id="m",
            reply_to="r",
            correlation_id="c",
            headers={"a": [1, {"b": None}]},
            redelivered=True,
        ),
    ]


async def test_what_others_send_amiss_costs_a_text_and_not_the_connection() -> None:
    line = Line()
    got: list[Delivery] = []
    line.tap.divert(Opened(7), Deliveries(1, got.append))  # type: ignore[arg-type]
    data = b"".join(
        frame.marshal(each, 7)
        for each in message(1, b"x", "k_y", correlation_id="c_d", headers={"h_d": "v"})
    )
    line.reader.feed_data(data.replace(b"_", b"\xff"))
    assert [type(each) for each in await line.read()] == [Heartbeat]
    assert (got[0].routing_key, got[0].correlation_id, list(got[0].headers)) == (
        "k�y",
        "c�d",
        ["ganger-headers"],
    )


async def test_confirms_and_returns_come_in_order() -> None:
    line = Line()
    said: list[Any] = []
    taker = Confirms(lambda *what: said.append(what), said.append)
    line.tap.divert(Opened(7), taker)  # type: ignore[arg-type]
    line.feed(
        commands.Basic.Ack(3, True),
        commands.Basic.Return(312, "NO_ROUTE", "e", "k"),
        *message(0, b"body", message_id="lost")[1:],
        commands.Basic.Ack(4, False),
        commands.Basic.Nack(5, False, True),
    )
    assert [type(each) for each in await line.read()] == [Heartbeat]
    assert said == [(3, True, True), "lost", (4, False, True), (5, False, False)]


async def test_nothing_is_sent_on_a_channel_that_the_server_closes() -> None:
    line = Line()
    channel: Any = Opened(7)
    line.tap.divert(channel, Deliveries(1, lambda _: None))
    line.tap.write(channel, b"before")
    line.feed(commands.Channel.Close(404, "NOT_FOUND", 60, 40))
    assert [type(each) for each in await line.read()] == [commands.Channel.Close]
    line.tap.write(channel, b"after")
    assert line.sent == [b"before"]


async def test_a_channels_number_may_be_anothers_when_it_is_closed() -> None:
    line = Line()
    first: Any = Opened(7)
    second: Any = Opened(7)
    line.tap.divert(first, Deliveries(1, lambda _: None))
    line.tap.divert(second, Deliveries(2, lambda _: None))
    first.closing.set_result(None)
    await asyncio.sleep(0)
    line.tap.write(second, b"still")
    second.closing.set_result(None)
    await asyncio.sleep(0)
    line.tap.write(second, b"no more")
    assert line.sent == [b"still"]


async def test_what_is_no_frame_is_the_drivers() -> None:
    line = Line()
    line.reader.feed_data(b"AMQP\x00\x00\x09\x01")
    line.reader.feed_eof()
    assert await line.tap.readexactly(8) == b"AMQP\x00\x00\x09\x01"
    with pytest.raises(asyncio.IncompleteReadError):
        await line.tap.readexactly(1)

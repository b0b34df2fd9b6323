"""Properties and routing keys as others may send them: nothing in them costs the connection."""

import pytest
from pamqp import commands, encode

from ganger_broker.rabbitmq.wire import HEADER, METHOD, Deliveries
from ganger_broker.transport import Delivery

Properties = commands.Basic.Properties


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def read(key: bytes = b"trigger.w", **raw: bytes) -> Delivery:
    """A delivery without a body, with these properties as they are on the wire."""
    got: list[Delivery] = []
    taker = Deliveries(3, got.append)
    method = commands.Basic.Deliver.index.to_bytes(4)
    method += short(b"tag") + (5).to_bytes(8) + b"\x01" + short(b"ganger") + short(key)
    flags = sum(Properties.flags[name] for name in raw)
    values = b"".join(raw[name] for name in Properties.__slots__ if name in raw)
    header = b"\x00\x3c\x00\x00" + (0).to_bytes(8) + flags.to_bytes(2) + values
    # what follows in the stream is not theirs
    assert taker.take(METHOD, method + b"\xff" * 9, 0, len(method))
    assert taker.take(HEADER, header + b"\xff" * 9, 0, len(header))
    [delivery] = got
    return delivery


@pytest.mark.parametrize("timestamp", [10**15, 10**18, 2**62, 2**64 - 1])
def test_a_timestamp_may_be_no_date(timestamp: int) -> None:
    delivery = read(
        content_type=short(b"a/b"), timestamp=timestamp.to_bytes(8), app_id=short(b"app")
    )
    assert (delivery.content_type, delivery.unreadable) == ("a/b", "")


@pytest.mark.parametrize("name", ["app_id", "user_id", "message_type", "expiration"])
def test_text_that_nobody_needs_may_be_anything(name: str) -> None:
    assert read(**{name: short(b"\xff\xfe")}).unreadable == ""


def test_text_that_is_needed_is_named() -> None:
    delivery = read(correlation_id=short(b"id-\xff"), reply_to=short(b"\xfe"), app_id=short(b"app"))
    said = "correlation_id: cannot be decoded, reply_to: cannot be decoded"
    assert delivery.unreadable == said
    assert (delivery.correlation_id, delivery.reply_to) == ("id-�", None)


def test_a_replacement_that_was_sent_as_one_is_text() -> None:
    delivery = read(correlation_id=short("id-�".encode()))
    assert (delivery.correlation_id, delivery.unreadable) == ("id-�", "")


def test_a_replacement_still_fits() -> None:
    delivery = read(key=b"\xff" * 255, correlation_id=short(b"\xff" * 255))
    assert encode.short_string(delivery.correlation_id or "")
    assert encode.short_string(delivery.routing_key)


@pytest.mark.parametrize(
    "table",
    [
        short(b"k\xff") + b"t\x01",
        short(b"k") + b"?\x01",
        short(b"k") + b"T" + (10**18).to_bytes(8),
        b"\x09k",
    ],
)
def test_headers_that_cannot_be_decoded_are_left_out(table: bytes) -> None:
    delivery = read(headers=len(table).to_bytes(4) + table, message_id=short(b"m"))
    assert list(delivery.headers) == ["ganger-headers"]
    assert delivery.headers["ganger-headers"].startswith("left out, they cannot be decoded: ")
    assert (delivery.message_id, delivery.unreadable) == ("m", "")


def test_properties_that_end_too_early_are_unreadable() -> None:
    assert read(correlation_id=b"").unreadable.endswith("properties: cannot be decoded")


def test_a_routing_key_may_be_no_text() -> None:
    delivery = read(key=b"trigger.\xff")
    assert (delivery.routing_key, delivery.tag, delivery.redelivered) == ("trigger.�", (3, 5), True)

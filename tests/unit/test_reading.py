"""Properties and deliveries that the driver cannot decode."""

from typing import Any

import pytest
from pamqp import commands, encode
from pamqp.header import ContentHeader

from ganger_broker.rabbitmq.reading import content_header, deliver_method, unreadable

Properties = commands.Basic.Properties


def packed(**raw: bytes) -> bytes:
    """A content header with these properties, as bytes."""
    flags = sum(Properties.flags[name] for name in raw)
    values = b"".join(raw[name] for name in Properties.__slots__ if name in raw)
    return b"\x00\x3c\x00\x00" + (7).to_bytes(8) + flags.to_bytes(2) + values


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def read(**raw: bytes) -> ContentHeader:
    header = content_header(packed(content_type=short(b"application/json"), **raw))
    assert header.body_size == 7
    assert header.properties.content_type == "application/json"
    return header


def test_what_can_be_decoded_is_as_the_driver_does_it() -> None:
    properties = Properties(content_type="a/b", headers={"k": [1, "x"]}, message_id="m")
    header = content_header(ContentHeader(body_size=3, properties=properties).marshal())
    assert (header.body_size, unreadable(header)) == (3, "")
    assert header.properties.headers == {"k": [1, "x"]}
    assert header.properties.message_id == "m"


@pytest.mark.parametrize("timestamp", [10**15, 10**18, 2**62, 2**64 - 1])
def test_a_timestamp_that_is_no_date_is_left_out(timestamp: int) -> None:
    header = read(timestamp=timestamp.to_bytes(8), app_id=short(b"app"))
    assert header.properties.timestamp is None
    assert header.properties.app_id == "app"
    assert unreadable(header) == ""


@pytest.mark.parametrize("name", ["app_id", "user_id", "message_type", "expiration"])
def test_text_that_nobody_needs_may_be_anything(name: str) -> None:
    assert unreadable(read(**{name: short(b"\xff\xfe")})) == ""


def test_text_that_is_needed_is_named() -> None:
    header = read(correlation_id=short(b"id-\xff"), reply_to=short(b"\xfe"), app_id=short(b"app"))
    properties = header.properties
    assert unreadable(header) == "correlation_id: cannot be decoded, reply_to: cannot be decoded"
    assert (properties.correlation_id, properties.reply_to) == ("id-�", None)
    assert properties.app_id == "app"


def test_a_replacement_still_fits() -> None:
    text = read(correlation_id=short(b"\xff" * 255)).properties.correlation_id
    assert encode.short_string(text or "")


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
    header = read(headers=len(table).to_bytes(4) + table, message_id=short(b"m"))
    said: Any = header.properties.headers
    assert list(said) == ["ganger-headers"]
    assert said["ganger-headers"].startswith("left out, they cannot be decoded: ")
    assert header.properties.message_id == "m"
    assert unreadable(header) == ""


def test_properties_that_end_too_early_are_unreadable() -> None:
    header = content_header(packed(correlation_id=b"", priority=b""))
    assert unreadable(header).startswith("properties (")


def test_a_delivery_with_a_routing_key_that_is_no_text() -> None:
    data = short(b"tag") + (5).to_bytes(8) + b"\x01" + short(b"ganger") + short(b"trigger.\xff")
    frame = deliver_method(data)
    assert (frame.consumer_tag, frame.delivery_tag, frame.redelivered) == ("tag", 5, True)
    assert (frame.exchange, frame.routing_key) == ("ganger", "trigger.�")

"""The frames that messages travel in, packed and read (AMQP 0-9-1, chapter 4).

The driver's library makes an object of each frame and looks up each field's kind by its name:
for a message that takes ten times as long as this does. All other frames are left to it.
"""

from collections.abc import Callable
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any, Protocol

from pamqp import decode, encode

from ganger_broker.transport import Delivery, Outgoing

__all__ = [
    *("CLOSE", "FRAME", "FRAME_END", "HEARTBEAT", "KINDS", "METHOD"),
    *("Confirms", "Deliveries", "Taker"),
    *("ack_frame", "nack_frame", "publish_frames"),
]

FRAME = Struct(">BHI")
"""What a frame begins with: its kind, its channel, the size of what follows but for its end."""
FRAME_END = 0xCE
MOST_SHORT = 255
"""Bytes of a short text."""
UNDECODABLE = (ValueError, TypeError, IndexError, OverflowError, OSError, StructError)
"""What decoding raises, dates out of range included."""
METHOD, HEADER, BODY, HEARTBEAT_KIND = 1, 2, 3, 8
KINDS = (METHOD, HEADER, BODY, HEARTBEAT_KIND)
HEARTBEAT = FRAME.pack(HEARTBEAT_KIND, 0, 0) + bytes([FRAME_END])

_BASIC = 60
_METHOD = Struct(">HH")
CLOSE = _METHOD.pack(20, 40)
"""What the method frame begins with that closes a channel."""
_PUBLISH, _RETURN, _DELIVER, _ACK, _NACK = (_METHOD.pack(_BASIC, m) for m in (40, 50, 60, 80, 120))
_SETTLE = Struct(">BHI4sQBB")
"""A whole frame of ``ack`` or ``nack``."""
_CONTENT = Struct(">HHQH")
"""A content header up to its properties: class, weight, size of the body, flags."""
_TAG = Struct(">QB")
_FLAGS = Struct(">H")
_MANDATORY, _MULTIPLE, _REQUEUE = 1, 1, 2
_PERSISTENT = b"\x02"

# the flags of properties, in the order in which those that are there follow
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 14, 1 << 13, 1 << 12
_PRIORITY, _CORRELATION_ID, _REPLY_TO, _EXPIRATION = 1 << 11, 1 << 10, 1 << 9, 1 << 8
_MESSAGE_ID, _TIMESTAMP, _TYPE, _MORE_FLAGS = 1 << 7, 1 << 6, 1 << 5, 1
_NEW = b"\x0aganger-new"
"""The property ``type`` of messages that nobody has sent before."""


# ── packing ───────────────────────────────────────────────────────────────────────────


def publish_frames(
    channel: int, message: Outgoing, message_id: str, most: int, *, again: bool = False
) -> bytes:
    """A message as frames of at most ``most`` bytes of its body.

    ``again``: it was sent before, so it is not new.

    Raises:
        TypeError, ValueError: a text is too long, a header's value has no type of AMQP's, or all
            headers are too long.
    """
    method = (
        _PUBLISH
        + b"\x00\x00"
        + _short(message.exchange)
        + _short(message.routing_key)
        + (b"\x01" if message.mandatory else b"\x00")
    )
    header = _header(message, message_id, new=message.new and not again)
    over = len(header) - most
    if over > 0:  # the server would close the connection, and everybody's deliveries come again
        raise ValueError(f"its headers are {over} bytes longer than a frame may be")
    body = message.body
    frames = [_frame(METHOD, channel, method), _frame(HEADER, channel, header)]
    frames += [_frame(BODY, channel, body[at : at + most]) for at in range(0, len(body), most)]
    return b"".join(frames)


def ack_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Acknowledge one delivery, or with ``multiple`` all up to it."""
    return _SETTLE.pack(METHOD, channel, 13, _ACK, tag, _MULTIPLE if multiple else 0, FRAME_END)


def nack_frame(channel: int, tag: int) -> bytes:
    """Have one delivery delivered again."""
    return _SETTLE.pack(METHOD, channel, 13, _NACK, tag, _REQUEUE, FRAME_END)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return FRAME.pack(kind, channel, len(payload)) + payload + b"\xce"


def _header(message: Outgoing, message_id: str, *, new: bool) -> bytes:
    flags = _DELIVERY_MODE | _MESSAGE_ID
    values = []
    if message.content_type:
        flags |= _CONTENT_TYPE
        values.append(_short(message.content_type))
    if message.headers:
        flags |= _HEADERS
        values.append(encode.field_table(message.headers))
    values.append(_PERSISTENT)
    if message.correlation_id:
        flags |= _CORRELATION_ID
        values.append(_short(message.correlation_id))
    if message.reply_to:
        flags |= _REPLY_TO
        values.append(_short(message.reply_to))
    values.append(_short(message_id))
    if new:
        flags |= _TYPE
        values.append(_NEW)
    return _CONTENT.pack(_BASIC, 0, len(message.body), flags) + b"".join(values)


def _short(text: str) -> bytes:
    packed = text.encode()
    return bytes((len(packed),)) + packed  # a length over 255 raises ValueError


# ── reading ───────────────────────────────────────────────────────────────────────────


class Taker(Protocol):
    """Takes frames of one channel."""

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Take the frame whose payload is there in ``data``; False where it is the driver's."""


class _Properties:
    """Those of a message that are of use here, read from its content header."""

    __slots__ = (
        "content_type",
        "correlation_id",
        "headers",
        "message_id",
        "new",
        "reply_to",
        "size",
        "unreadable",
    )

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.content_type: str | None = None
        self.correlation_id: str | None = None
        self.reply_to: str | None = None
        self.message_id: str | None = None
        self.headers: dict[str, Any] = {}
        self.new = False
        self.unreadable: list[str] = []
        _, _, self.size, flags = _CONTENT.unpack_from(data, at)
        try:
            after = self._read(data, at + _CONTENT.size, flags)
        except (IndexError, StructError):
            after = end + 1
        if after > end:
            self.unreadable.append("properties")

    def _read(self, data: bytes, at: int, flags: int) -> int:
        """Read those that ``flags`` say are there; where what was read of them ends."""
        more = flags
        while more & _MORE_FLAGS:  # none of these is of use, or in use
            (more,) = _FLAGS.unpack_from(data, at)
            at += _FLAGS.size
        if flags & _CONTENT_TYPE:
            self.content_type, at = self._needed("content_type", data, at)
        if flags & _CONTENT_ENCODING:
            at += 1 + data[at]
        if flags & _HEADERS:
            self.headers, at = _table(data, at)
        at += bool(flags & _DELIVERY_MODE) + bool(flags & _PRIORITY)
        if flags & _CORRELATION_ID:
            self.correlation_id, at = self._needed("correlation_id", data, at)
        if flags & _REPLY_TO:
            self.reply_to, at = self._needed("reply_to", data, at)
            if "reply_to" in self.unreadable:
                self.reply_to = None  # no queue has such a name
        if flags & _EXPIRATION:
            at += 1 + data[at]
        if flags & _MESSAGE_ID:
            self.message_id, at = self._needed("message_id", data, at)
        if flags & _TIMESTAMP:
            at += 8
        # what was dead-lettered has been delivered before, and may have been moved back
        dead = "x-death" in self.headers
        self.new = bool(flags & _TYPE) and data.startswith(_NEW, at) and not dead
        return at

    def _needed(self, name: str, data: bytes, at: int) -> tuple[str, int]:
        """A text that says what is to be done with the message; where it is none, that is said."""
        text, end = _text(data, at)
        if "�" in text and text.encode() != data[at + 1 : end]:
            self.unreadable.append(name)
        return text, end


class Deliveries:
    """Takes what the channel's one consumer gets; their tags are ``(generation, tag)``."""

    def __init__(self, generation: int, on_delivery: Callable[[Delivery], None]) -> None:
        self._generation = generation
        self._on_delivery = on_delivery
        self._tag = 0
        self._redelivered = False
        self._key = ""
        self._properties: _Properties
        self._parts: list[bytes] = []
        self._left = 0

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Take it; see ``Taker``."""
        if kind == BODY:
            self._parts.append(data[at:end])
            self._left -= end - at
        elif kind == HEADER:
            self._properties = _Properties(data, at, end)
            self._left = self._properties.size
        elif data.startswith(_DELIVER, at):
            self._begin(data, at + 4)
            return True
        else:
            return False
        if not self._left:
            self._end()
        return True

    def _begin(self, data: bytes, at: int) -> None:
        at += 1 + data[at]  # the consumer's tag
        self._tag, self._redelivered = _TAG.unpack_from(data, at)
        at += _TAG.size
        at += 1 + data[at]  # the exchange
        self._key, _ = _text(data, at)

    def _end(self) -> None:
        parts, self._parts = self._parts, []
        properties = self._properties
        self._on_delivery(
            Delivery(
                parts[0] if len(parts) == 1 else b"".join(parts),
                self._key,
                (self._generation, self._tag),
                properties.content_type,
                properties.message_id,
                properties.reply_to,
                properties.correlation_id,
                properties.headers,
                bool(self._redelivered),
                properties.new and not self._redelivered,
                ", ".join(f"{name}: cannot be decoded" for name in properties.unreadable),
            )
        )


class Confirms:
    """Takes the server's word on what was published on the channel."""

    def __init__(
        self,
        on_confirm: Callable[[int, bool, bool], None],
        on_return: Callable[[str | None], None],
    ) -> None:
        """``on_confirm``: of a delivery tag, whether all up to it are meant, and whether the
        server has it; ``on_return``: the id of a message that no queue took. In order."""
        self._on_confirm = on_confirm
        self._on_return = on_return

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Take it; see ``Taker``."""
        if kind == HEADER:  # of a message that came back: all else of it is known here
            self._on_return(_Properties(data, at, end).message_id)
        elif kind == METHOD and not data.startswith(_RETURN, at):
            acked = data.startswith(_ACK, at)
            if not acked and not data.startswith(_NACK, at):
                return False
            tag, bits = _TAG.unpack_from(data, at + 4)
            self._on_confirm(tag, bool(bits & _MULTIPLE), acked)
        return True


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    try:
        return data[at + 1 : end].decode(), end
    except UnicodeDecodeError:
        # others may send what is no UTF-8, and it must not cost us the connection; with the
        # replacements it still has to fit where it came from
        text = data[at + 1 : end].decode(errors="replace")
        return text.encode()[:MOST_SHORT].decode(errors="ignore"), end


def _table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    end = at + 4 + int.from_bytes(data[at : at + 4])
    try:
        return decode.field_table(data[at:end])[1], end
    except UNDECODABLE as exc:
        return {"ganger-headers": f"left out, they cannot be decoded: {exc}"}, end

"""Effects as messages: what the core wants sent, packed for the transport."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

from ganger_broker.codec import encode
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing

from .core.effects import Answer, Assign, Bury, Effect, Reply, Tell

__all__ = ["Sendable", "about", "bare_letter", "pack", "past_binding", "sendable"]

_MOST_HEADERS = 32 * 2**10
"""Bytes of foreign headers that a dead letter keeps: all must fit one frame of 128 KiB."""
_MOST_DETAIL = 2000
_BARE_DETAIL = 200
"""Characters of the detail where the broker took nothing longer."""

Sendable = Assign | Tell | Reply | Answer | Bury


def sendable(effects: Iterable[Effect]) -> list[Sendable]:
    """Those effects that send."""
    return [effect for effect in effects if isinstance(effect, Sendable)]


def pack(effect: Sendable, topology: Topology) -> Outgoing:
    """The message that carries the effect out."""
    match effect:
        case Assign():
            return Outgoing(topology.work_exchange, effect.worker, encode(effect.assignment))
        case Tell():
            return Outgoing(topology.work_exchange, effect.worker, encode(effect.message))
        case Reply():
            address = effect.address
            return Outgoing(
                "",
                address.reply_to,
                encode(effect.result, address.content_type),
                content_type=address.content_type,
                correlation_id=address.correlation_id,
            )
        case Answer():
            address = effect.address
            return Outgoing(
                "",
                address.reply_to,
                encode(effect.answer, address.content_type),
                content_type=address.content_type,
                correlation_id=address.correlation_id,
            )
        case Bury():
            return _dead_letter(effect, topology)


def past_binding(effect: Tell, topology: Topology) -> Outgoing:
    """The same to the worker's queue by its name: somebody deleted the exchange, or unbound it."""
    queue = topology.worker_queue(effect.worker)
    return Outgoing("", queue, encode(effect.message))


def about(effect: Sendable) -> dict[str, Any]:
    """What a line of the log has to say of it."""
    match effect:
        case Assign():
            return {"worker": effect.worker, "attempt": effect.assignment.attempt}
        case Tell():
            return {"worker": effect.worker, "message": type(effect.message).__name__}
        case Reply() | Answer():
            address = effect.address
            return {"correlation_id": address.correlation_id, "reply_to": address.reply_to}
        case Bury():
            return {
                "routing_key": effect.routing_key,
                "reason": effect.reason,
                "detail": effect.detail[:_BARE_DETAIL],
                "bytes": len(effect.body),
            }


def _dead_letter(effect: Bury, topology: Topology) -> Outgoing:
    """The message as it came, and in headers why it is here."""
    theirs = _plain(effect.headers)
    if len(repr(theirs).encode()) > _MOST_HEADERS:
        theirs = {"ganger-headers": f"left out, they are over {_MOST_HEADERS} bytes"}
    return _letter(effect, topology, theirs, _MOST_DETAIL)


def bare_letter(effect: Bury, topology: Topology) -> Outgoing:
    """The message and why it is here, and little else: the broker takes no longer headers."""
    theirs = {"ganger-headers": "left out, the broker did not take them"}
    return _letter(effect, topology, theirs, _BARE_DETAIL)


def _letter(effect: Bury, topology: Topology, theirs: dict[str, Any], most: int) -> Outgoing:
    reply = effect.reply
    return Outgoing(
        topology.dead,
        effect.routing_key,
        effect.body,
        content_type=effect.content_type or "application/octet-stream",
        message_id=effect.message_id,
        reply_to=reply.reply_to if reply else None,
        correlation_id=reply.correlation_id if reply else None,
        headers={
            **theirs,
            "ganger-reason": effect.reason,
            "ganger-detail": effect.detail[:most],
            "ganger-routing-key": effect.routing_key,
        },
    )


def _plain(value: Any) -> Any:
    """What AMQP and JSON can both write; the rest as text that shows it."""
    match value:
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case None | bool() | str():
            return value
        case int() if -(2**63) <= value < 2**63:
            return value
        case float() if isfinite(value):
            return value
        case _:
            return repr(value)

"""Effects as messages: what the core wants sent, packed for the transport."""

from collections.abc import Iterable

from ganger_broker.codec import encode
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing

from .core.effects import Assign, Bury, Effect, Reply, Tell

__all__ = ["Sendable", "pack", "sendable"]

Sendable = Assign | Tell | Reply | Bury


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
        case Bury():
            headers = {
                "ganger-reason": effect.reason,
                "ganger-detail": effect.detail[:2000],
                "ganger-routing-key": effect.routing_key,
            }
            kind = effect.content_type or "application/octet-stream"
            return Outgoing(
                topology.dead, effect.routing_key, effect.body, content_type=kind, headers=headers
            )

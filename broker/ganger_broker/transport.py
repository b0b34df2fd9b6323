"""The transport port: what Ganger needs of a message broker, and nothing else.

Two adapters implement it, ``ganger_broker.rabbitmq`` and ``ganger_broker.memory``; one
contract suite (``tests/contract``) holds both to what is written here.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from .topology import Binding, Exchange, Queue

__all__ = ["Delivery", "Outgoing", "Published", "Subscription", "Transport"]


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish: persistent, confirmed and, where ``mandatory``, known to be queued.

    ``exchange`` ``""`` is the default exchange: ``routing_key`` is a queue's name.
    Without a ``message_id`` it is given one, which it keeps when it is published again.
    ``new``: nobody has sent what this says before; see ``Delivery``.
    """

    exchange: str
    routing_key: str
    body: bytes
    content_type: str = "application/msgpack"
    message_id: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    headers: dict[str, Any] = {}
    mandatory: bool = True
    new: bool = False


class Published(Enum):
    """What became of a published message."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    """No queue would take it: it was mandatory, or even its exchange is missing."""
    REFUSED = "refused"
    """The broker would not keep it now: a nack."""
    IMPOSSIBLE = "impossible"
    """The broker closes the channel or the connection on it, each time: too large, not allowed,
    an address that it chokes on (it is logged)."""


class Delivery(msgspec.Struct, frozen=True):
    """A message as it came, to be acknowledged through its subscription.

    ``tag`` identifies it there. ``routing_key`` is the one it was last routed by. ``new``: who
    sent it said so, and as far as is known it was neither sent nor delivered before. An earlier
    copy may still be overtaken by a later one, or come by another way: it is but a hint.
    ``unreadable`` names the properties of these that it has and that could not be decoded.
    """

    body: bytes
    routing_key: str
    tag: Any
    content_type: str | None = None
    message_id: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    headers: dict[str, Any] = {}
    redelivered: bool = False
    new: bool = False
    unreadable: str = ""


class Subscription(Protocol):
    """A consumer of one queue, kept up through lost connections and server-side cancels."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; does not wait. Deliveries of a lost connection are passed over:
        the broker delivers them again."""

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give back unprocessed; does not wait."""

    async def cancel(self) -> None:
        """Stop consuming. What was delivered can still be acknowledged."""


class Transport(Protocol):
    """A connection to the broker.

    It connects with retries (exponential, with jitter, a log line each) and goes on doing
    so when the connection is lost: then it declares again what was declared through it,
    consumes again, and publishes again what was not confirmed. So a message may arrive
    twice, and never silently not at all.
    """

    async def connect(self) -> None:
        """Connect. Returns when connected.

        Raises:
            TransportError: the URL's user, password or virtual host is refused.
        """

    async def close(self) -> None:
        """Close. What was acknowledged before is so; what was not is delivered to others.
        What waits for a confirm raises ``TransportClosed``."""

    async def declare(self, items: Sequence[Exchange | Queue | Binding]) -> None:
        """Declare, in order; and again after each reconnect.

        Raises:
            TransportError: it exists with other arguments; the text names it.
        """

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with what is in it, and forget its declaration and bindings; this
        transport's own consumers of it are cancelled. Gone already is fine."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        """Publish all of them, pipelined and in order; what became of each, in order.

        The order holds between successive calls too: all messages of a call are on their
        way before those of a later one. It waits as long as it takes; bound it with
        ``asyncio.timeout``.

        Raises:
            TransportClosed: the transport was closed meanwhile.
            TransportError: a message cannot be packed (a header's value, a key over 255
                bytes); others of this call may have been published.
        """

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        no_ack: bool = False,
        priority: int = 0,
    ) -> Subscription:
        """Hand each message of ``queue`` to ``on_delivery``, at most ``prefetch`` unacknowledged.

        Consumers of a lower ``priority`` get only what those of a higher one have no room for.

        ``on_delivery`` is not called before this has returned; it must not block and must
        not raise. A consumer that the server cancels (its queue was deleted) is set up
        again, its queue declared again first.

        Raises:
            TransportError: there is no such queue; the text names it.
        """

    @property
    def connected(self) -> bool:
        """Whether the connection is up, as far as is known."""

    def on_reconnect(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Call this after each reconnect, and after a consumer had to be set up again;
        declarations and consumers are back by then."""

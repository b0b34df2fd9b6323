"""A queue: what waits in it, who consumes it, and when things in it are due."""

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ganger_broker.transport import Outgoing

if TYPE_CHECKING:
    from .consumer import MemoryConsumer

__all__ = ["MemoryQueue", "StoredMessage"]


@dataclass(slots=True, eq=False)
class StoredMessage:
    """A message in a queue, or delivered from it and not acknowledged."""

    message: Outgoing
    exchange: str
    routing_key: str
    headers: dict[str, Any]
    position: int = 0
    """In its queue, counted from the first message ever; what is requeued goes back there."""
    expires: float | None = None
    """When its TTL ends while it waits."""
    returns: int = 0
    """How many times it was delivered and came back."""


@dataclass(slots=True, eq=False)
class MemoryQueue:
    """A durable queue. Times are seconds of a monotonic clock."""

    name: str
    arguments: dict[str, Any]
    ready: deque[StoredMessage] = field(default_factory=deque)
    consumers: "deque[MemoryConsumer]" = field(default_factory=deque)
    """The one whose turn it is comes first."""
    used: float = 0.0
    """When it last had a consumer or was declared."""
    due: float | None = None
    """When the broker will look at it."""
    _positions: int = 0

    @property
    def ttl(self) -> float | None:
        """Seconds a message may wait in it."""
        return _seconds(self.arguments.get("x-message-ttl"))

    @property
    def expires_after(self) -> float | None:
        """Seconds it lives without a consumer."""
        return _seconds(self.arguments.get("x-expires"))

    @property
    def counts_deliveries(self) -> bool:
        """Quorum queues do, and tell in ``x-delivery-count``."""
        return bool(self.arguments.get("x-queue-type") == "quorum")

    def append(self, stored: StoredMessage, now: float) -> None:
        """Put a new message at its end."""
        self._positions += 1
        stored.position = self._positions
        ttl = self.ttl
        stored.expires = None if ttl is None else now + ttl
        self.ready.append(stored)

    def put_back(self, returned: list[StoredMessage]) -> list[StoredMessage]:
        """Requeue at their old places; those over the delivery limit, which are not."""
        limit = self.arguments.get("x-delivery-limit") if self.counts_deliveries else None
        kept: list[StoredMessage] = []
        over: list[StoredMessage] = []
        for stored in returned:
            stored.returns += 1
            if self.counts_deliveries:
                stored.headers = {**stored.headers, "x-delivery-count": stored.returns}
            (over if limit is not None and stored.returns > limit else kept).append(stored)
        self.restore(kept)
        return over

    def restore(self, undelivered: list[StoredMessage]) -> None:
        """Put messages back at their old places as if they had never left."""
        merged = sorted(undelivered, key=attrgetter("position"))
        if merged and self.ready and merged[-1].position > self.ready[0].position:
            self.ready = deque(sorted([*merged, *self.ready], key=attrgetter("position")))
        else:
            self.ready.extendleft(reversed(merged))

    def take_expired(self, now: float) -> list[StoredMessage]:
        """Remove those at its head whose time is over."""
        expired = []
        while self.ready and (at := self.ready[0].expires) is not None and at <= now:
            expired.append(self.ready.popleft())
        return expired

    def is_unused(self, now: float) -> bool:
        """Whether nobody has used it for as long as it may live."""
        after = self.expires_after
        return after is not None and not self.consumers and now >= self.used + after

    def next_due(self) -> float | None:
        """When its head or the queue itself expires, if nothing happens."""
        times = [self.ready[0].expires] if self.ready else []
        if self.expires_after is not None and not self.consumers:
            times.append(self.used + self.expires_after)
        return min((at for at in times if at is not None), default=None)

    def next_consumer(self) -> "MemoryConsumer | None":
        """The next in turn that may get one more message, of those with the highest priority."""
        ready = [consumer for consumer in self.consumers if consumer.has_credit]
        if not ready:
            return None
        chosen = max(ready, key=attrgetter("priority"))  # of several the first
        self.consumers.remove(chosen)
        self.consumers.append(chosen)
        return chosen


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000

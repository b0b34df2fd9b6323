"""Deliveries from their arrival until they are settled: nothing is in nobody's hands."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ganger_broker.transport import Delivery, Subscription, Transport

__all__ = ["Inbox", "Received"]

_BATCH_BYTES = 16 * 2**20
"""Bodies in one batch: what it commits is of that order, and Redis takes 512 MB at most."""


class Received(NamedTuple):
    """A delivery and the queue it came from."""

    delivery: Delivery
    queue: str

    def __hash__(self) -> int:
        return id(self.delivery)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Received) and other.delivery is self.delivery


class Inbox:
    """Consumes queues; ``on_arrival`` is called with each delivery that came."""

    def __init__(self, transport: Transport, batch: int, on_arrival: Callable[[], None]) -> None:
        self._transport = transport
        self._batch = batch
        self._on_arrival = on_arrival
        self._waiting: deque[Received] = deque()
        self._unsettled: dict[tuple[str, Any], Received] = {}
        self._subscriptions: dict[str, Subscription] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def consume(self, queue: str) -> None:
        """Take what comes from this queue as well."""

        def receive(delivery: Delivery) -> None:
            received = self._unsettled[queue, delivery.tag] = Received(delivery, queue)
            self._waiting.append(received)
            self._on_arrival()

        # twice the batch: one batch is worked on while the next one arrives
        self._subscriptions[queue] = await self._transport.consume(
            queue, receive, prefetch=2 * self._batch
        )

    def take(self) -> list[Received]:
        """The next deliveries, as many as one commit should hold."""
        batch: list[Received] = []
        size = 0
        while self._waiting and len(batch) < self._batch and size < _BATCH_BYTES:
            received = self._waiting.popleft()
            size += len(received.delivery.body)
            batch.append(received)
        return batch

    def has_from(self, queue: str) -> bool:
        """Whether something of this queue waits to be taken."""
        return any(received.queue == queue for received in self._waiting)

    def settle(self, batch: Sequence[Received]) -> None:
        """Acknowledge."""
        for queue, subscription in self._subscriptions.items():
            done = [received.delivery for received in batch if received.queue == queue]
            if done:
                subscription.ack(done)
        for received in batch:
            self._unsettled.pop((received.queue, received.delivery.tag), None)

    async def close(self) -> None:
        """Consume no more; what was taken may still be settled."""
        for subscription in self._subscriptions.values():
            await subscription.cancel()

    def give_back(self) -> None:
        """All that is not settled is for somebody else."""
        for queue, subscription in self._subscriptions.items():
            left = [r.delivery for r in self._unsettled.values() if r.queue == queue]
            if left:
                subscription.requeue(left)
        self._unsettled.clear()
        self._waiting.clear()

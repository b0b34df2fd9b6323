"""Deliveries from their arrival until they are settled: nothing is in nobody's hands."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ganger_broker.transport import Delivery, Subscription, Transport

__all__ = ["Inbox", "Received"]

_BATCH_BYTES = 16 * 2**20
"""Bodies in one batch: what it commits is of that order, and Redis takes 512 MB at most."""


class Received(NamedTuple):
    """A delivery and where it came from."""

    delivery: Delivery
    queue: str
    subscription: Subscription

    def again(self) -> "Received":
        """The same, as one that was there before."""
        return self._replace(delivery=replace(self.delivery, redelivered=True, new=False))

    def __hash__(self) -> int:
        return id(self.delivery)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Received) and other.delivery is self.delivery


class Inbox:
    """Consumes queues, for one term of leadership after the other."""

    def __init__(self, transport: Transport, batch: int, priority: int) -> None:
        """Among several consumers those of the highest ``priority`` get what comes."""
        self._clock = asyncio.get_running_loop().time
        self._transport = transport
        self._batch = batch
        self._priority = priority
        self._on_arrival: Callable[[str], None] = _nobody
        self._waiting: deque[Received] = deque()
        self._unsettled: dict[Received, None] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._came_at: dict[str, float] = {}

    def begin(self, on_arrival: Callable[[str], None]) -> None:
        """A term begins: it handles again what none before it has settled.

        ``on_arrival`` is called with the queue of each delivery that comes.
        """
        self._on_arrival = on_arrival
        again = [received.again() for received in self._unsettled]
        self._unsettled = dict.fromkeys(again)
        self._waiting = deque(again)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def consume(self, queue: str) -> None:
        """Take what comes from this queue as well, where it is not done already."""
        if queue in self._subscriptions:
            return

        def receive(delivery: Delivery) -> None:
            received = Received(delivery, queue, subscription)
            self._unsettled[received] = None
            self._waiting.append(received)
            self._came_at[queue] = self._clock()
            self._on_arrival(queue)

        # twice the batch: one batch is worked on while the next one arrives
        subscription = await self._transport.consume(
            queue, receive, prefetch=2 * self._batch, priority=self._priority
        )
        self._subscriptions[queue] = subscription
        self._came_at[queue] = self._clock()

    def idle(self, after: float) -> list[str]:
        """Queues that have brought nothing for ``after`` seconds."""
        now = self._clock()
        return [queue for queue, came_at in self._came_at.items() if now - came_at >= after]

    async def renew_idle(self, after: float) -> None:
        """Consume those anew.

        RabbitMQ keeps a consumer on the remains of a quorum queue that is deleted and declared
        again at once, and says nothing of it: it cannot be told from one that has nothing to do.
        """
        for queue in self.idle(after):
            await self._subscriptions.pop(queue).cancel()
            await self.consume(queue)

    def take(self) -> list[Received]:
        """The next deliveries, as many as one commit should hold.

        Queues have no order among them. Those of one that is consumed for longer come first: what
        a worker registers, before an event that was pushed since.
        """
        batch: list[Received] = []
        size = 0
        while self._waiting and len(batch) < self._batch and size < _BATCH_BYTES:
            received = self._waiting.popleft()
            size += len(received.delivery.body)
            batch.append(received)
        order = list(self._came_at)
        return sorted(batch, key=lambda received: order.index(received.queue))

    def settle(self, batch: Sequence[Received]) -> None:
        """Acknowledge."""
        for subscription, deliveries in _by_subscription(batch):
            subscription.ack(deliveries)
        for received in batch:
            self._unsettled.pop(received, None)

    async def close(self) -> None:
        """Consume no more; what was taken may still be settled."""
        for subscription in self._subscriptions.values():
            await subscription.cancel()

    def give_back(self) -> None:
        """All that is not settled is for somebody else."""
        for subscription, deliveries in _by_subscription(self._unsettled):
            subscription.requeue(deliveries)
        self._unsettled.clear()
        self._waiting.clear()


def _nobody(_: str) -> None:
    """Whom to tell of arrivals before the first term."""


def _by_subscription(batch: Iterable[Received]) -> Iterable[tuple[Subscription, list[Delivery]]]:
    found: dict[int, tuple[Subscription, list[Delivery]]] = {}
    for received in batch:
        _, deliveries = found.setdefault(id(received.subscription), (received.subscription, []))
        deliveries.append(received.delivery)
    return found.values()

"""``MemoryTransport``: the transport port on a ``MemoryBroker``."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from secrets import token_hex
from struct import error as StructError  # noqa: N812
from typing import Any

import msgspec
import structlog
from pamqp import encode

from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.topology import Binding, Exchange, Queue
from ganger_broker.transport import Delivery, Outgoing, Published

from .broker import MemoryBroker
from .consumer import LoopCaller, MemoryConsumer
from .queue import StoredMessage

__all__ = ["MemorySubscription", "MemoryTransport"]

log = structlog.get_logger(__name__)

Item = Exchange | Queue | Binding

MOST_HEADERS = 2**17 - 2**12
"""Bytes: a frame of RabbitMQ's has 128 KiB, and the other properties are in it as well."""
QUEUE_BACK_WAIT = 0.1
"""Seconds between looks for a queue that was deleted and that only others declare."""


class MemorySubscription:
    """The port's ``Subscription`` on a ``MemoryBroker``."""

    def __init__(
        self,
        broker: MemoryBroker,
        make: Callable[["MemorySubscription"], MemoryConsumer],
        on_delivery: Callable[[Delivery], None],
    ) -> None:
        self.cancelled = False
        self._broker = broker
        self._make = make
        self._on_delivery = on_delivery
        self._consumer = make(self)
        self._generation = 0

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self._consumer.queue_name

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; see the port."""
        self._settle(deliveries, requeue=False)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give back; see the port."""
        self._settle(deliveries, requeue=True)

    async def cancel(self) -> None:
        """Stop consuming; see the port."""
        self.cancelled = True
        self._broker.unsubscribe(self._consumer, give_back=False)

    def close(self) -> None:
        """Stop consuming and give back what is unacknowledged."""
        self.cancelled = True
        self.lose()

    def open(self) -> None:
        """Begin to consume.

        Raises:
            TransportError: there is no such queue.
        """
        self._broker.subscribe(self._consumer)

    def lose(self) -> None:
        """Lose the connection: what is unacknowledged goes back, old tags mean nothing."""
        self._broker.unsubscribe(self._consumer, give_back=True)
        self._generation += 1
        self._consumer = self._make(self)

    def hand_over(self) -> None:
        """Give what came to ``on_delivery``, in the loop."""
        for tag, stored, redelivered in self._broker.take_inbox(self._consumer):
            try:
                self._on_delivery(_delivery((self._generation, tag), stored, redelivered))
            except Exception:
                # Requeued it would come again at once, and fail again.
                log.exception("on_delivery failed, message left unacknowledged", queue=self.queue)

    def _settle(self, deliveries: Sequence[Delivery], *, requeue: bool) -> None:
        tags = [d.tag[1] for d in deliveries if d.tag[0] == self._generation]
        self._broker.settle(self._consumer, tags, requeue=requeue)


class MemoryTransport:
    """The transport port within this process, for one event loop."""

    def __init__(self, broker: MemoryBroker, *, name: str = "memory") -> None:
        self._broker = broker
        self._name = name
        self._declared: dict[Any, Item] = {}
        self._subscriptions: list[MemorySubscription] = []
        self._callbacks: list[Callable[[], Awaitable[None] | None]] = []
        self._caller: LoopCaller | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._id_prefix = token_hex(8)
        self._ids = count(1)

    # ── the port ──

    async def connect(self) -> None:
        """Connect; see the port."""
        self._check_open()
        if self._caller is None:
            self._caller = LoopCaller()
            self._broker.attach(self._caller)

    async def close(self) -> None:
        """Close; see the port."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for subscription in self._subscriptions:
            subscription.close()
        if self._caller is not None:
            self._broker.detach(self._caller)

    async def declare(self, items: Sequence[Item]) -> None:
        """Declare; see the port."""
        self._check_connected()
        for item in items:
            self._broker.declare(item)
            self._declared[_key(item)] = item

    async def delete_queue(self, name: str) -> None:
        """Delete; see the port."""
        self._check_connected()
        for subscription in [s for s in self._subscriptions if s.queue == name]:
            await subscription.cancel()
            self._subscriptions.remove(subscription)
        self._declared = {
            key: item
            for key, item in self._declared.items()
            if isinstance(item, Exchange) or item not in self._items_of(name)
        }
        self._broker.delete_queue(name)

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        """Publish; see the port."""
        self._check_connected()
        outcomes = self._broker.publish([self._with_id(message) for message in messages])
        await asyncio.sleep(0)  # others get their turn, as with a real broker
        return outcomes

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        no_ack: bool = False,
        priority: int = 0,
    ) -> MemorySubscription:
        """Consume; see the port."""
        caller = self._check_connected()

        def make(subscription: MemorySubscription) -> MemoryConsumer:
            return MemoryConsumer(
                queue,
                caller,
                subscription.hand_over,
                lambda: self._start_recovery(subscription),
                prefetch=prefetch,
                no_ack=no_ack,
                priority=priority,
            )

        subscription = MemorySubscription(self._broker, make, on_delivery)
        subscription.open()
        self._subscriptions.append(subscription)
        return subscription

    @property
    def connected(self) -> bool:
        """Whether it is up; see the port."""
        return self._caller is not None and not self._closed

    def on_reconnect(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Have it called; see the port."""
        self._callbacks.append(callback)

    # ── losing and recovering ──

    async def lose_connection(self) -> None:
        """For tests: behave as when a connection was lost and made again. What was delivered
        and not acknowledged goes back, then everybody is told; returns after that."""
        self._check_connected()
        for subscription in self._subscriptions:
            subscription.lose()
        for item in self._declared.values():
            self._broker.declare(item)
        for subscription in self._subscriptions:
            if not subscription.cancelled:
                subscription.open()
        await self._call_back()

    def _start_recovery(self, subscription: MemorySubscription) -> None:
        if not self._closed and not subscription.cancelled:
            task = asyncio.create_task(self._recover(subscription))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _recover(self, subscription: MemorySubscription) -> None:
        """The broker cancelled it: declare its queue again, and consume again."""
        log.warning("consumer cancelled by the broker: its queue is gone", queue=subscription.queue)
        subscription.lose()
        while not subscription.cancelled:
            try:
                for item in self._items_of(subscription.queue):
                    self._broker.declare(item)
                subscription.open()
            except TransportError as exc:
                log.warning("consuming again failed, trying again", error=str(exc))
                await asyncio.sleep(QUEUE_BACK_WAIT)
            else:
                await self._call_back()
                return

    async def _call_back(self) -> None:
        for callback in list(self._callbacks):
            try:
                result = callback()
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.exception("a callback for reconnects failed", callback=repr(callback))

    # ── the rest ──

    def _with_id(self, message: Outgoing) -> Outgoing:
        _check_packable(message)
        if message.message_id is not None:
            return message
        return msgspec.structs.replace(message, message_id=f"{self._id_prefix}{next(self._ids):x}")

    def _items_of(self, queue: str) -> list[Item]:
        """What was declared that a queue needs, in order."""
        return [
            item
            for item in self._declared.values()
            if isinstance(item, Exchange)
            or (isinstance(item, Queue) and item.name == queue)
            or (isinstance(item, Binding) and item.queue == queue)
        ]

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed(f"transport {self._name!r} is closed")

    def _check_connected(self) -> LoopCaller:
        self._check_open()
        if self._caller is None:
            raise TransportError(f"transport {self._name!r}: await connect() first")
        return self._caller


def _key(item: Item) -> Any:
    return item if isinstance(item, Binding) else (type(item), item.name)


def _check_packable(message: Outgoing) -> None:
    """Refuse what AMQP could not carry, so that it is found before there is a RabbitMQ."""
    try:
        for short in (message.exchange, message.routing_key, message.message_id or ""):
            encode.short_string(short)
        if message.headers and len(encode.field_table(message.headers)) > MOST_HEADERS:
            raise ValueError("its headers are longer than a frame may be")
    except (TypeError, ValueError, OverflowError, StructError) as exc:
        where = f"message to exchange {message.exchange!r}, key {message.routing_key!r}"
        raise TransportError(f"{where}: cannot be packed: {exc}") from exc


def _delivery(tag: tuple[int, int], stored: StoredMessage, redelivered: bool) -> Delivery:
    message = stored.message
    return Delivery(
        body=message.body,
        routing_key=stored.routing_key,
        tag=tag,
        content_type=message.content_type,
        message_id=message.message_id,
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
        headers=stored.headers,
        redelivered=redelivered,
        new=message.new and not redelivered and "x-death" not in stored.headers,
    )

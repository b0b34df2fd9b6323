"""``MemoryBroker``: exchanges and queues in this process."""

import threading
import time
from collections.abc import Callable, Sequence

from ganger_broker.errors import TransportError
from ganger_broker.topology import Binding, Exchange, Queue
from ganger_broker.transport import Outgoing, Published

from .consumer import Batch, LoopCaller, MemoryConsumer
from .deadletter import headers_of_the_dead, is_cycle
from .exchange import MemoryExchange
from .queue import MemoryQueue, StoredMessage
from .timer import Timer

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """A broker for one process, safe from any thread.

    Topic, direct, fanout and default exchanges; queues with ``x-message-ttl``,
    ``x-expires``, ``x-dead-letter-exchange``, ``x-dead-letter-routing-key`` and (quorum)
    ``x-delivery-limit``; prefetch, redelivery, mandatory returns, cancelled consumers.
    Programs use it through ``MemoryTransport``; the methods here are what tests look with.
    ``clock``: seconds that never go back, at the pace of the loops that use it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._exchanges: dict[str, MemoryExchange] = {}
        self._queues: dict[str, MemoryQueue] = {}
        self._timer = Timer(self._lock, self._look, clock)

    # ── looking ──

    def queues(self) -> list[str]:
        """Names of the queues there are."""
        with self._lock:
            self._look()
            return list(self._queues)

    def depth(self, queue: str) -> int:
        """How many messages wait in a queue, those at consumers not counted; 0 if none is."""
        with self._lock:
            self._look()
            found = self._queues.get(queue)
            return len(found.ready) if found else 0

    # ── for transports ──

    def attach(self, caller: LoopCaller) -> None:
        """A transport is there, and its loop can run timers. Consumers whose loop ended
        without a word are dropped, and what they held goes back."""
        with self._lock:
            consumers = [c for queue in self._queues.values() for c in queue.consumers]
            for consumer in consumers:
                if consumer.caller.loop.is_closed():
                    self.unsubscribe(consumer, give_back=True)
            self._timer.attach(caller)

    def detach(self, caller: LoopCaller) -> None:
        """A transport has gone."""
        with self._lock:
            self._timer.detach(caller)

    def declare(self, item: Exchange | Queue | Binding) -> None:
        """Declare; alike already is fine.

        Raises:
            TransportError: it exists with other arguments, or what it binds is missing.
        """
        with self._lock:
            self._look()
            match item:
                case Exchange():
                    self._declare_exchange(item)
                case Queue():
                    self._declare_queue(item)
                case Binding(exchange, queue, key):
                    where = f"binding of queue {queue!r} to exchange {exchange!r}"
                    if exchange not in self._exchanges:
                        raise TransportError(f"{where}: there is no such exchange")
                    if queue not in self._queues:
                        raise TransportError(f"{where}: there is no such queue")
                    self._exchanges[exchange].bind(queue, key)

    def delete_queue(self, name: str) -> None:
        """Delete a queue with what is in it, and cancel its consumers."""
        with self._lock:
            queue = self._queues.pop(name, None)
            if queue is None:
                return
            for exchange in self._exchanges.values():
                exchange.unbind(name)
            for consumer in queue.consumers:
                consumer.queue = None
                consumer.take_unacked()
                consumer.caller.call(consumer.on_cancel)

    def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        """Publish in order; what became of each."""
        with self._lock:
            self._look()
            now = self._clock()
            touched: dict[str, MemoryQueue] = {}
            outcomes = [self._publish_one(message, now, touched) for message in messages]
            for queue in touched.values():
                self._hand_out(queue)
            return outcomes

    def subscribe(self, consumer: MemoryConsumer) -> None:
        """Begin to consume.

        Raises:
            TransportError: there is no such queue.
        """
        with self._lock:
            self._look()
            queue = self._queues.get(consumer.queue_name)
            if queue is None:
                raise TransportError(f"queue {consumer.queue_name!r}: there is no such queue")
            consumer.queue = queue
            queue.consumers.append(consumer)
            self._hand_out(queue)

    def unsubscribe(self, consumer: MemoryConsumer, *, give_back: bool) -> None:
        """Stop consuming; with ``give_back`` what it holds goes back to the queue as well."""
        with self._lock:
            queue, unseen = consumer.queue, consumer.take_unseen()
            if queue is None:
                return
            if consumer in queue.consumers:
                queue.consumers.remove(consumer)
                queue.used = self._clock()
                queue.restore(unseen)
            if give_back:
                self._put_back(queue, consumer.take_unacked())
            self._hand_out(queue)

    def take_inbox(self, consumer: MemoryConsumer) -> Batch:
        """What was sent to a consumer since it last looked."""
        with self._lock:
            return consumer.take_inbox()

    def settle(self, consumer: MemoryConsumer, tags: list[int], *, requeue: bool) -> None:
        """Acknowledge or give back deliveries; unknown ones are passed over."""
        with self._lock:
            settled = consumer.settle(tags)
            queue = consumer.queue
            if queue is None or not settled:
                return
            if requeue:
                self._put_back(queue, settled)
            self._hand_out(queue)

    # ── inside, under the lock ──

    def _declare_exchange(self, item: Exchange) -> None:
        known = self._exchanges.setdefault(item.name, MemoryExchange(item)).declared
        if known.kind != item.kind:
            raise TransportError(
                f"exchange {item.name!r}: inequivalent arg 'type': "
                f"received {item.kind!r} but current is {known.kind!r}"
            )

    def _declare_queue(self, item: Queue) -> None:
        queue = self._queues.get(item.name)
        if queue is None:
            queue = self._queues[item.name] = MemoryQueue(item.name, dict(item.arguments))
        for name in sorted({*item.arguments, *queue.arguments}):
            received, current = item.arguments.get(name), queue.arguments.get(name)
            if received != current:
                raise TransportError(
                    f"queue {item.name!r}: inequivalent arg {name!r}: "
                    f"received {received!r} but current is {current!r}"
                )
        queue.used = self._clock()
        self._timer.watch(queue)

    def _publish_one(
        self, message: Outgoing, now: float, touched: dict[str, MemoryQueue]
    ) -> Published:
        if message.exchange and message.exchange not in self._exchanges:
            return Published.RETURNED
        found = self._route(message.exchange, message.routing_key)
        for queue in found:
            headers = dict(message.headers)
            stored = StoredMessage(message, message.exchange, message.routing_key, headers)
            queue.append(stored, now)
            touched[queue.name] = queue
        return Published.CONFIRMED if found or not message.mandatory else Published.RETURNED

    def _route(self, exchange: str, key: str) -> list[MemoryQueue]:
        if not exchange:
            return [self._queues[key]] if key in self._queues else []
        known = self._exchanges.get(exchange)
        return [self._queues[name] for name in known.route(key)] if known else []

    def _hand_out(self, queue: MemoryQueue) -> None:
        """Give what waits to whom may have it; watch what is left."""
        while queue.ready and (consumer := queue.next_consumer()) is not None:
            stored = queue.ready.popleft()
            if not consumer.deliver(stored):
                queue.ready.appendleft(stored)
                self.unsubscribe(consumer, give_back=True)
        if queue.ready and queue.ready[0].expires is not None:
            self._expire(queue)
        self._timer.watch(queue)

    def _put_back(self, queue: MemoryQueue, returned: list[StoredMessage]) -> None:
        for stored in queue.put_back(returned):
            self._bury(queue, stored, "delivery_limit")

    def _expire(self, queue: MemoryQueue) -> None:
        for stored in queue.take_expired(self._clock()):
            self._bury(queue, stored, "expired")

    def _bury(self, queue: MemoryQueue, stored: StoredMessage, reason: str) -> None:
        """Dead-letter where the queue says to; else it is gone, as it is with RabbitMQ."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if exchange is None:
            return
        key = queue.arguments.get("x-dead-letter-routing-key", stored.routing_key)
        headers = headers_of_the_dead(stored, queue.name, reason)
        for target in self._route(exchange, key):
            if not is_cycle(headers, target.name):
                target.append(StoredMessage(stored.message, exchange, key, headers), self._clock())
                self._hand_out(target)

    def _look(self) -> None:
        """See to everything whose time has come."""
        with self._lock:
            now = self._clock()
            for name in self._timer.pop_due(now):
                queue = self._queues.get(name)
                if queue is None:
                    continue
                queue.due = None
                if queue.is_unused(now):
                    self.delete_queue(name)
                    continue
                self._expire(queue)
                self._timer.watch(queue)

"""The dispatcher process: one leader feeds the core and carries its effects out.

The order is the guarantee. A batch of deliveries becomes facts, facts become effects;
what they store is committed in one script, then what they send is published, then the
deliveries are acknowledged. A crash between any two of these loses nothing.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import structlog

from ganger_broker.errors import EpochSuperseded, StoreError, TransportClosed, TransportError
from ganger_broker.settings import Settings
from ganger_broker.transport import Delivery, Published, Subscription, Transport

from .core.core import Core, Fact
from .core.effects import Assign, Bury, DeleteQueue, Effect, Reply
from .core.facts import AssignmentReturned, BrokerRestored, TimePassed, TriggerReceived
from .core.state import Policy
from .intake import read
from .outgoing import Sendable, pack, sendable
from .store.redis_store import Message, RedisStore

__all__ = ["Dispatcher", "policy_of"]

T = TypeVar("T")

_BATCHES_IN_FLIGHT = 16
"""Committed batches whose messages are not confirmed yet, at most."""
_PRUNE_EVERY = 60.0
"""Seconds between looks for runs whose retention is over."""
_STORE_RETRY = 0.2
"""Seconds between tries while Redis is away."""


def policy_of(settings: Settings) -> Policy:
    """The core's durations, ms."""
    return Policy(
        worker_timeout=round(settings.worker_timeout * 1000),
        pickup_deadline=round(settings.pickup_deadline * 1000),
        hold=round(settings.hold * 1000),
    )


class _Clock:
    """Milliseconds since 1970 that never go back while this process lives."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> int:
        return round((self._offset + time.monotonic()) * 1000)


class Dispatcher:
    """Campaigns for the lease, and leads while it holds it."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        store: RedisStore,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.leading = asyncio.Event()
        self._settings = settings
        self._transport = transport
        self._store = store
        self._clock = clock or _Clock()
        self._topology = settings.topology()
        self._stopping = asyncio.Event()
        self._term: _Term | None = None
        self._log = structlog.get_logger("ganger.dispatcher").bind(dispatcher=self.id)

    async def run(self) -> None:
        """Lead or stand by until ``stop`` is called."""
        self._transport.on_reconnect(self._reconnected)
        await self._transport.connect()
        try:
            while not self._stopping.is_set():
                epoch = await self._campaign()
                if epoch is not None:
                    await self._lead(epoch)
        finally:
            await self._transport.close()

    def _reconnected(self) -> None:
        if self._term is not None:
            self._term.reconnected()

    def stop(self) -> None:
        """End soon: commit and send what is being handled, give the rest and the lease back."""
        self._stopping.set()

    async def _campaign(self) -> int | None:
        """Wait for the lease; its epoch, or None when stopping."""
        lease = round(self._settings.lease * 1000)
        self._log.info("standing_by")
        while not self._stopping.is_set():
            try:
                epoch, wait = await self._store.lease(self.id, lease)
            except StoreError as exc:
                self._log.warning("store_unreachable", error=str(exc))
                epoch, wait = 0, 1000
            if epoch:
                return epoch
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait / 1000 + 0.01):
                    await self._stopping.wait()
        return None

    async def _lead(self, epoch: int) -> None:
        self._term = _Term(self, epoch)
        try:
            await self._term.serve()
        except EpochSuperseded as exc:
            self._log.warning("superseded", error=str(exc))
        except StoreError as exc:
            self._log.error("store_failed", error=str(exc))
        finally:
            self._term = None
            self.leading.clear()
        if self._stopping.is_set():
            with contextlib.suppress(StoreError):
                await self._store.resign(self.id)


class _Term:
    """One leadership: from a lease with its epoch to its end."""

    def __init__(self, dispatcher: Dispatcher, epoch: int) -> None:
        self._dispatcher = dispatcher
        self._epoch = epoch
        self._settings = dispatcher._settings
        self._transport = dispatcher._transport
        self._store = dispatcher._store
        self._clock = dispatcher._clock
        self._topology = dispatcher._topology
        self._log = dispatcher._log.bind(epoch=epoch)
        self._core = Core(policy_of(self._settings))
        self._inbox: deque[tuple[Delivery, str]] = deque()
        self._facts: deque[Fact] = deque()
        self._something = asyncio.Event()
        self._over = asyncio.Event()
        self._subscriptions: dict[str, Subscription] = {}
        self._in_flight = asyncio.Semaphore(_BATCHES_IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()
        self._sent: list[str] = []
        self._messages = 0
        # a term after a failure may have the same epoch: its messages need other names
        self._names = f"{epoch}-{uuid4().hex[:8]}"

    async def serve(self) -> None:
        """Take over, and lead until stopped or overtaken."""
        stopping = asyncio.create_task(self._dispatcher._stopping.wait())
        keeping = asyncio.create_task(self._keep_lease())
        stopping.add_done_callback(lambda _: self._end())
        keeping.add_done_callback(lambda _: self._end())
        try:
            await self._take_over()
            await self._consume()
            self._log.info("leading")
            self._dispatcher.leading.set()
            await self._work()
            if keeping.done():
                keeping.result()
        finally:
            for task in (stopping, keeping):
                task.cancel()
            await self._give_back()

    def _end(self) -> None:
        self._over.set()
        self._something.set()

    async def _keep_lease(self) -> None:
        """Renew the lease, and prune now and then; ends when the lease is another's."""
        lease = round(self._settings.lease * 1000)
        pruned = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            try:
                epoch, _ = await self._store.lease(self._dispatcher.id, lease)
                if epoch != self._epoch:
                    raise EpochSuperseded(f"epoch {self._epoch} is over")
                if time.monotonic() - pruned > _PRUNE_EVERY:
                    pruned = time.monotonic()
                    await self._store.prune(self._clock() - round(self._settings.retention * 1000))
            except EpochSuperseded:
                raise
            except StoreError as exc:
                # commits are fenced by the epoch, so trying on is safe
                self._log.warning("store_unreachable", error=str(exc))

    async def _take_over(self) -> None:
        await self._transport.declare(self._topology.shared())
        snapshot = await self._store.load()
        outbox = await self._store.outbox()
        effects = self._core.restore(snapshot, self._clock())
        self._log.info(
            "taking_over",
            workers=len(snapshot.workers),
            runs=len(snapshot.runs),
            held=len(snapshot.held),
            unsent=len(outbox),
        )
        await self._carry_out(effects, [])
        await self._in_flight.acquire()
        self._spawn(self._finish(list(outbox.values()), list(outbox), [], []))

    async def _consume(self) -> None:
        # twice the batch: one batch is worked on while the next one arrives
        for queue in (self._topology.triggers, self._topology.events):
            self._subscriptions[queue] = await self._transport.consume(
                queue,
                lambda delivery, queue=queue: self._receive(delivery, queue),  # type: ignore[misc]
                prefetch=2 * self._settings.batch,
            )

    def _receive(self, delivery: Delivery, queue: str) -> None:
        self._inbox.append((delivery, queue))
        self._something.set()

    def reconnected(self) -> None:
        """The broker was away and is back."""
        self._facts.append(BrokerRestored())
        self._something.set()

    # ── the loop ──────────────────────────────────────────────────────────────────────

    async def _work(self) -> None:
        while True:
            await self._wait()
            if self._over.is_set():
                return
            facts: list[Fact] = list(self._facts)
            self._facts.clear()
            batch = [
                self._inbox.popleft() for _ in range(min(len(self._inbox), self._settings.batch))
            ]
            for delivery, _ in batch:
                facts += read(delivery, self._settings.max_message_bytes)
            if self._due() and not self._inbox:
                facts.append(TimePassed())
            await self._look_up_ended(facts)
            now = self._clock()
            effects: list[Effect] = []
            for fact in facts:
                effects += self._core.handle(fact, now)
            await self._carry_out(effects, batch)

    def _due(self) -> bool:
        wake_at = self._core.wake_at
        return wake_at is not None and wake_at <= self._clock()

    async def _wait(self) -> None:
        """Until there is something to handle or a wake-up is due."""
        if self._inbox or self._facts or self._due():
            await asyncio.sleep(0)
            return
        self._something.clear()
        wake_at = self._core.wake_at
        left = None if wake_at is None else max(0, wake_at - self._clock()) / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._something.wait()

    async def _look_up_ended(self, facts: list[Fact]) -> None:
        """Give triggers of runs that have ended their results: the core knows only live ones."""
        runs = self._core.state.runs
        asked = [
            fact.run_id
            for fact in facts
            if isinstance(fact, TriggerReceived) and fact.run_id not in runs
        ]
        if not asked:
            return
        ended = await self._persist(lambda: self._store.ended(asked))
        for index, fact in enumerate(facts):
            if isinstance(fact, TriggerReceived) and fact.run_id in ended:
                facts[index] = TriggerReceived(
                    fact.trigger, fact.run_id, fact.reply, ended[fact.run_id]
                )

    async def _carry_out(self, effects: list[Effect], batch: list[tuple[Delivery, str]]) -> None:
        """Commit, then publish and acknowledge in the background, in order."""
        messages = sendable(effects)
        outbox: dict[str, Message] = {}
        names: list[str | None] = []
        for message in messages:
            keep = isinstance(message, Reply) or (isinstance(message, Bury) and message.keep)
            name = self._name() if keep else None
            names.append(name)
            if name is not None:
                outbox[name] = message  # type: ignore[assignment]
        sent, self._sent = self._sent, []
        await self._persist(lambda: self._store.commit(self._epoch, effects, outbox, sent))
        await self._in_flight.acquire()
        gone = [effect.worker for effect in effects if isinstance(effect, DeleteQueue)]
        self._spawn(self._finish(messages, names, batch, gone))

    def _name(self) -> str:
        self._messages += 1
        return f"{self._names}-{self._messages}"

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis, again and again while it is away; the core's state waits meanwhile."""
        while True:
            try:
                return await ask()
            except EpochSuperseded:
                raise
            except StoreError as exc:
                if self._over.is_set():
                    raise
                self._log.warning("store_unreachable", error=str(exc))
                await asyncio.sleep(_STORE_RETRY)

    # ── sending ───────────────────────────────────────────────────────────────────────

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _finish(
        self,
        messages: Sequence[Sendable],
        names: Sequence[str | None],
        batch: list[tuple[Delivery, str]],
        gone: list[str],
    ) -> None:
        """Publish what was committed, then acknowledge what it came from.

        Tasks start in the order of the commits, and ``publish`` keeps the order of its
        calls: a worker is told in the order in which the core decided.
        """
        try:
            if messages:
                packed = [pack(message, self._topology) for message in messages]
                outcomes = await self._transport.publish(packed)
                for message, name, outcome in zip(messages, names, outcomes, strict=True):
                    self._published(message, name, outcome)
            for queue, subscription in self._subscriptions.items():
                done = [delivery for delivery, came_from in batch if came_from == queue]
                if done:
                    subscription.ack(done)
            for worker in gone:
                await self._transport.delete_queue(self._topology.worker_queue(worker))
        except TransportClosed:
            pass  # not acknowledged: it all comes again
        except Exception:
            self._log.exception("sending_failed")
            self._end()
        finally:
            self._in_flight.release()

    def _published(self, message: Sendable, name: str | None, outcome: Published) -> None:
        if isinstance(message, Assign):
            if outcome is not Published.CONFIRMED:
                attempt = message.assignment.attempt
                self._facts.append(AssignmentReturned(message.worker, attempt, no_queue=True))
                self._something.set()
            return
        unwanted = outcome is Published.RETURNED and not isinstance(message, Bury)
        if outcome is not Published.CONFIRMED and not unwanted:
            what = type(message).__name__
            raise TransportError(f"the broker did not keep a {what}: {outcome.value}")
        if name is not None:
            # a reply that nobody waits for any more was returned, and is done with as well
            self._sent.append(name)

    async def _give_back(self) -> None:
        """Stop consuming; send what was committed; the rest is for the next leader."""
        for subscription in self._subscriptions.values():
            await subscription.cancel()
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=self._settings.lease)
        for delivery, queue in self._inbox:
            self._subscriptions[queue].requeue([delivery])
        self._inbox.clear()

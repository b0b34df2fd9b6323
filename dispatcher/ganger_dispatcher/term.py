"""One leadership, from a lease with its epoch to its end: facts to the core, effects out.

The order is the guarantee. A batch of deliveries becomes facts, facts become effects;
what they store is committed in one script, then what they send is published, then the
deliveries are acknowledged. A crash between any two of these loses nothing.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import uuid4

import structlog

from ganger_broker.errors import EpochSuperseded, StoreError, StoreRefused
from ganger_broker.messages import RunResult
from ganger_broker.settings import Settings
from ganger_broker.transport import Transport

from .core.core import Core, Fact, TimerFailed
from .core.effects import Beat, DeleteQueue, Effect
from .core.facts import (
    TimePassed,
)
from .core.scaling import Scaling
from .core.state import Policy
from .hearing import Hearing
from .inbox import Inbox, Received
from .intake import read, refusal
from .looking_up import look_up_ended
from .metrics import Metrics
from .operator_log import log_for_operators
from .outgoing import sendable
from .sending import Sender
from .stopping import done_unless
from .store.redis_store import Message, NotNew, RedisStore, SetBack

__all__ = ["Term", "policy_of"]

T = TypeVar("T")

_log = structlog.get_logger("ganger.dispatcher")

_PRUNE_EVERY = 60.0
"""Seconds between looks for runs whose retention is over."""
_TIDY_AFTER = 1.0
"""Seconds of idleness until what waits for the next commit gets one of its own: heartbeats
to note, messages to take out of the outbox."""
_LONGEST_HOLD = 0.05
"""Seconds that a batch keeps the event loop for itself."""
_SYNC = "set `appendfsync always` if no confirmed write may be lost where power is"
_STORE_RETRY = 0.2
"""Seconds between tries while Redis is away."""


def policy_of(settings: Settings) -> Policy:
    """The core's durations, ms."""
    return Policy(
        worker_timeout=round(settings.worker_timeout * 1000),
        pickup_deadline=round(settings.pickup_deadline * 1000),
        hold=round(settings.hold * 1000),
        priority_ageing=round(settings.priority_ageing * 1000),
        scaling=Scaling(
            round(settings.scale_window * 1000),
            settings.scale_up,
            settings.scale_down,
            settings.scale_least,
            settings.scale_most,
        ),
    )


class Poisoned(Exception):
    """The core failed on what this delivery says."""

    def __init__(self, received: Received) -> None:
        super().__init__(received)
        self.received = received


class Term:
    """One leadership: from a lease with its epoch to its end."""

    def __init__(
        self,
        dispatcher_id: str,
        epoch: int,
        settings: Settings,
        transport: Transport,
        store: RedisStore,
        clock: Callable[[], int],
        inbox: Inbox,
        skipped: set[tuple[str, str]],
        metrics: Metrics | None = None,
    ) -> None:
        """``inbox`` may hold what a term before this one has not settled. ``skipped``: wake-ups
        that the core failed on, in this term and those before."""
        self._dispatcher_id = dispatcher_id
        self._epoch = epoch
        self._settings = settings
        self._transport = transport
        self._store = store
        self._clock = clock
        self._topology = settings.topology()
        self._log = _log.bind(dispatcher=dispatcher_id, epoch=epoch)
        self._skipped = skipped
        self._metrics = metrics
        self._core = Core(policy_of(self._settings), skipped)
        self._facts: deque[Fact] = deque()
        self._something = asyncio.Event()
        self._inbox = inbox
        self._over = asyncio.Event()
        self.put_aside = False  # whether it ended on what the next term will not meet again
        self._hearing = Hearing(
            transport,
            self._topology,
            inbox,
            self._log,
            name=dispatcher_id,
            timeout=settings.worker_timeout,
            now=clock,
            tell=self._tell,
        )
        self._sender = Sender(
            transport,
            self._topology,
            self._inbox,
            self._log,
            epoch=epoch,
            tell=self._tell,
            fail=self.end,
        )
        self._takes_triggers = False
        self._beats: list[Effect] = []
        self._committed_at = 0

    async def serve(self, on_leading: Callable[[], None]) -> None:
        """Take over, call ``on_leading``, and lead until ``end`` is called.

        Raises:
            EpochSuperseded: another dispatcher leads.
            StoreError: Redis is away and it is to end.
        """
        keepers = (self._keep_lease, self._hearing.keep, self._hearing.speak, self._keep_metrics)
        keeping = [asyncio.create_task(keep()) for keep in keepers]
        for task in keeping:
            task.add_done_callback(self._keeps_no_more)
        try:
            leading = self._lead(on_leading)
            if not await done_unless(self._over, leading, self._settings.lease):
                self._log.warning("cut_short")
            for task in keeping:
                if task.done():
                    task.result()
        except Poisoned as poisoned:
            # the core may be half changed: bury it, and begin again from what is stored
            await self._bury(poisoned)
            self.put_aside = True
        except NotNew:
            # a copy of a trigger came by a way nobody knew of: the core has begun its run anew,
            # and nothing of that is stored. The next term takes it for one delivered before.
            self._log.warning("not_new")
            self.put_aside = True
        except SetBack as exc:
            # it was restored from older data, or a replica took over that lagged behind
            self._log.error("redis_was_set_back", error=str(exc), to_do=_SYNC)
            self.put_aside = True
        except TimerFailed as failed:
            # a defect; what it was about stands still until another dispatcher leads
            self._log.error(
                "timer_failed", kind=failed.kind, name=failed.name, exc_info=failed.__cause__
            )
            self._skipped.add((failed.kind, failed.name))
            self.put_aside = True
        finally:
            for task in keeping:
                task.cancel()
            await self._wind_up()

    async def _lead(self, on_leading: Callable[[], None]) -> None:
        await self._take_over()
        self._inbox.begin(self._arrived)
        await self._inbox.consume(self._topology.events)
        self._hearing.ask()
        self._log.info("leading")
        on_leading()
        await self._work()

    def _keeps_no_more(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen: what else ends because of it may be told first
        self.end()

    def end(self) -> None:
        """End soon: commit and send what is being handled, leave the rest."""
        self._over.set()
        self._something.set()

    async def _keep_lease(self) -> None:
        """Renew the lease, and prune now and then; ends when the lease is another's."""
        lease = round(self._settings.lease * 1000)
        clock = asyncio.get_running_loop().time
        pruned = clock()
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            try:
                epoch, _ = await self._store.lease(self._dispatcher_id, lease)
                if epoch != self._epoch:
                    raise EpochSuperseded(f"epoch {self._epoch} is over")
                if self._settings.health_file is not None and self._transport.connected:
                    self._settings.health_file.touch()
                if clock() - pruned > _PRUNE_EVERY:
                    pruned = clock()
                    await self._store.prune(self._clock() - round(self._settings.retention * 1000))
            except EpochSuperseded:
                raise
            except StoreError as exc:
                # commits are fenced by the epoch, so trying on is safe
                self._log.warning("store_unreachable", error=str(exc))

    async def _keep_metrics(self) -> None:
        """Say how it stands, where somebody asks."""
        if self._metrics is None:
            await self._over.wait()
        else:
            await self._metrics.follow(self._core.state, self._store)

    async def _take_over(self) -> None:
        await self._transport.declare(self._topology.shared())
        snapshot = await self._store.load()
        outbox = await self._store.outbox()
        for run_id in snapshot.drop_orphaned_runs():
            key = self._settings.keys().run(run_id)
            self._log.error("its definition is not there, left aside", key=key)
        effects = self._core.restore(snapshot, self._clock())
        self._log.info(
            "taking_over",
            workers=len(snapshot.workers),
            runs=len(snapshot.runs),
            held=len(snapshot.held),
            unsent=len(outbox),
        )
        await self._carry_out(effects, [])
        await self._sender.send(list(outbox.values()), list(outbox), [])

    def reconnected(self) -> None:
        """The broker was away and is back."""
        self._hearing.reconnected()

    def _arrived(self, queue: str) -> None:
        self._hearing.arrived(queue)
        self._something.set()

    def _tell(self, fact: Fact) -> None:
        self._facts.append(fact)
        self._something.set()

    # ── the loop ──────────────────────────────────────────────────────────────────────

    async def _work(self) -> None:
        while True:
            await self._wait()
            if self._over.is_set():
                return
            self._core.begin_batch()
            own: list[Fact] = list(self._facts)
            self._facts.clear()
            if self._due():
                own.append(TimePassed(read_to=self._hearing.read_to))
            batch = self._inbox.take()
            limit = self._settings.max_message_bytes
            facts = {received: read(received.delivery, limit) for received in batch}
            new = await look_up_ended(facts, self._core.state, self._ended)
            effects = await self._decide(own, facts)
            self._hearing.handled(batch)
            if not self._is_read(self._core.to_read):
                self._hearing.ask()
            if self._hearing.read_to and not self._takes_triggers:
                # who had registered is known: what is asked for may be for one of them
                self._takes_triggers = True
                await self._inbox.consume(self._topology.triggers)
            if batch and self._can_wait(effects):
                self._beats += effects
                self._inbox.settle(batch)
            else:
                await self._carry_out(effects, batch, new)

    def _can_wait(self, effects: list[Effect]) -> bool:
        """Whether the next commit will do: heartbeats are only noted, and told again."""
        lately = self._clock() - self._committed_at < _TIDY_AFTER * 1000
        return lately and all(isinstance(effect, Beat) for effect in effects)

    async def _decide(self, own: list[Fact], facts: dict[Received, list[Fact]]) -> list[Effect]:
        """Feed the core; a delivery that it cannot handle is named.

        A batch of what takes long leaves room for the lease to be renewed.
        """
        now = self._clock()
        clock = asyncio.get_running_loop().time
        rested = clock()
        effects: list[Effect] = []
        for fact in own:
            effects += self._core.handle(fact, now)
        for received, those in facts.items():
            try:
                for fact in those:
                    effects += self._core.handle(fact, now)
            except Exception as exc:
                raise Poisoned(received) from exc
            if clock() - rested > _LONGEST_HOLD:
                await asyncio.sleep(0)
                rested = clock()
        return effects

    def _due(self) -> bool:
        wake_at, to_read = self._core.wake_at, self._core.to_read
        is_due = wake_at is not None and wake_at <= self._clock()
        return is_due or (to_read is not None and self._is_read(to_read))

    def _is_read(self, to_read: int | None) -> bool:
        return to_read is None or to_read <= self._hearing.read_to

    async def _wait(self) -> None:
        """Until there is something to handle, a wake-up is due, or it is over."""
        if self._over.is_set() or self._inbox or self._facts or self._due():
            await asyncio.sleep(0)
            return
        self._something.clear()
        wake_at = self._core.wake_at
        left = None if wake_at is None else max(0, wake_at - self._clock()) / 1000
        if self._sender.sent or self._beats:
            left = _TIDY_AFTER if left is None else min(left, _TIDY_AFTER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._something.wait()

    async def _carry_out(
        self, effects: list[Effect], batch: list[Received], new: Sequence[str] = ()
    ) -> None:
        """Commit, then publish and acknowledge in the background, in order. ``new``: runs that
        must not be there yet."""
        messages = sendable(effects)
        names = [self._sender.name(message) for message in messages]
        outbox = {
            name: message
            for name, message in zip(names, messages, strict=True)
            if name is not None and isinstance(message, Message)
        }
        sent = self._sender.take_sent()
        beats, self._beats = self._beats, []
        effects = beats + effects
        self._committed_at = self._clock()
        named = uuid4().hex

        async def commit() -> None:
            await self._store.commit(self._epoch, effects, outbox, sent, new, named)

        try:
            await self._persist(commit)
        except NotNew:
            self._sender.sent += sent  # not taken out yet
            raise
        log_for_operators(self._log, effects, embedded=self._settings.embedded)
        gone = [effect.worker for effect in effects if isinstance(effect, DeleteQueue)]
        await self._sender.send(messages, names, batch, gone)

    async def _ended(self, run_ids: list[str]) -> dict[str, RunResult]:
        return await self._persist(lambda: self._store.ended(run_ids))

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis, again and again while it is away; the core's state waits meanwhile."""
        while True:
            try:
                return await ask()
            except (EpochSuperseded, StoreRefused, SetBack):
                raise
            except StoreError as exc:
                if self._over.is_set():
                    raise
                self._log.warning("store_unreachable", error=str(exc))
                await asyncio.sleep(_STORE_RETRY)

    async def _bury(self, poisoned: "Poisoned") -> None:
        """Dead-letter a delivery that the core cannot handle, so that it does not come again."""
        delivery = poisoned.received.delivery
        self._log.error("poisoned", routing_key=delivery.routing_key, exc_info=poisoned.__cause__)
        detail = f"the dispatcher failed on it: {poisoned.__cause__!r}"
        fact = refusal(delivery, "internal_error", detail)
        effects = Core(policy_of(self._settings)).handle(fact, self._clock())
        await self._carry_out(effects, [poisoned.received])

    async def _wind_up(self) -> None:
        """Send what was committed; what is not settled then is for the next leader."""
        await self._sender.settle(self._settings.lease)
        if self._sender.sent:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(self._settings.lease):
                    await self._store.commit(self._epoch, [], sent=self._sender.take_sent())

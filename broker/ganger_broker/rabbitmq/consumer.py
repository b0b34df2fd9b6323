"""A consumer of one RabbitMQ queue that outlives its channels."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from aiormq import Channel, spec
from aiormq.abc import DeliveredMessage
from pamqp.common import Arguments

from ganger_broker.transport import Delivery

from .frames import Tap
from .session import Session, attempt, reason_of, wrapping
from .wire import Deliveries, ack_frame, nack_frame

__all__ = ["Consumer"]

log = structlog.get_logger(__name__)


class Consumer:
    """The port's ``Subscription``.

    It has a channel of its own, so its delivery tags count 1, 2, 3, … without gaps: what
    is settled can be told as one number and a few stragglers.
    """

    def __init__(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        no_ack: bool,
        priority: int,
        on_lost: Callable[["Consumer"], None],
    ) -> None:
        """``on_lost`` is called when it has to be opened again."""
        self.queue = queue
        self.cancelled = False
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._no_ack = no_ack
        self._arguments: Arguments | None = {"x-priority": priority} if priority else None
        self._on_lost = on_lost
        self._opening = asyncio.Lock()
        self._session: Session | None = None
        self._channel: Channel | None = None
        self._tag: str | None = None
        self._generation = 0
        self._floor = 1
        self._settled: set[int] = set()
        self._delivered = 0
        self._acks: set[int] = set()
        self._nacks: set[int] = set()
        self._wake = asyncio.Event()
        self._settler: asyncio.Task[None] | None = None
        self._early: list[Delivery] | None = []
        self._closing = False

    # ── the port ──

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; see the port."""
        self._settle(deliveries, self._acks)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give back; see the port."""
        self._settle(deliveries, self._nacks)

    async def cancel(self) -> None:
        """Stop consuming; see the port."""
        if self.cancelled:
            return
        self.cancelled = True
        async with self._opening:
            if self._channel is not None and self._tag is not None:
                await attempt("consumer", self._channel.basic_cancel(self._tag))
            self._wake.set()

    # ── for the transport ──

    @property
    def done(self) -> bool:
        """Whether it is cancelled, and all that it delivered is settled or lost."""
        return self.cancelled and self._channel is None

    def is_open_on(self, session: Session) -> bool:
        """Whether it consumes on this connection."""
        return self._session is session and self._channel is not None

    async def open(self, session: Session) -> None:
        """Consume on this connection.

        Raises:
            TransportError: the queue is missing, or the connection was lost.
        """
        async with self._opening:
            if self.cancelled or self.is_open_on(session):
                return
            await self._drop_channel()
            channel = await session.channel()
            self._begin(session, channel)
            try:
                async with wrapping(f"consumer of queue {self.queue!r}"):
                    await channel.basic_qos(prefetch_count=0 if self._no_ack else self._prefetch)
                    await channel.basic_consume(
                        self.queue,
                        _unused,
                        no_ack=self._no_ack,
                        consumer_tag=self._tag,
                        arguments=self._arguments,
                    )
            except BaseException:
                self._lose(self._generation)
                raise
            channel.closing.add_done_callback(partial(self._on_channel_closed, self._generation))
            # In the next turn of the loop, so that who awaits `consume` has its result by then.
            asyncio.get_running_loop().call_soon(self._hand_over_early)

    async def close(self) -> None:
        """Send what was acknowledged, then close the channel; lost already is fine."""
        self.cancelled = self._closing = True
        self._wake.set()
        if self._settler is not None:
            await asyncio.wait([self._settler])

    # ── channels come and go ──

    def _begin(self, session: Session, channel: Channel) -> None:
        self._generation += 1
        self._session, self._channel = session, channel
        self._tag = f"{self.queue}.{self._generation}"
        self._floor, self._delivered = 1, 0
        if self._early and not self._no_ack:
            self._early.clear()  # of an attempt that was lost: they come again
        for tags in (self._settled, self._acks, self._nacks):
            tags.clear()
        session.tap.divert(channel, Deliveries(self._generation, self._on_message))
        channel.on_consumer_cancel_callbacks.add(
            partial(self._on_cancelled_by_server, self._generation)
        )
        self._settler = asyncio.create_task(self._write(channel, session.tap))

    def _on_channel_closed(self, generation: int, closing: "asyncio.Future[Any]") -> None:
        if self._lose(generation) and not self.cancelled:
            log.warning("consumer lost", queue=self.queue, reason=str(reason_of(closing)))
            self._on_lost(self)

    def _on_cancelled_by_server(self, generation: int, _: spec.Basic.Cancel) -> None:
        # The channel stays open, for what it delivered, until the next one is there.
        if generation == self._generation and not self.cancelled and self._tag is not None:
            log.warning("consumer cancelled by the broker: its queue is gone", queue=self.queue)
            self._session = self._tag = None
            self._on_lost(self)

    def _lose(self, generation: int) -> bool:
        """Forget the channel; False when that generation is over already."""
        if generation != self._generation or self._channel is None:
            return False
        self._session = self._channel = self._tag = None
        if self._settler is not None:
            self._settler.cancel()
        return True

    async def _drop_channel(self) -> None:
        channel = self._channel
        if self._lose(self._generation) and channel is not None:
            await attempt("channel", channel.close())

    # ── deliveries and their acknowledgement ──

    def _on_message(self, delivery: Delivery) -> None:
        if not self._no_ack:
            generation, tag = delivery.tag
            if generation != self._generation or self._channel is None:
                return  # comes again
            self._delivered = tag
        if self._early is None:
            self._hand_over(delivery)
        else:
            self._early.append(delivery)

    def _hand_over_early(self) -> None:
        early, self._early = self._early or (), None
        for delivery in early:
            self._hand_over(delivery)

    def _hand_over(self, delivery: Delivery) -> None:
        try:
            self._on_delivery(delivery)
        except Exception:
            # Requeued it would come again at once, and fail again.
            log.exception("on_delivery failed, message left unacknowledged", queue=self.queue)

    def _settle(self, deliveries: Sequence[Delivery], into: set[int]) -> None:
        if self._no_ack or self._channel is None:
            return
        for delivery in deliveries:
            generation, tag = delivery.tag
            # An unknown or repeated tag would make the server close the channel.
            if generation != self._generation or tag < self._floor or tag in self._settled:
                continue
            if tag not in self._acks and tag not in self._nacks:
                into.add(tag)
        self._wake.set()

    async def _write(self, channel: Channel, tap: Tap) -> None:
        """Send what was settled since the last look, in as few frames as it takes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            nacks, self._nacks = self._nacks, set()
            acks, self._acks = self._acks, set()
            up_to, stragglers = self._advance(acks, nacks)
            frames = [nack_frame(channel.number, tag) for tag in sorted(nacks)]
            if up_to:
                frames.append(ack_frame(channel.number, up_to, multiple=True))
            frames += [ack_frame(channel.number, tag) for tag in stragglers]
            tap.write(channel, b"".join(frames))
            if self._closing or (self.cancelled and self._floor > self._delivered):
                self._session = self._channel = self._tag = None
                # Closing waits for the server, which by then has all that was sent before.
                await attempt("channel", channel.close())
                return

    def _advance(self, acks: set[int], nacks: set[int]) -> tuple[int, list[int]]:
        """The tag up to which all are settled and one of ``acks`` (0: none), and the other
        ``acks``."""
        self._settled |= acks
        self._settled |= nacks
        up_to = 0
        while self._floor in self._settled:
            self._settled.remove(self._floor)
            if self._floor in acks:
                up_to = self._floor
            self._floor += 1
        return up_to, sorted(tag for tag in acks if tag > up_to)


async def _unused(_: DeliveredMessage) -> None:
    """The driver wants a callback; what it would be called with is taken before."""

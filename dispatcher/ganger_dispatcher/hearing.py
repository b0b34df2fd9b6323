"""Up to when workers were heard: before that, it means nothing that one of them is silent."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from uuid import uuid4

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from ganger_broker.codec import encode
from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing, Transport

from .core.core import Fact
from .core.facts import BrokerRestored
from .inbox import Inbox, Received

__all__ = ["Hearing"]


class Hearing:
    """Watches the queue of events.

    The dispatcher says something to itself now and then, by the way that workers' events take:
    nothing, a list of no events. When that comes and its turn to be handled, all that workers had
    said before it was handled too: so far it means something that a word is missing.

    So it does where much is still to be read, after a take-over or by a slow dispatcher; and where
    a broker stands still, or takes nothing in because its disk is full, whose connections stay
    open. When something comes again after that, everybody has a fresh deadline.
    """

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        inbox: Inbox,
        log: FilteringBoundLogger,
        *,
        name: str,
        timeout: float,
        now: Callable[[], int],
        tell: Callable[[Fact], None],
    ) -> None:
        """``name``: what it calls itself there. ``timeout``: seconds until a silent worker is
        lost. ``now``: the core's time, ms. ``tell`` takes what the core has to know of."""
        self._clock = asyncio.get_running_loop().time
        self._now = now
        self._transport = transport
        self._topology = topology
        self._inbox = inbox
        self._log = log
        self._to_itself = Outgoing(topology.exchange, topology.event_key(name), encode([]))
        self._said: dict[str, int] = {}
        self._asked, self._answered = asyncio.Event(), asyncio.Event()
        self._quiet = timeout / 4
        self._deaf = timeout / 2
        self._tell = tell
        self._heard_at = self._clock()
        self.read_to = 0
        """What workers had said by then, ms, is handled."""
        self._wrong: set[str] = set()

    def arrived(self, queue: str) -> None:
        """Something has come through this queue."""
        if queue != self._topology.events:
            return
        now = self._clock()
        if now - self._heard_at > self._deaf:
            self._log.warning("heard_again", silent=round(now - self._heard_at, 1))
            self._tell(BrokerRestored(since=self._last_heard()))
        self._heard_at = now

    def reconnected(self) -> None:
        """The broker was away and is back."""
        self._tell(BrokerRestored(since=self._last_heard()))

    def _last_heard(self) -> int:
        return self._now() - round((self._clock() - self._heard_at) * 1000)

    def ask(self) -> None:
        """It has to be known now up to when workers were heard."""
        self._asked.set()

    def handled(self, batch: Iterable[Received]) -> None:
        """All of these were; among them may be what it has said to itself."""
        for received in batch if self._said else ():
            said_at = self._said.get(received.delivery.message_id or "")
            if said_at is not None:
                self.read_to = said_at
                self._said = {name: at for name, at in self._said.items() if at > said_at}
                self._asked.clear()
                self._answered.set()

    async def speak(self) -> None:
        """Say something when that is asked for, and while nobody else does, for ever."""
        while True:
            left = self._quiet - (self._clock() - self._heard_at)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, left)):
                    await self._asked.wait()
            if not self._asked.is_set() and self._clock() - self._heard_at < self._quiet:
                continue
            self._answered.clear()
            message_id = uuid4().hex
            self._said[message_id] = self._now()
            # waits while the broker is away
            await self._transport.publish([replace(self._to_itself, message_id=message_id)])
            with suppress(TimeoutError):
                async with asyncio.timeout(self._quiet):
                    await self._answered.wait()

    async def keep(self) -> None:
        """Be sure of queues, bindings and consumers while a queue brings nothing, for ever."""
        while True:
            await asyncio.sleep(self._quiet)
            if self._inbox.idle(self._quiet):
                await self._declare()
                await self._inbox.renew_idle(self._quiet)

    async def _declare(self) -> None:
        """All of it, also where somebody has made a part of it otherwise: that works as well."""
        for item in self._topology.shared():
            try:
                await self._transport.declare([item])
            except TransportClosed:
                raise
            except TransportError as exc:
                if str(exc) not in self._wrong:  # not again with each look
                    self._wrong.add(str(exc))
                    self._log.error("declared_otherwise", error=str(exc))

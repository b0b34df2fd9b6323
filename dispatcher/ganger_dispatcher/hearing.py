"""Whether workers can be heard: only then does it say anything that one of them is silent."""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from ganger_broker.codec import encode
from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing, Transport

from .core.core import Fact
from .core.facts import BrokerRestored
from .inbox import Inbox

__all__ = ["Hearing"]


class Hearing:
    """Watches the queue of events.

    A broker that stands still, or takes nothing in because its disk is full, keeps its
    connections open. So while nothing comes the dispatcher says something to itself, by the
    way that workers' events take: nothing, a list of no events. As long as not even that
    comes, no silence counts; and when something comes again, everybody has a fresh deadline.
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
        tell: Callable[[Fact], None],
    ) -> None:
        """``name``: what it calls itself there. ``timeout``: seconds until a silent worker is
        lost. ``tell`` takes what the core has to know of."""
        self._clock = asyncio.get_running_loop().time
        self._transport = transport
        self._topology = topology
        self._inbox = inbox
        self._log = log
        self._to_itself = Outgoing(topology.exchange, topology.event_key(name), encode([]))
        self._quiet = timeout / 4
        self._deaf = timeout / 2
        self._tell = tell
        self._heard_at = self._clock()
        self._away = False
        self._wrong: set[str] = set()

    def arrived(self, queue: str) -> None:
        """Something has come through this queue."""
        if queue != self._topology.events:
            return
        now = self._clock()
        if now - self._heard_at > self._deaf:
            self._log.warning("heard_again", silent=round(now - self._heard_at, 1))
            self._tell(BrokerRestored())
        self._heard_at = now

    def reconnected(self) -> None:
        """The broker was away and is back."""
        self._away = False
        self._tell(BrokerRestored())

    @property
    def good(self) -> bool:
        """Whether workers are heard, and what they said so far was handled."""
        if not self._transport.connected:
            self._away = True
        deaf = self._clock() - self._heard_at > self._deaf
        return not self._away and not deaf and not self._inbox.has_from(self._topology.events)

    async def speak(self) -> None:
        """Say something while nobody else does, for ever."""
        while True:
            quiet = self._clock() - self._heard_at
            if quiet < self._quiet:
                await asyncio.sleep(self._quiet - quiet)
                continue
            await self._transport.publish([self._to_itself])  # waits while the broker is away
            await asyncio.sleep(self._quiet)

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

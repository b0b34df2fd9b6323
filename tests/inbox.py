"""Waiting for what a transport delivers."""

import asyncio
from collections.abc import Callable

from ganger_broker.transport import Delivery, Subscription

__all__ = ["PATIENCE", "Inbox"]

PATIENCE = 20.0
"""Seconds until what should have happened counts as not happening."""


class Inbox:
    """Keeps what is delivered to it; ``subscription`` acknowledges each where it is set."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.acknowledge_by: Subscription | None = None
        self._came = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self.acknowledge_by is not None:
            self.acknowledge_by.ack([delivery])
        self._came.set()

    @property
    def bodies(self) -> list[bytes]:
        """What came, in order."""
        return [delivery.body for delivery in self.deliveries]

    async def wait(self, count: int) -> list[Delivery]:
        """The first ``count`` deliveries, waited for."""
        return await self.wait_until(lambda: len(self.deliveries) >= count)

    async def wait_until(self, condition: Callable[[], bool]) -> list[Delivery]:
        """All deliveries, when the condition holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._came.clear()
                await self._came.wait()
        return self.deliveries

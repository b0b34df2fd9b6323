"""Both transports behind one fixture: every test of this folder runs on each."""

import os
import secrets
from collections.abc import AsyncIterator
from typing import Any, cast

import aiormq
import pytest

from ganger_broker.memory import MemoryBroker, MemoryTransport
from ganger_broker.rabbitmq import RabbitTransport
from ganger_broker.topology import Exchange, Queue
from ganger_broker.transport import Transport
from tests.inbox import Inbox

BROKER_URL = os.environ.get("GANGER_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672/")


class Bench:
    """A broker of one kind, with names of this test's own, tidied up after it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.prefix = f"test-{secrets.token_hex(6)}"
        self._memory = MemoryBroker()
        self._opened: list[Transport] = []

    def unconnected(self) -> Transport:
        """A transport, not connected yet."""
        made: Transport
        if self.kind == "memory":
            made = MemoryTransport(self._memory)
        else:
            made = RabbitTransport(BROKER_URL, name=self.prefix)
        self._opened.append(made)
        return made

    async def transport(self) -> Transport:
        """A connected transport."""
        made = self.unconnected()
        await made.connect()
        return made

    def queue(self, name: str = "queue", **arguments: Any) -> Queue:
        """A classic queue under this test's prefix; ``message_ttl=5`` is ``x-message-ttl``."""
        given = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
        return Queue(f"{self.prefix}.{name}", {"x-queue-type": "classic", **given})

    def exchange(self, kind: Any, name: str = "exchange") -> Exchange:
        """An exchange under this test's prefix."""
        return Exchange(f"{self.prefix}.{name}", kind)

    async def tidy(self) -> None:
        """Close all transports, and delete what was declared through them."""
        declared = [
            item
            for transport in self._opened
            for item in cast("RabbitTransport", transport)._declared.values()
        ]
        for transport in self._opened:
            await transport.close()
        if self.kind == "memory":
            return
        connection = await aiormq.connect(BROKER_URL)
        channel = await connection.channel()
        for item in declared:
            if isinstance(item, Queue):
                await channel.queue_delete(item.name)
            if isinstance(item, Exchange):
                await channel.exchange_delete(item.name)
        await connection.close()


@pytest.fixture(params=["memory", "rabbitmq"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bench = Bench(request.param)
    yield bench
    await bench.tidy()


@pytest.fixture
async def transport(bench: Bench) -> Transport:
    return await bench.transport()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()

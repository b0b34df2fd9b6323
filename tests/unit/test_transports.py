"""Which transport the settings mean."""

import pytest

from ganger_broker.memory import MemoryTransport
from ganger_broker.rabbitmq import RabbitTransport
from ganger_broker.settings import Settings
from ganger_broker.topology import Queue
from ganger_broker.transport import Outgoing, Published
from ganger_broker.transports import memory_broker, open_transport


@pytest.mark.parametrize("url", ["amqp://guest:guest@localhost/", "amqps://localhost/vhost"])
def test_amqp_is_rabbitmq(url: str) -> None:
    assert isinstance(open_transport(Settings.load(broker_url=url), "x"), RabbitTransport)


async def test_memory_urls_are_brokers_of_this_process() -> None:
    one, same, other = (
        open_transport(Settings.load(broker_url=url), "x")
        for url in ("memory://test-one", "memory://test-one", "memory://test-other")
    )
    assert isinstance(one, MemoryTransport)
    for transport in (one, same, other):
        await transport.connect()

    await one.declare([Queue("queue")])

    message = Outgoing("", "queue", b"")
    assert await same.publish([message]) == [Published.CONFIRMED]
    assert await other.publish([message]) == [Published.RETURNED]
    assert memory_broker("memory://test-one").depth("queue") == 1
    for transport in (one, same, other):
        await transport.close()

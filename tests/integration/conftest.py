"""A RabbitMQ of our own that may be stopped, and the store on a real Redis and on the one
inside the process."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from tools.private_servers import PrivateRabbit, start_rabbitmq

from ganger_broker.rabbitmq import RabbitTransport
from ganger_dispatcher.store import open_redis
from tests.integration.store_place import Place


@pytest.fixture(params=["redis", "memory"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    real = request.param == "redis"
    url = request.getfixturevalue("redis_url") if real else f"memory://{uuid4().hex}"
    redis = open_redis(url)
    place = Place(redis, f"test-{uuid4().hex[:12]}")
    yield place
    async for key in redis.scan_iter(f"{place.keys.prefix}:*", count=10_000):
        await redis.delete(key)
    await place.store.close()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    server = start_rabbitmq(tmp_path_factory.mktemp("rabbitmq"))
    yield server
    server.stop()


@pytest.fixture
async def transport(rabbit: PrivateRabbit) -> AsyncIterator[RabbitTransport]:
    transport = RabbitTransport(rabbit.url, name="faults")
    await transport.connect()
    yield transport
    await transport.close()

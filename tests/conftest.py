"""Servers, names of a test's own, and how many cases property tests try."""

import os
from collections.abc import Iterator
from uuid import uuid4

import pika
import pytest
import redis
from hypothesis import HealthCheck, settings

from ganger_broker.topology import Exchange, Queue, Topology

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]  # these machines are shared

settings.register_profile("default", max_examples=2_000, deadline=None, suppress_health_check=SLOW)
settings.register_profile("long", max_examples=100_000, deadline=None, suppress_health_check=SLOW)
settings.load_profile("default")


def _url(variable: str) -> str:
    url = os.environ.get(variable)
    if not url:
        pytest.fail(
            f"{variable} is not set: run the tests with `make test`, which finds or starts it"
        )
    return url


@pytest.fixture(scope="session")
def broker_url() -> str:
    """A RabbitMQ that is there."""
    return _url("GANGER_BROKER_URL")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis that is there."""
    return _url("GANGER_REDIS_URL")


@pytest.fixture
def prefix(broker_url: str, redis_url: str) -> Iterator[str]:
    """A GANGER_PREFIX of the test's own; all that goes by it is deleted afterwards."""
    name = f"test-{uuid4().hex[:12]}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        workers = [key.decode() for key in client.zrange(f"{name}:workers", 0, -1)]
        for key in client.scan_iter(f"{name}:*", count=1000):
            client.delete(key)
    topology = Topology(name)
    items = [*topology.shared(), *(item for w in workers for item in topology.for_worker(w))]
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = connection.channel()
    for item in items:
        if isinstance(item, Queue):
            channel.queue_delete(item.name)
        elif isinstance(item, Exchange):
            channel.exchange_delete(item.name)
    connection.close()

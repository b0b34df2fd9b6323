"""A fleet for each test, on the real servers."""

from collections.abc import AsyncIterator

import pytest

from .fleet import Fleet


@pytest.fixture
async def fleet(broker_url: str, redis_url: str, prefix: str) -> AsyncIterator[Fleet]:
    environment = {
        "GANGER_BROKER_URL": broker_url,
        "GANGER_REDIS_URL": redis_url,
        "GANGER_PREFIX": prefix,
        "GANGER_HOLD": "1s",
        "GANGER_WORKER_QUEUE_EXPIRES": "30s",  # a killed worker's queue is nobody's to delete
    }
    fleet = Fleet(environment)
    try:
        yield fleet
    finally:
        await fleet.stop()

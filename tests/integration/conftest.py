"""Fixtures of the store: the same tests on a real Redis and on the one inside the process."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

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

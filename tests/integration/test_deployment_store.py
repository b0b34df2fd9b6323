"""Deployments, replicas and their supervisor, in a real Redis and in the one in the process."""

from collections.abc import AsyncIterator

import pytest
import redis
from msgspec.structs import replace
from redis.asyncio import Redis

from ganger.compute.store import open_store
from ganger_broker.codec import to_json
from ganger_broker.deployments import (
    Autoscale,
    Deployment,
    PoolRecord,
    ReplicaRecord,
    ReplicaState,
    SupervisorRecord,
)
from ganger_broker.errors import StoreError
from ganger_broker.settings import Settings
from ganger_dispatcher.store.deployment_store import DeploymentStore

POOL = PoolRecord("shared", 2, 1024, 3, ["fra", "iad"], ["w:s"])
DEPLOYED = Deployment(
    *("d", "tasks:app", "local", "seed", 2, 1_000),
    pools={"p": POOL},
    folder="/srv",
    scale={"p": 5},
    autoscale=Autoscale(1, 9),
    options={"a": "b"},
)
REPLICA = ReplicaRecord("d.p.1", "p", 1, "fra", ReplicaState.RUNNING, 2_000, pid=7, began=1.5)


@pytest.fixture(params=["redis", "memory"])
async def store(
    request: pytest.FixtureRequest, redis_url: str, prefix: str
) -> AsyncIterator[DeploymentStore]:
    url = redis_url if request.param == "redis" else f"memory://{prefix}"
    broker = "amqp://127.0.0.1/" if request.param == "redis" else url
    made = open_store(Settings(broker_url=broker, redis_url=url, prefix=prefix))
    assert isinstance(made, DeploymentStore)
    yield made
    await made.close()


async def test_what_is_kept_is_read_back(store: DeploymentStore) -> None:
    assert await store.deployments() == {}
    assert await store.deployment("d") is None
    await store.save(DEPLOYED)
    assert await store.deployments() == {"d": DEPLOYED}
    assert await store.deployment("d") == DEPLOYED


async def test_replicas_and_their_supervisor_are_told_apart(store: DeploymentStore) -> None:
    supervisor = SupervisorRecord("host", 1, 2.5, 3)
    assert await store.supervisor("d") is None
    await store.save_supervisor("d", supervisor)
    await store.save_replicas("d", {"d.p.1": REPLICA, "d.p.2": REPLICA})
    await store.save_replicas("d", {"d.p.2": None})
    assert await store.replicas("d") == {"d.p.1": REPLICA}
    assert await store.supervisor("d") == supervisor
    await store.forget("d")
    assert (await store.replicas("d"), await store.supervisor("d")) == ({}, None)


async def test_a_change_is_of_what_is_there_whoever_was_faster(redis_url: str, prefix: str) -> None:
    settings = Settings(redis_url=redis_url, prefix=prefix)
    store = DeploymentStore(settings)
    await store.save(DEPLOYED)
    seen = []

    def change(found: Deployment) -> Deployment:
        seen.append(found.leaving)
        if len(seen) == 1:  # somebody else takes it down meanwhile
            with redis.Redis.from_url(redis_url) as other:
                down = to_json(replace(DEPLOYED, leaving=True))
                other.hset(settings.keys().deployments, "d", down)
        return replace(found, scale={"p": 1})

    changed = await store.change("d", change)
    assert seen == [False, True]
    assert changed == replace(DEPLOYED, leaving=True, scale={"p": 1})
    assert await store.deployment("d") == changed
    assert await store.change("none", change) is None
    await store.close()


async def test_people_can_read_it(redis_url: str, prefix: str) -> None:
    settings = Settings(redis_url=redis_url, prefix=prefix)
    store = DeploymentStore(settings)
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        await store.save(DEPLOYED)
        text = await client.hget(f"{prefix}:deployments", "d")
    await store.close()
    assert '"regions":["fra","iad"]' in text
    assert '"num_replicas":3' in text


async def test_a_redis_that_is_away_is_said() -> None:
    store = DeploymentStore(Settings(redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises(StoreError, match="Redis: ConnectionError"):
        await store.deployments()
    await store.close()

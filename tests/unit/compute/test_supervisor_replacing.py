"""The supervisor: pools that take the place of others, and what becomes of the old ones."""

import os
import signal

import pytest
from msgspec.structs import replace

from ganger.compute.local import processes
from ganger.compute.local.supervisor import Supervisor
from ganger_broker.deployments import Autoscale, Deployment, PoolLoad, ReplicaState

from .supervised import DEPLOYED, POOL, Watched, looks

NEW, THIRD = "shared-1cpu-512mb-fra", "shared-1cpu-768mb-fra"


def replaced(pool: str, version: str) -> Deployment:
    """The deployment, of another pool and perhaps another version."""
    memory = 512 if pool == NEW else 768
    pools = {pool: replace(DEPLOYED.pools[POOL], memory_mb=memory)}
    return replace(DEPLOYED, pools=pools, versions={"w": version})


async def of(store: Watched, pool: str) -> dict[str, int]:
    return {worker: pid for worker, pid in (await store.pids()).items() if f".{pool}." in worker}


async def until_two_of(store: Watched, pool: str) -> None:
    async def done() -> bool:
        return len(await of(store, pool)) == 2

    await store.until(done)


async def until_only(store: Watched, pool: str) -> None:
    async def done() -> bool:
        return len(await of(store, pool)) == 2 == len(await store.records())

    await store.until(done)


async def old_ones(store: Watched) -> dict[str, int]:
    """The replicas of the first pool, which the dispatcher knows; those that come it will not."""
    await store.until(store.two_run)
    store.wanted = 2

    async def all_run() -> bool:
        found = await store.records()
        return {record.state for record in found.values()} == {ReplicaState.RUNNING}

    await store.until(all_run)
    store.wanted = None
    return await store.pids()


async def test_replicas_of_a_pool_that_is_replaced_stay_until_somebody_is_there(
    store: Watched, supervisor: Supervisor
) -> None:
    before = await old_ones(store)
    await store.save(replaced(NEW, "2"))
    await until_two_of(store, NEW)
    await looks(store, 20)
    assert before.items() <= (await store.pids()).items()
    assert ReplicaState.STOPPING not in store.states
    store.wanted = 2
    await until_only(store, NEW)


async def test_where_they_would_be_in_the_way_of_new_ones_they_drain_at_once(
    store: Watched, supervisor: Supervisor
) -> None:
    await old_ones(store)
    await store.save(replaced(NEW, "1"))
    await until_only(store, NEW)


async def test_those_that_work_stay_though_what_came_between_has_the_same_version(
    store: Watched, supervisor: Supervisor
) -> None:
    before = await old_ones(store)
    await store.save(replaced(NEW, "2"))
    await until_two_of(store, NEW)
    await store.save(replaced(THIRD, "2"))
    await until_two_of(store, THIRD)
    await looks(store, 20)
    assert await of(store, POOL) == before
    assert await of(store, NEW) == {}
    store.wanted = 2
    await until_only(store, THIRD)


async def test_those_that_work_drain_at_once_where_their_version_comes_back(
    store: Watched, supervisor: Supervisor
) -> None:
    await old_ones(store)
    await store.save(replaced(NEW, "2"))
    await until_two_of(store, NEW)
    await store.save(replaced(THIRD, "1"))
    await until_only(store, THIRD)


async def test_one_that_waits_to_be_replaced_is_started_again_as_it_was(
    store: Watched, supervisor: Supervisor
) -> None:
    before = await old_ones(store)
    worker = min(before)
    first = (await store.records())[worker].launch
    await store.save(replaced(NEW, "2"))
    await until_two_of(store, NEW)
    os.kill(before[worker], signal.SIGKILL)

    async def back() -> bool:
        now = await of(store, POOL)
        return len(now) == 2 and now[worker] != before[worker]

    await store.until(back)
    assert (await store.records())[worker].launch == first
    store.wanted = 2
    await until_only(store, NEW)


async def test_one_that_waits_to_be_replaced_may_have_no_more_memory_than_before(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old_ones(store)
    await store.save(replaced(NEW, "2"))
    await until_two_of(store, NEW)
    monkeypatch.setattr(processes.ReplicaProcess, "memory_mb", lambda self: 300.0)

    async def ended() -> bool:
        found = (await store.records()).values()
        return {r.pool for r in found if "over its 256 MB" in (r.ended or "")} == {POOL}

    await store.until(ended)


async def test_a_hint_from_before_a_pool_had_anybody_ends_neither_it_nor_those_before(
    store: Watched, supervisor: Supervisor
) -> None:
    """It was there some time ago, say, and has nothing to do since."""
    before = await old_ones(store)
    store.stale = {NEW: PoolLoad(0, 0, 0, 0, wanted=0, at=0)}
    await store.save(replace(replaced(NEW, "2"), autoscale=Autoscale(0, 2)))
    await until_two_of(store, NEW)
    await looks(store, 20)
    assert before.items() <= (await store.pids()).items()
    assert len(await of(store, NEW)) == 2
    store.wanted = 2
    await until_only(store, NEW)

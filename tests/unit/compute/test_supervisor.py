"""The supervisor: what it cannot read or do in a round does not keep it from its replicas."""

import os
import signal

import pytest
from msgspec.structs import replace

from ganger.compute.local import replica as replicas
from ganger.compute.local.supervisor import Supervisor
from ganger_broker.deployments import Autoscale, ReplicaState

from .supervised import DEPLOYED, KEYS, Watched, looks


async def keeps(store: Watched) -> None:
    """A replica that is killed is started again, beside the other."""
    await store.until(store.two_run)
    before = await store.pids()
    worker = min(before)
    os.kill(before[worker], signal.SIGKILL)

    async def back() -> bool:
        now = await store.pids()
        return len(now) == 2 and now[worker] != before[worker]

    await store.until(back)


async def test_a_replica_that_ends_is_started_again(store: Watched, supervisor: Supervisor) -> None:
    await keeps(store)


@pytest.mark.parametrize("method", ["uses", "deployment"])
async def test_what_cannot_be_read_keeps_it_from_nothing_else(
    store: Watched, supervisor: Supervisor, method: str
) -> None:
    await store.until(store.two_run)
    store.broken[method] = ValueError("Object missing required field `incarnation`")
    await keeps(store)


async def test_a_worker_that_says_nothing_readable_ends_no_supervisor(
    store: Watched, supervisor: Supervisor
) -> None:
    await store.until(store.two_run)
    await store._redis.hset(KEYS.worker("ghost"), "heartbeat_at", 1)
    await store._redis.zadd(KEYS.workers, {"ghost": 10**15})
    await looks(store, 1)
    await keeps(store)


@pytest.fixture
def unreadable(store: Watched) -> None:
    """What was left cannot be read; so it is before a supervisor that is asked for after this."""
    store.broken["replicas"] = ValueError("unreadable")


async def test_what_was_left_is_taken_on_before_anything_is_started(
    store: Watched, unreadable: None, supervisor: Supervisor
) -> None:
    """Also where the first look at it fails: else each replica would be started twice."""

    async def asked_twice() -> bool:
        return store.asked.get("replicas", 0) > 1

    await store.until(asked_twice)
    assert await store.pids() == {}
    del store.broken["replicas"]
    await store.until(store.two_run)


async def test_a_replica_that_cannot_be_looked_at_does_not_keep_it_from_the_others(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.until(store.two_run)
    ended = replicas.LocalReplica.ended

    def refuses(self: replicas.LocalReplica) -> str | None:
        if self.record.number == 2:
            raise PermissionError("no access")
        return ended(self)

    with monkeypatch.context() as patched:
        patched.setattr(replicas.LocalReplica, "ended", refuses)
        await keeps(store)


async def test_one_record_that_cannot_be_read_leaves_the_others(store: Watched) -> None:
    await store.save(DEPLOYED)
    await store._redis.hset(KEYS.deployments, "bad", b'{"name": "bad"}')
    await store._redis.hset(KEYS.deployment("kept"), "kept.p.1", b"{")
    assert (await store.deployments()).keys() == {"kept"}
    assert await store.replicas("kept") == {}


@pytest.mark.parametrize("strangers", [(), ("another.pool.1",)])
async def test_while_the_load_stays_the_same_nobody_is_drained(
    store: Watched, supervisor: Supervisor, strangers: tuple[str, ...]
) -> None:
    """What is wanted is within the bounds, and a replica that has just registered no stranger."""
    await store.until(store.two_run)
    store.wanted = 2
    await store.save(replace(DEPLOYED, autoscale=Autoscale(0, 9)))
    await looks(store, 5)
    store.strangers = strangers
    await looks(store, 5)
    store.wanted = 5

    async def five_run() -> bool:
        return len(await store.pids()) == 5

    await store.until(five_run)
    await looks(store, 20)
    assert len(await store.pids()) == 5
    assert ReplicaState.STOPPING not in store.states
    store.wanted = 3

    async def three_run() -> bool:
        return len(await store.pids()) == 3

    await store.until(three_run)


async def test_what_rests_is_started_at_once_when_it_is_asked_for(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.until(store.two_run)
    before = await store.pids()
    with monkeypatch.context() as patched:
        patched.setattr(replicas, "backoff", lambda failures: 3_600.0)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)

        async def both_rest() -> bool:
            return not await store.pids()

        await store.until(both_rest)
        await looks(store, 5)
        assert await store.pids() == {}
        now = max(record.since for record in (await store.records()).values()) + 1
        await store.save(replace(DEPLOYED, asked_at=now))
        await store.until(store.two_run)

        os.kill(min((await store.pids()).values()), signal.SIGKILL)  # once: now it rests
        await looks(store, 20)
        assert len(await store.pids()) == 1
    await store.save(replace(DEPLOYED, asked_at=now + 10**9))
    await store.until(store.two_run)

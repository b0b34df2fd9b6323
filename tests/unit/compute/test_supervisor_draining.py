"""Replicas that the load does not need: they end their steps first, or are needed again."""

import os
import signal
import sys
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ganger.compute.local import replica as replicas
from ganger.compute.local.supervisor import Supervisor
from ganger_broker.deployments import Autoscale, ReplicaState
from ganger_broker.errors import TransportError
from ganger_broker.messages import WorkerPaused, WorkerResumed

from .supervised import DEPLOYED, POOL, Watched, looks

LAST = f"kept.{POOL}.2"
FOLLOWS = replace(DEPLOYED, autoscale=Autoscale(0, 9))


async def until_state(store: Watched, state: ReplicaState) -> None:
    """The last one is in this state, and the other runs."""

    async def so() -> bool:
        found = {worker: record.state for worker, record in (await store.records()).items()}
        return found == {LAST: state, f"kept.{POOL}.1": ReplicaState.RUNNING}

    await store.until(so)


async def until_gone(store: Watched) -> None:
    async def gone() -> bool:
        return LAST not in await store.records()

    await store.until(gone)


async def two_follow(store: Watched) -> None:
    """Two run, as their load wants."""
    await store.until(store.two_run)
    store.wanted = 2
    await store.save(FOLLOWS)
    await until_state(store, ReplicaState.RUNNING)


async def one_drains(store: Watched) -> dict[str, int]:
    """The last one of two, which both run steps; the processes of both."""
    store.idle = False
    await two_follow(store)
    before = await store.pids()
    store.wanted = 1
    await until_state(store, ReplicaState.DRAINING)
    return before


async def one_is_resumed(store: Watched, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """The last one, as the other has been killed, and rests; the processes of both before."""
    before = await one_drains(store)
    patch.setattr(replicas, "backoff", lambda failures: 3_600.0)
    os.kill(before[f"kept.{POOL}.1"], signal.SIGKILL)

    async def resumed() -> bool:
        return (await store.records())[LAST].state is ReplicaState.RUNNING

    await store.until(resumed)
    return before


async def until_back(store: Watched, before: dict[str, int]) -> None:
    """The last one has another process."""

    async def back() -> bool:
        return (await store.pids()).get(LAST, before[LAST]) != before[LAST]

    await store.until(back)


async def test_one_that_the_load_does_not_need_drains_until_its_steps_have_ended(
    store: Watched, supervisor: Supervisor
) -> None:
    before = await one_drains(store)
    await looks(store, 20)
    assert await store.pids() == before
    assert store.words == [WorkerPaused(LAST, str(before[LAST]))]
    assert ReplicaState.STOPPING not in store.states


async def test_it_is_gone_when_they_have_ended(store: Watched, supervisor: Supervisor) -> None:
    await two_follow(store)
    store.wanted = 1
    await until_gone(store)
    store.wanted = 2
    await until_state(store, ReplicaState.RUNNING)
    assert (await store.records())[LAST].restarts == 0


async def test_one_that_is_needed_again_goes_on_as_it_is(
    store: Watched, supervisor: Supervisor
) -> None:
    before = await one_drains(store)
    store.wanted = 2
    await until_state(store, ReplicaState.RUNNING)
    assert await store.pids() == before
    assert store.words[-1] == WorkerResumed(LAST, str(before[LAST]))
    assert ReplicaState.STOPPING not in store.states


async def test_another_supervisor_knows_that_it_drains(
    store: Watched, keep: Callable[[], Supervisor]
) -> None:
    first = keep()
    before = await one_drains(store)
    told = list(store.words)
    first.stop()
    keep()
    await looks(store, 20)
    assert store.words == told
    store.wanted = 2
    await until_state(store, ReplicaState.RUNNING)
    assert await store.pids() == before


async def test_where_nobody_follows_the_load_any_more_it_has_its_grace(
    store: Watched, supervisor: Supervisor
) -> None:
    await one_drains(store)
    found = await store.deployment("kept")
    await store.save(replace(found, autoscale=None))
    await until_gone(store)
    assert store.states.count(ReplicaState.STOPPING) == 1


async def test_what_cannot_be_told_is_told_later(store: Watched, supervisor: Supervisor) -> None:
    store.broken["tell"] = TransportError("the broker is away")
    await two_follow(store)
    store.wanted = 1
    await looks(store, 20)
    await until_state(store, ReplicaState.RUNNING)
    del store.broken["tell"]
    await until_gone(store)


async def test_what_was_not_heard_is_said_again(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "HEEDED", 0.0)
    store.deaf = True
    await one_drains(store)
    store.deaf, store.idle = False, True
    await until_gone(store)


async def test_one_of_which_it_was_said_and_not_kept_goes_on(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor was killed in between, say."""
    monkeypatch.setattr(replicas, "HEEDED", 0.0)
    store.idle = False
    await two_follow(store)
    before = await store.pids()
    store.paused.add(str(before[LAST]))

    async def resumed() -> bool:
        return not store.paused

    await store.until(resumed)
    await until_state(store, ReplicaState.RUNNING)
    assert await store.pids() == before


async def test_one_that_hangs_while_it_drains_is_killed(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await one_drains(store)
    with monkeypatch.context() as patched:
        patched.setattr(replicas, "LOST", 0.0)
        store.forgotten = frozenset({LAST})

        async def killed() -> bool:
            return (await store.pids()).get(LAST) != before[LAST]

        await store.until(killed)
    store.idle, store.forgotten = True, frozenset()
    await until_gone(store)


async def test_one_that_cannot_be_resumed_is_started_anew_when_its_steps_have_ended(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have come with other code under the same version."""
    before = await one_drains(store)
    monkeypatch.setattr(replicas, "HEEDED", 0.0)
    store.deaf = True
    store.wanted = 2
    await looks(store, 20)
    assert await store.pids() == before
    store.idle, store.deaf = True, False

    async def anew() -> bool:
        now = await store.pids()
        return LAST in now and now[LAST] != before[LAST]

    await store.until(anew)
    await until_state(store, ReplicaState.RUNNING)


async def test_one_that_crashes_while_it_drains_comes_back_for_what_is_bound_to_it(
    store: Watched, supervisor: Supervisor
) -> None:
    before = await one_drains(store)
    os.kill(before[LAST], signal.SIGKILL)

    async def back() -> bool:
        now = await store.pids()
        return LAST in now and now[LAST] != before[LAST]

    await store.until(back)
    await until_state(store, ReplicaState.DRAINING)
    store.idle = True
    await until_gone(store)


async def test_nobody_drains_while_one_that_is_needed_does_not_run(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await one_is_resumed(store, monkeypatch)
    await looks(store, 20)
    assert (await store.pids()) == {LAST: before[LAST]}
    found = await store.deployment("kept")
    await store.save(replace(found, asked_at=found.asked_at + 10**13))
    await until_state(store, ReplicaState.DRAINING)


async def test_one_that_was_resumed_for_want_of_another_and_crashes_comes_back(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs may be bound to it all the same."""
    before = await one_is_resumed(store, monkeypatch)
    monkeypatch.setattr(replicas, "backoff", lambda failures: 0.0)
    os.kill(before[LAST], signal.SIGKILL)

    await until_back(store, before)


@pytest.mark.parametrize("who", ["the same supervisor", "another one"])
async def test_one_that_rests_from_a_crash_when_the_load_falls_comes_back_first(
    store: Watched, keep: Callable[[], Supervisor], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    kept = keep()
    await two_follow(store)
    before = await store.pids()
    monkeypatch.setattr(replicas, "backoff", lambda failures: 0.5)
    os.kill(before[LAST], signal.SIGKILL)

    async def rests() -> bool:
        return (await store.records())[LAST].state is ReplicaState.BACKOFF

    await store.until(rests)
    if who == "another one":
        kept.stop()
        keep()
    store.wanted = 1

    await until_back(store, before)
    await until_gone(store)
    assert (await store.pids()).keys() == {f"kept.{POOL}.1"}


async def test_one_that_comes_back_in_vain_does_so_a_few_times_only(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await one_drains(store)
    started: list[str] = []

    def never(*given: object) -> list[str]:
        started.append("once more")
        return [sys.executable, "-c", "raise SystemExit(1)"]

    monkeypatch.setattr(replicas, "worker_command", never)
    store.forgotten = frozenset({LAST})
    os.kill(before[LAST], signal.SIGKILL)
    await until_gone(store)
    assert len(started) == replicas.TRIES


async def test_one_that_never_registered_and_is_not_needed_does_not_come_back(
    store: Watched, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_follow(store)
    third = f"kept.{POOL}.3"
    store.forgotten = frozenset({third})
    store.wanted = 3

    async def there() -> bool:
        return third in await store.pids()

    await store.until(there)
    monkeypatch.setattr(replicas, "backoff", lambda failures: 3_600.0)
    os.kill((await store.pids())[third], signal.SIGKILL)

    async def rests() -> bool:
        return (await store.records())[third].state is ReplicaState.BACKOFF

    await store.until(rests)
    store.wanted = 2

    async def gone() -> bool:
        return third not in await store.records()

    await store.until(gone)

"""What somebody else wrote into the store, or what is left of a record: it is named, and costs no
other."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from ganger_broker.errors import StoreRefused
from ganger_dispatcher.core import effects as do
from tests.integration.store_place import Place, header, worker

BROKEN: dict[str, tuple[str, list[Any]]] = {
    "a worker of whom only heartbeats are left": ("worker:bad", ["HSET", "heartbeat_at", "1"]),
    "a worker whose field is no JSON": ("worker:bad", ["HSET", "slots", "many"]),
    "a worker that is no hash": ("worker:bad", ["SET", "x"]),
    "a worker with a field of no text": ("worker:bad", ["HSET", b"\xff", "1"]),
    "a label that is no JSON": ("worker:bad:labels", ["HSET", "memory", "lots"]),
    "a label that is none": ("worker:bad:labels", ["HSET", "memory", "true"]),
    "labels that are no hash": ("worker:bad:labels", ["SET", "x"]),
    "attempts that are no set": ("worker:bad:attempts", ["SET", "x"]),
    "a run without its header": ("run:bad", ["HSET", "status", "running"]),
    "a run of a status there is not": ("run:bad", ["HSET", "status", "odd", "workflow", "w"]),
    "a step of a run that is none": ("run:bad", ["HSET", "step:s", "[]"]),
    "a run that is no hash": ("run:bad", ["SET", "x"]),
    "a trigger that is none": ("held", ["HSET", "bad", "{}"]),
    "a schedule that is none": ("schedules", ["HSET", "bad", "nothing"]),
    "a rate that is none": ("rates", ["HSET", "bad", "{}"]),
    "a pool that is none": ("pools", ["HSET", "bad", "[]"]),
    "a definition that is none": ("workflow:bad", ["HSET", "definition", "{}"]),
    "a workflow that is no hash": ("workflow:bad", ["SET", "x"]),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_cannot_be_read_is_named_and_costs_no_other(place: Place, what: str) -> None:
    good = do.StoreRun("good", header()), do.StoreWorker(worker("good"))
    await place.commit(*good)
    whole = await place.store.load()
    name, (verb, *words) = BROKEN[what]
    if name.startswith("worker:bad:"):
        await place.commit(do.StoreWorker(worker("bad")))
    await place.redis.sadd(place.keys.active, "bad")
    await place.redis.zadd(place.keys.workers, {"bad": 1})
    await place.redis.sadd(place.keys.workflows, "bad")
    key = f"{place.keys.prefix}:{name}"
    if verb == "SET":
        await place.redis.delete(key)
    await place.redis.execute_command(verb, key, *words)
    with capture_logs() as logs:
        assert await place.store.load() == whole
    assert logs
    assert {line["event"] for line in logs} == {"unreadable, left aside"}
    assert all(line["error"] and key.startswith(line["key"]) for line in logs)


async def test_a_run_of_which_only_its_end_is_left_is_not_there(place: Place) -> None:
    await place.redis.hset(place.keys.run("r"), "status", "succeeded")
    assert await place.store.ended(["r"]) == {}
    await place.redis.hset(place.keys.run("r"), "workflow", "w")
    await place.redis.hset(place.keys.run("r"), "output", "no JSON")
    with capture_logs() as logs:
        assert await place.store.ended(["r"]) == {}
    assert [line["key"] for line in logs] == [place.keys.run("r")]
    await place.redis.set(place.keys.run("text"), "x")
    assert await place.store.ended(["text"]) == {}


async def test_names_that_are_no_text_cost_nothing(place: Place) -> None:
    await place.commit(do.StoreRun("good", header()), do.StoreWorker(worker("good")))
    whole = await place.store.load()
    await place.redis.sadd(place.keys.active, b"\xff")
    await place.redis.sadd(place.keys.workflows, b"\xff")
    await place.redis.zadd(place.keys.workers, {b"\xff": 1})
    assert await place.store.load() == whole


async def test_a_write_that_redis_refuses_is_told_with_its_key(place: Place) -> None:
    await place.redis.set(place.keys.worker("a"), "x")
    with pytest.raises(StoreRefused, match=f"WRONGTYPE.*HSET {place.keys.worker('a')}"):
        await place.commit(do.StoreWorker(worker("a")))

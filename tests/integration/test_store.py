"""The store, on a real Redis and on the one inside the process: the same keys, the same words."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from ganger_broker.errors import EpochSuperseded, InvalidInput, StoreError, StoreRefused
from ganger_broker.keys import Keys
from ganger_broker.messages import (
    FailureReason,
    Outcome,
    RunError,
    RunResult,
    RunStatus,
    StepDefinition,
    Trigger,
    WorkflowDefinition,
)
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.records import (
    Held,
    ReplyAddress,
    RunHeader,
    Snapshot,
    StepRun,
    Worker,
)
from ganger_dispatcher.core.state import digest
from ganger_dispatcher.core.states import StepStatus
from ganger_dispatcher.inspection import explain_step
from ganger_dispatcher.store import RedisStore, open_redis
from tests.unit.core.world import World, one_step

LEASE = 60_000


class Place:
    """A store in a place of its own, and a plain client that looks at what it wrote."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis = redis
        self.keys = Keys(prefix)
        self.store = RedisStore(redis, self.keys)
        self.epoch = 0

    async def commit(self, *effects: Effect) -> None:
        """Commit as the leader."""
        if not self.epoch:
            self.epoch, _ = await self.store.lease("leader", LEASE)
        await self.store.commit(self.epoch, effects)

    async def hash(self, key: str) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in (await self.redis.hgetall(key)).items()}

    async def zset(self, key: str) -> dict[str, int]:
        return {k.decode(): int(v) for k, v in await self.redis.zrange(key, 0, -1, withscores=True)}

    async def members(self, key: str) -> set[str]:
        return {member.decode() for member in await self.redis.smembers(key)}

    async def names(self) -> set[str]:
        """All keys, without the prefix."""
        prefix = f"{self.keys.prefix}:"
        found = [key.decode() async for key in self.redis.scan_iter(f"{prefix}*", count=10_000)]
        return {key.removeprefix(prefix) for key in found}

    async def all(self) -> dict[str, bytes]:
        """Everything there is, as Redis would dump it."""
        prefix = f"{self.keys.prefix}:*"
        return {
            key: await self.redis.dump(key)
            async for key in self.redis.scan_iter(prefix, count=10_000)
        }


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


def header(status: RunStatus = RunStatus.RUNNING, **fields: Any) -> RunHeader:
    given: dict[str, Any] = {
        "workflow": "w",
        "version": "v1",
        "definition": "d1",
        "status": status,
        "input": {"n": 1},
        "metadata": {},
        "priority": 2,
        "desired_worker_labels": {},
        "created_at": 1_000,
    }
    return RunHeader(**{**given, **fields})


def worker(name: str = "a", **fields: Any) -> Worker:
    given: dict[str, Any] = {
        "id": name,
        "incarnation": "i1",
        "name": "gpu",
        "slots": 4,
        "labels": {"model": "x", "memory": 512},
        "label_seq": 3,
        "actions": ["w:s"],
        "registered_at": 1_000,
        "heartbeat_at": 2_000,
    }
    return Worker(**{**given, **fields})


# ── leading ───────────────────────────────────────────────────────────────────────────


async def test_one_leads_and_the_others_are_told_how_long_to_wait(place: Place) -> None:
    assert await place.store.lease("one", LEASE) == (1, 0)
    epoch, wait = await place.store.lease("two", LEASE)
    assert epoch == 0
    assert 0 < wait <= LEASE


async def test_renewing_keeps_the_epoch(place: Place) -> None:
    await place.store.lease("one", 1)
    assert await place.store.lease("one", LEASE) == (1, 0)
    assert (await place.store.lease("two", LEASE))[0] == 0


async def test_the_epoch_rises_at_each_take_over(place: Place) -> None:
    for epoch, dispatcher in enumerate(["one", "two", "one", "two"], 1):
        assert await place.store.lease(dispatcher, 0) == (epoch, 0)


async def test_resigning_lets_the_next_one_in_at_once(place: Place) -> None:
    await place.store.lease("one", LEASE)
    await place.store.resign("two")
    assert (await place.store.lease("two", LEASE))[0] == 0
    await place.store.resign("one")
    assert await place.store.lease("two", LEASE) == (2, 0)


async def test_the_leader_is_readable(place: Place) -> None:
    await place.store.lease("one", LEASE)
    leader = await place.hash(place.keys.leader)
    seconds, _ = await place.redis.time()
    assert (leader["dispatcher"], leader["epoch"]) == ("one", "1")
    assert abs(int(leader["lease_end"]) - seconds * 1000 - LEASE) < 10_000


async def test_an_old_epoch_writes_nothing(place: Place) -> None:
    await place.commit(do.StoreRun("r", header()), do.StoreWorker(worker()))
    await place.store.lease("leader", 0)
    assert await place.store.lease("other", LEASE) == (2, 0)
    before = await place.all()
    effects: list[Effect] = [
        do.EndRun("r", header(RunStatus.SUCCEEDED, finished_at=5)),
        do.DropWorker("a"),
        do.Count("n"),
        do.Note("x", {}),
    ]
    reply = do.Reply(ReplyAddress("q"), RunResult("w", "r", RunStatus.SUCCEEDED))
    with pytest.raises(EpochSuperseded, match="epoch 1 is over"):
        await place.store.commit(1, effects, {"m1": reply}, ["m0"])
    assert await place.all() == before


async def test_an_epoch_that_never_was_writes_nothing(place: Place) -> None:
    for epoch in (0, 1):
        with pytest.raises(EpochSuperseded):
            await place.store.commit(epoch, [do.Count("n")])
    assert await place.names() == set()


async def test_effects_that_only_send_need_no_commit(place: Place) -> None:
    await place.commit(do.DeleteQueue("a"))
    assert await place.names() == {"leader"}


# ── what each effect writes ───────────────────────────────────────────────────────────


async def test_a_run(place: Place) -> None:
    reply = (ReplyAddress("q", "c", "application/json"),)
    await place.commit(
        do.StoreRun("r", header(reply=reply)),
        do.StoreStep("r", "s", StepRun(StepStatus.RUNNING, worker="a", started_at=5)),
    )
    fields = await place.hash(place.keys.run("r"))
    assert fields == {
        "workflow": "w",
        "version": "v1",
        "definition": "d1",
        "status": "running",
        "input": '{"n":1}',
        "metadata": "{}",
        "priority": "2",
        "desired_worker_labels": "{}",
        "created_at": "1000",
        "reply": '[{"reply_to":"q","correlation_id":"c","content_type":"application/json"}]',
        "step:s": '{"status":"running","worker":"a","started_at":5}',
    }
    assert await place.zset(place.keys.runs) == {"r": 1_000}
    assert await place.members(place.keys.active) == {"r"}
    assert await place.names() == {"leader", "run:r", "runs", "runs:active"}


async def test_the_end_of_a_run(place: Place) -> None:
    await place.commit(do.StoreRun("r", header()))
    error = RunError(FailureReason.STEP_FAILED, "no", step="s")
    ended = header(RunStatus.FAILED, finished_at=9_000, output={"a": 1}, error=error)
    await place.commit(do.EndRun("r", ended))
    fields = await place.hash(place.keys.run("r"))
    assert (fields["status"], fields["finished_at"]) == ("failed", "9000")
    assert json.loads(fields["output"]) == {"a": 1}
    assert json.loads(fields["error"]) == {"reason": "STEP_FAILED", "message": "no", "step": "s"}
    assert await place.members(place.keys.active) == set()
    assert await place.zset(place.keys.finished) == {"r": 9_000}
    assert await place.store.run("r") == (ended, {})


async def test_a_worker(place: Place) -> None:
    await place.commit(do.StoreWorker(worker(host="h", pid=7, version="0.1", past=["i0"])))
    assert await place.zset(place.keys.workers) == {"a": 2_000}
    assert await place.hash(place.keys.worker("a")) == {
        "name": "gpu",
        "incarnation": "i1",
        "state": "ready",
        "host": "h",
        "pid": "7",
        "version": "0.1",
        "actions": '["w:s"]',
        "slots": "4",
        "used": "0",
        "registered_at": "1000",
        "heartbeat_at": "2000",
        "given_at": "0",
        "label_seq": "3",
        "past": '["i0"]',
    }
    assert await place.hash(place.keys.labels("a")) == {"model": '"x"', "memory": "512"}
    assert "worker:a:attempts" not in await place.names()


async def test_what_changes_while_a_worker_works(place: Place) -> None:
    await place.commit(do.StoreWorker(worker()))
    await place.commit(
        do.TakeAttempt("a", "r/s/1"),
        do.TakeAttempt("a", "r/t/1"),
        do.StoreLoad("a", 2, "draining", 3_000),
        do.StoreLabels("a", 4, {"model": "y", "load": 0.5}, ("memory",)),
        do.Beat("a", 4_000),
    )
    fields = await place.hash(place.keys.worker("a"))
    assert (fields["used"], fields["state"], fields["given_at"]) == ("2", "draining", "3000")
    assert (fields["label_seq"], fields["heartbeat_at"]) == ("4", "4000")
    assert await place.hash(place.keys.labels("a")) == {"model": '"y"', "load": "0.5"}
    assert await place.zset(place.keys.workers) == {"a": 4_000}
    assert await place.members(place.keys.attempts("a")) == {"r/s/1", "r/t/1"}
    await place.commit(do.ReleaseAttempt("a", "r/s/1"))
    assert await place.members(place.keys.attempts("a")) == {"r/t/1"}
    await place.commit(do.DropWorker("a"))
    assert await place.names() == {"leader"}


async def test_a_workflow(place: Place) -> None:
    first = one_step()
    second = WorkflowDefinition("w", [StepDefinition("s"), StepDefinition("t", ["s"])], "v2")
    await place.commit(do.StoreWorkflow(first))
    await place.commit(do.StoreWorkflow(second))
    fields = await place.hash(place.keys.workflow("w"))
    assert fields["version"] == "v2"
    assert [step["name"] for step in json.loads(fields["definition"])["steps"]] == ["s", "t"]
    assert fields.keys() == {
        "version",
        "definition",
        f"definition:{digest(first)}",
        f"definition:{digest(second)}",
    }
    assert await place.members(place.keys.workflows) == {"w"}


async def test_pending_steps(place: Place) -> None:
    await place.commit(do.AddPending("r/s", 5_000), do.AddPending("r/t", 6_000))
    assert await place.zset(place.keys.pending) == {"r/s": 5_000, "r/t": 6_000}
    await place.commit(do.DropPending("r/s"))
    assert await place.zset(place.keys.pending) == {"r/t": 6_000}


async def test_held_triggers(place: Place) -> None:
    held = Held("r", Trigger("w", {"n": 1}, run_id="r"), 7_000, (ReplyAddress("q"),))
    await place.commit(do.Hold(held))
    [(name, text)] = (await place.hash(place.keys.held)).items()
    assert (name, json.loads(text)["trigger"]["input"]) == ("r", {"n": 1})
    await place.commit(do.Unhold("r"))
    assert await place.names() == {"leader"}


async def test_counters_add_up(place: Place) -> None:
    await place.commit(do.Count("steps"), do.Count("steps", 2), do.Count("runs"))
    await place.commit(do.Count("steps"))
    assert await place.hash(place.keys.stats) == {"steps": "4", "runs": "1"}


async def test_the_feed_is_readable_in_order_and_from_any_place(place: Place) -> None:
    await place.commit(
        do.Note("placed", {"attempt": "r/s/1", "waited_ms": 5}),
        do.Note("labels", {"worker": "a", "upsert": {"m": "é"}, "delete": ("x",)}),
    )
    entries = await place.store.feed()
    assert [fields for _, fields in entries] == [
        {"kind": "placed", "attempt": "r/s/1", "waited_ms": "5"},
        {"kind": "labels", "worker": "a", "upsert": '{"m":"é"}', "delete": '["x"]'},
    ]
    assert await place.store.feed(after=entries[0][0]) == entries[1:]
    assert await place.store.feed(most=1) == entries[:1]


async def test_the_feed_is_capped(place: Place) -> None:
    place.store = RedisStore(place.redis, place.keys, feed_length=100)
    for _ in range(10):
        await place.commit(*(do.Note("n", {"at": n}) for n in range(200)))
    assert 100 <= await place.redis.xlen(place.keys.feed) <= 300
    place.store = RedisStore(place.redis, Keys(f"{place.keys.prefix}:unfed"), feed_length=0)
    place.epoch = 0
    await place.commit(do.Note("n", {}))
    assert await place.store.feed() == []


# ── of one batch, the last word on each thing counts ──────────────────────────────────


async def test_a_worker_dropped_and_registered_in_one_batch_is_there_anew(place: Place) -> None:
    await place.commit(
        do.StoreWorker(worker(labels={"old": 1, "both": 1})), do.TakeAttempt("a", "r/s/1")
    )
    await place.commit(
        do.Beat("a", 2_500),
        do.ReleaseAttempt("a", "r/x/1"),
        do.DropWorker("a"),
        do.StoreWorker(worker(incarnation="i2", labels={"both": 2}, heartbeat_at=3_000)),
        do.TakeAttempt("a", "r/s/2"),
        do.StoreLabels("a", 4, {"new": 1}, ()),
    )
    [found] = await place.store.workers()
    assert (found.incarnation, found.labels) == ("i2", {"both": 2, "new": 1})
    assert (list(found.attempts), found.heartbeat_at) == (["r/s/2"], 3_000)
    assert await place.zset(place.keys.workers) == {"a": 3_000}


async def test_a_worker_registered_and_dropped_in_one_batch_is_gone(place: Place) -> None:
    await place.commit(
        do.StoreWorker(worker()),
        do.TakeAttempt("a", "r/s/1"),
        do.StoreLabels("a", 4, {"m": 1}, ("memory",)),
        do.DropWorker("a"),
    )
    assert await place.names() == {"leader"}


async def test_a_worker_registered_anew_has_no_labels_of_before(place: Place) -> None:
    await place.commit(do.StoreWorker(worker()))
    await place.commit(do.StoreLabels("a", 4, {"late": 1}, ()), do.StoreWorker(worker(labels={})))
    assert await place.hash(place.keys.labels("a")) == {}


async def test_labels_set_and_deleted_in_one_batch(place: Place) -> None:
    await place.commit(do.StoreWorker(worker(labels={"a": 1, "b": 1})))
    await place.commit(
        do.StoreLabels("a", 4, {"b": 2}, ("a",)),
        do.StoreLabels("a", 5, {"a": 3}, ("b",)),
        do.StoreLabels("a", 6, {"c": 4}, ()),
        do.StoreLabels("a", 7, {}, ("c",)),
    )
    assert await place.hash(place.keys.labels("a")) == {"a": "3"}


async def test_other_things_set_and_taken_back_in_one_batch(place: Place) -> None:
    held = Held("r", Trigger("w"), 1)
    await place.commit(
        do.AddPending("r/s", 1),
        do.DropPending("r/s"),
        do.DropPending("r/t"),
        do.AddPending("r/t", 2),
        do.TakeAttempt("a", "r/s/1"),
        do.ReleaseAttempt("a", "r/s/1"),
        do.Hold(held),
        do.Unhold("r"),
        do.StoreRun("r", header()),
        do.EndRun("r", header(RunStatus.SUCCEEDED, finished_at=5)),
    )
    assert await place.zset(place.keys.pending) == {"r/t": 2}
    assert await place.members(place.keys.active) == set()
    assert await place.names() == {"leader", "pending", "run:r", "runs", "runs:finished"}


async def test_a_batch_of_any_size_is_one_commit(place: Place) -> None:
    many = 12_000  # Lua's unpack takes fewer words
    await place.commit(
        *(do.AddPending(f"r{n}/s", n) for n in range(many)),
        *(do.TakeAttempt("a", f"r{n}/s/1") for n in range(many)),
        *(do.StoreStep("r", f"s{n}", StepRun(StepStatus.WAITING)) for n in range(many)),
    )
    assert await place.redis.zcard(place.keys.pending) == many
    assert await place.redis.scard(place.keys.attempts("a")) == many
    assert await place.redis.hlen(place.keys.run("r")) == many
    await place.commit(*(do.DropPending(f"r{n}/s") for n in range(many)))
    assert await place.redis.zcard(place.keys.pending) == 0


# ── what the next leader reads ────────────────────────────────────────────────────────


def told_apart(snapshot: Snapshot) -> dict[str, Any]:
    """What counts of a snapshot: neither order nor the order of attempts does."""
    return {
        "workflows": sorted(snapshot.workflows, key=lambda w: w.name),
        "definitions": snapshot.definitions,
        "workers": sorted(snapshot.workers, key=lambda w: w.id),
        "runs": sorted(snapshot.runs, key=lambda run: run[0]),
        "held": sorted(snapshot.held, key=lambda held: held.run_id),
    }


async def test_an_empty_store_is_an_empty_snapshot(place: Place) -> None:
    assert await place.store.load() == Snapshot()


def something(world: World, rng: random.Random) -> list[Effect]:
    """One more thing that happens."""
    name = rng.choice("abc")
    workers = world.core.state.workers
    attempts = [attempt for each in workers.values() for attempt in each.attempts]
    ways = ["join", "label", *["trigger"] * 5, "start", "end", "end", "go", "cancel"]
    what = rng.choice(ways)
    world.now += rng.choice([0, 0, 1, 500])
    flows = [one_step(retries=1), one_step("gpu", desired_worker_labels={"gpu": 1})]
    if what == "join" or name not in workers:
        labels = {key: rng.choice([0, 1, "é"]) for key in rng.sample(["gpu", "m", "n"], 2)}
        incarnation = rng.choice([world.incarnations.get(name, "0"), uuid4().hex])
        slots = workers[name].slots if name in workers else rng.randint(1, 3)
        return world.join(
            name, labels, workflows=flows, slots=slots, incarnation=incarnation, label_seq=world.now
        )
    if what == "label":
        return world.label(world.now, {"gpu": rng.randint(0, 1)}, "m", "gpu", worker=name)
    if what == "trigger":
        flow = rng.choice(["w", "gpu", "unknown"])
        known = [*world.core.state.runs, *world.core.state.held]
        run_id = rng.choice([f"r{world.now}-{rng.random()}", *known[-1:]])
        return world.trigger(run_id, flow, rng.choice([None, "q"]), input={"é": 1})
    if what == "go":
        return rng.choice([world.leave, world.drain])(name)
    if what == "cancel":
        return world.cancel(next(iter(world.core.state.runs), "none"))
    if not attempts:
        return []
    attempt = rng.choice(attempts)
    holder = next(each.id for each in workers.values() if attempt in each.attempts)
    if what == "start":
        return world.start(attempt, holder)
    return world.finish(attempt, holder, rng.choice(list(Outcome)), output={"x": [1, None, "é"]})


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_loaded_is_what_was_committed(place: Place, seed: int) -> None:
    """Batches of any size give what their effects give one by one."""
    rng = random.Random(seed)
    world = World()
    live = 0
    for _ in range(60):
        batch: list[Effect] = []
        for _ in range(rng.randint(1, 12)):
            batch += something(world, rng)
        await place.commit(*batch)
        loaded = await place.store.load()
        assert told_apart(loaded) == told_apart(world.stored.snapshot())
        assert await place.zset(place.keys.pending) == world.stored.pending
        live += len(loaded.runs)
    assert live > 60


async def test_runs_are_read_ended_or_not(place: Place) -> None:
    world = World()
    effects = world.join("a") + world.trigger("r1") + world.finish("r1/s/1", output="é")
    world.now += 1
    effects += world.trigger("r2", reply="q") + world.trigger("r3")
    await place.commit(*effects)
    newest = await place.store.newest_runs(2)
    assert [run_id for run_id, *_ in newest] == ["r3", "r2"]
    assert newest[1] == ("r2", world.stored.headers["r2"], world.stored.steps["r2"])
    assert await place.store.run("r1") == (world.stored.headers["r1"], world.stored.steps["r1"])
    assert await place.store.run("never") is None


async def test_results_of_runs_that_have_ended(place: Place) -> None:
    world = World()
    error = RunError(FailureReason.TIMED_OUT, "too long", type="TimeoutError")
    effects = world.join("a", slots=3)
    for run_id in ("good", "bad", "going"):
        effects += world.trigger(run_id)
    effects += world.finish("good/s/1", output={"x": 1})
    effects += world.finish("bad/s/1", outcome=Outcome.FAILED, error=error)
    await place.commit(*effects)
    ended = await place.store.ended(["good", "bad", "going", "never"])
    assert ended.keys() == {"good", "bad"}
    assert ended["good"] == RunResult("w", "good", RunStatus.SUCCEEDED, {"s": {"x": 1}})
    assert ended["bad"].error == RunError(
        FailureReason.TIMED_OUT, "too long", "s", "bad/s/1", "TimeoutError"
    )
    assert await place.store.ended([]) == {}


async def test_a_held_trigger_that_was_cancelled_is_a_run_that_has_ended(place: Place) -> None:
    world = World()
    await place.commit(*world.trigger(reply="q"), *world.cancel())
    assert (await place.store.ended(["r"]))["r"].status == "cancelled"
    assert await place.store.load() == Snapshot()


# ── outbox and retention ──────────────────────────────────────────────────────────────


async def test_messages_stay_in_the_outbox_until_they_are_sent(place: Place) -> None:
    address = ReplyAddress("q", "c", "application/json")
    reply = do.Reply(address, RunResult("w", "r", RunStatus.SUCCEEDED, {"s": 1}))
    bury = do.Bury(b"\x00\xff", None, "trigger.w", "unknown_workflow", "nobody", keep=True)
    epoch, _ = await place.store.lease("leader", LEASE)
    await place.store.commit(epoch, [], {"m1": reply, "m2": bury})
    assert await place.store.outbox() == {"m1": reply, "m2": bury}
    later = do.Reply(address, RunResult("w", "r2", RunStatus.CANCELLED))
    await place.store.commit(epoch, [], {"m3": later}, ["m1", "m2"])
    assert await place.store.outbox() == {"m3": later}
    await place.store.commit(epoch, [], sent=["m3"])
    assert await place.names() == {"leader"}


async def test_only_runs_that_ended_long_ago_are_deleted(place: Place) -> None:
    await place.commit(
        *(do.StoreRun(name, header()) for name in ("live", "old", "recent")),
        do.EndRun("old", header(RunStatus.FAILED, finished_at=4_999)),
        do.EndRun("recent", header(RunStatus.SUCCEEDED, finished_at=5_001)),
    )
    assert await place.store.prune(5_000) == 1
    assert await place.store.prune(5_000) == 0
    assert await place.zset(place.keys.runs) == {"live": 1_000, "recent": 1_000}
    assert await place.zset(place.keys.finished) == {"recent": 5_001}
    names = await place.names()
    assert {"run:live", "run:recent"} <= names
    assert "run:old" not in names


async def test_many_old_runs_go_in_several_rounds(place: Place) -> None:
    for run_id in range(1_200):
        await place.commit(do.EndRun(str(run_id), header(RunStatus.FAILED, finished_at=1)))
    assert [await place.store.prune(5_000) for _ in range(3)] == [1_000, 200, 0]
    assert await place.names() == {"leader"}


# ── errors ────────────────────────────────────────────────────────────────────────────


async def test_redis_that_is_away_is_a_store_error() -> None:
    store = RedisStore(open_redis("redis://127.0.0.1:1/0"), Keys("test"))
    with pytest.raises(StoreError, match="Redis: ConnectionError") as caught:
        await store.lease("one", LEASE)
    assert not isinstance(caught.value, StoreRefused)
    await store.close()


async def test_redis_that_answers_with_an_error_has_refused(place: Place) -> None:
    await place.redis.set(place.keys.stats, "somebody else's")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await place.commit(do.Count("n"))


# ── explanations of what is stored ────────────────────────────────────────────────────


async def pending_on_gpu(place: Place) -> World:
    flow = one_step(desired_worker_labels={"gpu": 1})
    world = World()
    await place.commit(
        *world.join("none", workflows=[flow]),
        *world.join("full", {"gpu": 1}, workflows=[flow]),
        *world.trigger("r1"),
        *world.trigger("r2"),
        *world.trigger("r3", desired_worker_labels={"gpu": 2}),
    )
    return world


async def test_why_a_step_waits(place: Place) -> None:
    await pending_on_gpu(place)
    explanation = await explain_step(place.store, "r2")
    assert (explanation.step_run, explanation.status) == ("r2/s", "pending")
    assert (explanation.verdict, explanation.selected) == ("not now", None)
    assert [(w["id"], w["used"], w["slots"], w["state"]) for w in explanation.workers] == [
        ("full", 1, 1, "ready"),
        ("none", 0, 1, "ready"),
    ]
    never = await explain_step(place.store, "r3/s")
    assert (never.verdict, never.desired_worker_labels) == ("never with this fleet", {"gpu": 2})
    assert [worker["reasons"][0]["code"] for worker in never.workers] == ["missing", "mismatch"]


async def test_a_step_that_does_not_wait_has_no_verdict(place: Place) -> None:
    await pending_on_gpu(place)
    explanation = await explain_step(place.store, "r1/s/1")
    assert (explanation.status, explanation.worker) == ("assigned", "full")
    assert (explanation.verdict, explanation.selected) == (None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("never", r"there is no run 'never'"),
        ("r1/t", r"there is no step run 'r1/t'; this run has r1/s"),
    ],
)
async def test_what_is_not_there_cannot_be_explained(place: Place, name: str, text: str) -> None:
    await pending_on_gpu(place)
    with pytest.raises(InvalidInput, match=text):
        await explain_step(place.store, name)

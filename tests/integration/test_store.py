"""The store, on a real Redis and on the one inside the process: the same keys, the same words."""

import json

import pytest
from msgspec.structs import replace

from ganger_broker.crons import Cron
from ganger_broker.definitions import RateLimit, StepDefinition, WorkflowDefinition
from ganger_broker.deployments import PoolLoad
from ganger_broker.errors import EpochSuperseded
from ganger_broker.keys import Keys
from ganger_broker.messages import FailureReason, RunError, RunResult, RunStatus, Trigger
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.records import (
    Held,
    RateUse,
    ReplyAddress,
    Schedule,
    StepRun,
)
from ganger_dispatcher.core.states import StepStatus
from ganger_dispatcher.store import RedisStore
from ganger_dispatcher.store.redis_store import NotNew, SetBack
from tests.integration.store_place import LEASE, Place, header, worker
from tests.unit.core.world import one_step

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


async def test_a_run_that_is_not_new_has_nothing_written(place: Place) -> None:
    await place.commit(do.StoreRun("old", header()))
    before = await place.all()
    effects = [do.StoreRun("other", header()), do.Count("n")]
    with pytest.raises(NotNew):
        await place.store.commit(place.epoch, effects, new=["other", "old"])
    assert await place.all() == before
    await place.store.commit(place.epoch, effects, new=["other"])
    assert (await place.hash(place.keys.stats))["n"] == "1"


async def test_a_batch_whose_answer_was_lost_is_not_stored_twice(place: Place) -> None:
    epoch, _ = await place.store.lease("leader", LEASE)
    for batch in ("1", "1", "2", "2"):
        await place.store.commit(epoch, [do.Count("n"), do.Note("n", {})], batch=batch)
    await place.store.commit(epoch, [do.Count("n")])
    await place.store.commit(epoch, [do.Count("n")])
    assert await place.hash(place.keys.stats) == {"n": "4"}
    assert await place.redis.xlen(place.keys.feed) == 2


async def test_a_redis_that_was_set_back_is_not_written_on(place: Place) -> None:
    epoch, _ = await place.store.lease("leader", LEASE)
    await place.store.commit(epoch, [do.Count("n")], batch="1")
    await place.store.commit(epoch, [do.Count("n")], batch="2")
    await place.redis.hset(place.keys.leader, "batch", "1")
    await place.redis.hset(place.keys.stats, "n", "1")
    before = await place.all()
    with pytest.raises(SetBack, match="commit 2 was confirmed and is not there any more"):
        await place.store.commit(epoch, [do.Count("n")])
    assert await place.all() == before
    await place.store.load()  # it knows now what is there
    await place.store.commit(epoch, [do.Count("n")])
    assert await place.hash(place.keys.stats) == {"n": "2"}


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


async def test_what_a_pool_has_to_do(place: Place) -> None:
    load = PoolLoad(2, 8, 7, 3, 4, 9_000, 4.0)
    await place.commit(do.StorePool("p", load), do.StorePool("q", load))
    text = '{"workers":2,"slots":8,"used":7,"pending":3,"wanted":4,"at":9000,"slots_each":4.0}'
    assert await place.hash(place.keys.pools) == {"p": text, "q": text}
    assert (await place.store.load()).pools == {"p": load, "q": load}
    busier = replace(load, pending=9)
    await place.commit(do.DropPool("p"), do.StorePool("q", load), do.StorePool("q", busier))
    assert await place.store.pools() == {"q": busier}
    await place.commit(do.DropPool("q"), do.StorePool("q", load), do.DropPool("q"))
    assert await place.store.pools() == {}
    await place.redis.hset(place.keys.pools, "old", text.replace(',"slots_each":4.0', ""))
    assert (await place.store.pools())["old"].slots_each == 1


async def test_the_counters(place: Place) -> None:
    assert await place.store.counters() == {}
    await place.commit(do.Count("n"), do.Count("n", 2), do.Count("m:x"))
    assert await place.store.counters() == {"n": 3, "m:x": 1}


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
        "workflows": "{}",
        "waits": "{}",
        "coming": "{}",
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
        do.StoreComing("a", {"r/s/1": {"model": "z"}}),
        do.Beat("a", 4_000),
    )
    fields = await place.hash(place.keys.worker("a"))
    assert (fields["used"], fields["state"], fields["given_at"]) == ("2", "draining", "3000")
    assert (fields["label_seq"], fields["heartbeat_at"]) == ("4", "4000")
    assert fields["coming"] == '{"r/s/1":{"model":"z"}}'
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
    came = digest(second), digest(first)  # the first was started again since
    await place.commit(do.StoreWorkflow(first, came[1:]))
    await place.commit(do.StoreWorkflow(second, came))
    fields = await place.hash(place.keys.workflow("w"))
    assert fields["version"] == "v2"
    assert [step["name"] for step in json.loads(fields["definition"])["steps"]] == ["s", "t"]
    assert fields.keys() == {
        "version",
        "definition",
        "came",
        f"definition:{digest(first)}",
        f"definition:{digest(second)}",
    }
    assert await place.members(place.keys.workflows) == {"w"}
    snapshot = await place.store.load()
    assert snapshot.workflows == [second]
    assert snapshot.definitions == {digest(first): first, digest(second): second}
    assert snapshot.came == {"w": list(came)}
    await place.redis.hdel(place.keys.workflow("w"), "came")
    assert (await place.store.load()).came == {"w": [digest(first), digest(second)]}


async def test_limits_queued_runs_and_schedules(place: Place) -> None:
    use = RateUse(RateLimit("api", 5, 60), {1_000: 2, 2_000: 1})
    once = Schedule("once", "w", 5_000, input={"n": 1}, priority=2)
    cron = Schedule("cron", "w", 4_000, last_at=3_000, cron=Cron("* * * * *", "Europe/Berlin"))
    queued = header(queued="concurrency: at most 1 run of w at once")
    await place.commit(do.StoreWorkflow(one_step(), (digest(one_step()),)))
    await place.commit(
        do.StoreRate(use), do.StoreSchedule(once), do.StoreSchedule(cron), do.StoreRun("r", queued)
    )
    snapshot = await place.store.load()
    assert (snapshot.rates, snapshot.schedules) == ([use], [cron, once])
    [(_, kept, _)] = snapshot.runs
    assert kept == queued
    await place.commit(do.DropSchedule("once"), do.Unqueue("r"))
    snapshot = await place.store.load()
    assert snapshot.schedules == [cron]
    assert snapshot.runs[0][1].queued is None
    assert "queued" not in await place.hash(place.keys.run("r"))


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

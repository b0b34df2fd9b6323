"""What the next leader, programs and operators read of the store."""

import random
import time
from typing import Any
from uuid import uuid4

import pytest

from ganger_broker.definitions import StepDefinition, StickyStrategy, WorkflowDefinition
from ganger_broker.errors import InvalidInput, StoreError, StoreRefused
from ganger_broker.keys import Keys
from ganger_broker.labels import MAX_CONDITIONS
from ganger_broker.messages import FailureReason, Outcome, RunError, RunResult, RunStatus
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.facts import CancelRequested
from ganger_dispatcher.core.records import (
    KeptLine,
    ReplyAddress,
    Snapshot,
)
from ganger_dispatcher.inspection import explain_step
from ganger_dispatcher.store import RedisStore, open_redis
from tests.integration.store_place import LEASE, Place, header
from tests.unit.core.world import World, one_step

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


def lines(first: int, count: int) -> tuple[KeptLine, ...]:
    return tuple(
        KeptLine(at=1_000 + n, attempt="r:1/s/1", seq=n, level="info", message=f"line {n}")
        for n in range(first, first + count)
    )


async def test_the_newest_lines_of_a_run_are_kept_and_how_far_they_go(place: Place) -> None:
    await place.commit(
        do.StoreRun("r:1", header()),
        do.AppendLog("r:1", {"s/1": 2}, lines(1, 2)),
        do.AppendLog("r:1", {"s/1": 3}, lines(3, 1)),
    )
    assert await place.store.log("r:1") == [*lines(1, 3)]
    [(_, kept, _)] = (await place.store.load()).runs
    assert kept.logged == {"s/1": 3}
    for first in (4, 1_004):
        await place.commit(do.AppendLog("r:1", {"s/1": first + 999}, lines(first, 1_000)))
    assert await place.store.log("r:1") == [*lines(1_004, 1_000)]
    await place.commit(do.AppendLog("r:1", {"s/1": 4_003}, lines(2_004, 2_000)))
    assert await place.store.log("r:1") == [*lines(3_004, 1_000)]
    assert await place.store.log("r") == []


async def test_a_run_s_lines_go_with_it(place: Place) -> None:
    for name in ("old", "recent"):
        await place.commit(do.StoreRun(name, header()), do.AppendLog(name, {"s/1": 2}, lines(1, 2)))
    await place.commit(
        do.EndRun("old", header(RunStatus.FAILED, finished_at=4_999)),
        do.EndRun("recent", header(RunStatus.SUCCEEDED, finished_at=5_001)),
    )
    assert await place.store.prune(5_000) == 1
    assert {name for name in await place.names() if "log" in name} == {"log:recent"}


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


async def test_conditions_of_a_step_and_of_its_trigger_may_be_more_than_one_of_them_may_have(
    place: Place,
) -> None:
    own = {f"own-{number}": number for number in range(MAX_CONDITIONS)}
    more = {f"more-{number}": number for number in range(MAX_CONDITIONS)}
    world = World()
    await place.commit(
        *world.join("none", workflows=[one_step(desired_worker_labels=own)]),
        *world.trigger("r", desired_worker_labels=more),
    )
    explanation = await explain_step(place.store, "r")
    assert len(explanation.workers[0]["reasons"]) == 2 * MAX_CONDITIONS


async def test_a_step_that_is_pinned_says_to_whom(place: Place) -> None:
    flow = WorkflowDefinition(
        "w", [StepDefinition("s"), StepDefinition("t", parents=["s"])], sticky=StickyStrategy.HARD
    )
    world = World()
    await place.commit(
        *world.join("one", workflows=[flow]),
        *world.trigger("r"),
        *world.trigger("other", priority=3),
        *world.finish("r/s/1", "one"),
        *world.join("two", workflows=[flow]),
    )
    explanation = await explain_step(place.store, "r/t")
    assert (explanation.status, explanation.pinned) == ("pending", "one")
    assert (explanation.verdict, explanation.selected) == ("not now", None)
    eligible = {worker["id"]: worker["eligible"] for worker in explanation.workers}
    assert eligible == {"one": True, "two": False}
    assert explanation.workers[1]["reasons"][0]["key"] == "ganger.worker"


async def test_a_step_that_is_patient_is_not_about_to_be_placed(place: Place) -> None:
    flow = one_step(desired_worker_labels={"model": {"value": "x", "prefer_for": "1h"}})
    world = World()
    world.now = round(time.time() * 1000)
    await place.commit(
        *world.join("warm", {"model": "x"}, workflows=[flow]),
        *world.trigger("r1"),
        *world.join("cold", workflows=[flow]),
        *world.trigger("r2"),
    )
    explanation = await explain_step(place.store, "r2")
    assert (explanation.verdict, explanation.selected) == ("not now", None)
    assert explanation.patient_until == world.now + 3_600_000
    assert [worker["id"] for worker in explanation.workers] == ["warm", "cold"]


async def test_a_step_that_waits_for_its_parents_says_which(place: Place) -> None:
    joins = StepDefinition("join", parents=["a", "b", "c"])
    steps = [*(StepDefinition(name) for name in "abc"), joins]
    world = World()
    await place.commit(
        *world.join("one", workflows=[WorkflowDefinition("w", steps)], slots=2),
        *world.trigger("r"),
        *world.finish("r/a/1", "one"),
        *world.start("r/c/1", "one"),
    )
    explanation = await explain_step(place.store, "r/join")
    assert (explanation.status, explanation.verdict) == ("waiting", None)
    assert explanation.waits_for == "its parents: r/b (assigned), r/c (running)"
    await place.commit(*world.finish("r/b/1", "one"), *world.finish("r/c/1", "one"))
    assert (await explain_step(place.store, "r/join")).waits_for is None


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


async def test_a_run_that_was_cancelled_before_it_began_has_no_steps(place: Place) -> None:
    world = World()
    held = world.trigger("h", workflow="nosuch")
    await place.commit(*held, *world.tell(CancelRequested("h", "no use any more")))
    with pytest.raises(InvalidInput, match="run 'h' has no steps: it was cancelled before it"):
        await explain_step(place.store, "h")


async def test_a_trigger_that_is_held_says_for_what_and_until_when(place: Place) -> None:
    world = World()
    await place.commit(*world.trigger("h", workflow="nosuch", desired_worker_labels={"gpu": 1}))
    for name, step_run in (("h/s", "h/s"), ("h", "h"), ("h/s/1", "h/s")):
        explanation = await explain_step(place.store, name)
        assert (explanation.step_run, explanation.status) == (step_run, "held")
        assert explanation.waits_for is not None
        assert "the workflow 'nosuch'; none has registered it" in explanation.waits_for
        assert explanation.held_until == world.now + world.policy.hold
        assert (explanation.verdict, explanation.desired_worker_labels) == (None, {"gpu": 1})
    assert [held.run_id for held in await place.store.held()] == ["h"]
    await place.commit(*world.join("a", workflows=[one_step("nosuch")]))
    assert (await explain_step(place.store, "h/s")).status == "pending"
    assert await place.store.held() == []


async def test_held_triggers_come_in_the_order_in_which_they_are_given_up(place: Place) -> None:
    world = World()
    for run_id in ("z", "a", "m"):
        await place.commit(*world.trigger(run_id, workflow="nosuch"))
        world.now += 1
    assert [held.run_id for held in await place.store.held()] == ["z", "a", "m"]


async def test_a_step_that_waits_for_a_run_or_for_its_slot_again_says_so(place: Place) -> None:
    world = World()

    async def waits_for(run_id: str) -> str | None:
        return (await explain_step(place.store, f"{run_id}/s")).waits_for

    await place.commit(*world.join("a"), *world.trigger("r"), *world.start("r/s/1"))
    assert await waits_for("r") is None
    await place.commit(*world.waits("r/s/1", 1))
    assert await waits_for("r") == "the end of another run, and its slot is for others meanwhile"
    await place.commit(*world.trigger("other"), *world.start("other/s/1"))
    await place.commit(*world.waits("r/s/1", 2))
    assert await waits_for("r") == (
        "a slot of a again, since the run that it waited for has ended: "
        "2 steps there need one of 1 slot"
    )
    assert await waits_for("other") is None
    await place.commit(*world.finish("other/s/1"))
    assert await waits_for("r") is None  # it has its slot: nobody else needs one

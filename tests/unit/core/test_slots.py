"""Slots that a worker has not free though they were counted so: what comes back, what is old."""

from typing import Any

from ganger_broker.messages import Outcome
from ganger_broker.to_worker import CancelAttempt
from ganger_dispatcher.core.effects import Assign

from .world import SECOND, World, assigned, of, one_step, replies, told

GPU = {"gpu": "yes"}
SHORT = one_step("short", desired_worker_labels=GPU, timeout=5)


def crowded(**fields: Any) -> World:
    """The step of ``r`` waited for its child on ``a``; ``short`` was given its slot just as it
    went on."""
    world = World()
    world.join("a", GPU, workflows=[one_step(timeout=300), SHORT])
    world.trigger()
    world.start("r/s/1")
    world.waits("r/s/1", 1)
    assert assigned(world.trigger("x", "short", reply="q", **fields)) == [("x/s/1", "a")]
    world.waits("r/s/1", 2)
    return world


# ── an attempt for which there is no slot ─────────────────────────────────────────────


def test_what_a_worker_has_no_slot_for_goes_elsewhere_by_its_labels() -> None:
    world = crowded()
    world.join("plain", workflows=[SHORT])
    assert assigned(world.returned("x/s/1")) == []
    assert assigned(world.join("b", GPU, workflows=[SHORT])) == [("x/s/2", "b")]
    step = world.step("x")
    assert (step.failures, step.losses) == (0, 0)


def test_it_comes_back_to_the_worker_when_that_has_a_slot_again() -> None:
    world = crowded()
    world.returned("x/s/1")
    assert assigned(world.finish("r/s/1")) == [("x/s/2", "a")]


def test_it_has_not_begun_to_take_time_and_its_time_is_its_own_when_it_begins() -> None:
    world = crowded()
    assert replies(world.wait(30, "a")) == []
    world.returned("x/s/1")
    world.finish("r/s/1")
    world.start("x/s/2")
    assert replies(world.wait(9, "a")) == []
    assert replies(world.wait(1, "a")) == [("q", "failed", "TIMED_OUT")]


def test_it_keeps_its_turn() -> None:
    world = crowded()
    world.now += SECOND
    world.trigger("later", "short")
    world.returned("x/s/1")
    assert assigned(world.finish("r/s/1")) == [("x/s/2", "a")]


def test_it_may_wait_as_long_as_any_step_that_is_pending() -> None:
    world = crowded()
    world.wait(200, "a")
    world.returned("x/s/1")
    assert replies(world.wait(299, "a")) == []
    assert replies(world.wait(1, "a")) == [("q", "cancelled", "SCHEDULING_TIMED_OUT")]


def test_what_was_cancelled_meanwhile_or_had_begun_does_not_come_back() -> None:
    world = crowded()
    world.cancel("x")
    assert assigned(world.returned("x/s/1")) == []
    assert world.held_by("a") == ["r/s/1"]
    world.returned("r/s/1")
    assert world.held_by("a") == ["r/s/1"]
    assert world.step().attempt == 1


def test_its_worker_is_lost_with_it() -> None:
    world = crowded()
    world.join("b", GPU, workflows=[SHORT])
    assert ("x/s/2", "b") in assigned(world.wait(11, "b"))
    world.join("a", GPU, workflows=[SHORT], incarnation="2")
    assert assigned(world.returned("x/s/1")) == []
    assert world.step("x").worker == "b"


# ── what a worker has still, and should not ───────────────────────────────────────────


def back(slots: int = 1) -> World:
    """``a`` was lost with the attempt that it had, and is back with it."""
    world = World()
    world.join("a", GPU, workflows=[SHORT], slots=slots)
    world.trigger("r", "short")
    world.start("r/s/1")
    world.wait(11)
    world.join("a", GPU, workflows=[SHORT], slots=slots, attempts=["r/s/1"])
    return world


def test_what_a_lost_worker_still_runs_takes_its_slot() -> None:
    world = back()
    assert world.step().status == "pending"
    world.take_over()
    assert assigned(world.join("plain", workflows=[SHORT])) == []
    assert assigned(world.finish("r/s/1", outcome=Outcome.CANCELLED)) == [("r/s/2", "a")]
    assert assigned(world.finish("r/s/1", outcome=Outcome.CANCELLED)) == []


def test_with_another_slot_it_goes_on_beside_it() -> None:
    world = back(slots=2)
    assert world.held_by("a") == ["r/s/1", "r/s/2"]
    world.finish("r/s/1", output="of the old attempt")
    assert world.step().status == "assigned"


def test_another_worker_takes_the_step_while_the_old_thread_goes_on() -> None:
    world = back()
    assert assigned(world.join("b", GPU, workflows=[SHORT])) == [("r/s/2", "b")]
    world.finish("r/s/2", "b")
    assert assigned(world.trigger("next", "short")) == [("next/s/1", "b")]


def test_what_a_heartbeat_mentions_takes_a_slot_until_none_does() -> None:
    world = World()
    world.join("a", GPU, workflows=[SHORT])
    text = "it does not count any more"
    assert told(world.beat("a", "old/s/1")) == [("a", CancelAttempt("old/s/1", text))]
    assert of(world.trigger("x", "short"), Assign) == []
    world.wait(11, "a")
    assert assigned(world.beat("a")) == [("x/s/1", "a")]

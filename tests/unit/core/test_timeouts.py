"""The time a step may take: its worker ends it, and the dispatcher where the worker is deaf."""

from typing import Any

import pytest

from ganger_broker.messages import FailureReason, Outcome, RunError
from ganger_broker.to_worker import CancelAttempt
from ganger_dispatcher.core.facts import TimePassed

from .world import World, assigned, one_step, replies, told

FAILED = Outcome.FAILED
GRACE = 5  # seconds a worker has to say it itself
TIMED_OUT = RunError(FailureReason.TIMED_OUT, "it did not end")


def running(seconds: float = 10, slots: int = 1, **fields: object) -> World:
    world = World()
    world.join("a", workflows=[one_step(timeout=seconds, **fields)], slots=slots)
    world.trigger(reply="q")
    world.start("r/s/1")
    return world


# ── a deaf worker ─────────────────────────────────────────────────────────────────────


def test_a_step_whose_worker_does_not_end_it_is_ended_here() -> None:
    world = running(10)
    assert replies(world.wait(10 + GRACE - 0.1, "a")) == []
    effects = world.wait(0.1, "a")
    assert replies(effects) == [("q", "failed", "TIMED_OUT")]
    text = "its worker a did not end it within its timeout"
    assert told(effects) == [("a", CancelAttempt("r/s/1", text))]
    error = world.step().error
    assert error is not None
    assert (error.step, error.attempt, error.message) == ("s", "r/s/1", text)


def test_the_slot_of_a_deaf_worker_is_not_given_away() -> None:
    world = running(10)
    world.wait(20, "a")
    assert world.status() == "failed"
    assert assigned(world.trigger("next")) == []
    assert world.held_by("a") == ["r/s/1"]
    assert assigned(world.finish("r/s/1", outcome=Outcome.CANCELLED)) == [("next/s/1", "a")]


def test_a_deaf_worker_costs_a_retry_and_another_worker_takes_it() -> None:
    world = running(10, retries=1)
    world.join("b", workflows=[one_step(timeout=10, retries=1)])
    assert assigned(world.wait(10 + GRACE, "a", "b")) == [("r/s/2", "b")]
    assert world.step().failures == 1
    world.finish("r/s/1", output="too late")
    assert world.step().status == "assigned"
    world.finish("r/s/2", "b", output="in time")
    assert world.step().output == "in time"


def test_its_word_may_still_be_unread_when_the_time_is_over() -> None:
    world = running(10)
    world.now += (10 + GRACE) * 1000
    assert replies(world.tell(TimePassed(read_to=0))) == []
    assert replies(world.finish("r/s/1")) == [("q", "succeeded", None)]


def test_a_step_that_was_not_picked_up_has_not_begun_to_take_time() -> None:
    world = World()
    world.join("a", workflows=[one_step(timeout=1)])
    world.trigger()
    world.wait(9, "a")
    assert world.step().status == "assigned"


def test_the_next_leader_ends_it_as_well() -> None:
    world = running(10)
    world.wait(9, "a")
    world.take_over()
    assert replies(world.wait(5.9, "a")) == []
    assert replies(world.wait(0.1, "a")) == [("q", "failed", "TIMED_OUT")]


# ── a lost worker ─────────────────────────────────────────────────────────────────────

GPU = {"gpu": "yes"}


def fleet(seconds: float, **fields: Any) -> World:
    """``a`` runs the step, and ``plain`` and ``b`` are free; it needs a GPU."""
    flow = one_step(timeout=seconds, desired_worker_labels=GPU, **fields)
    world = World()
    for worker, labels in (("a", GPU), ("plain", {}), ("b", GPU)):
        world.join(worker, labels, workflows=[flow])
    world.trigger(reply="q")
    world.start("r/s/1")
    return world


@pytest.mark.parametrize(("lasts", "after"), [(3, 0.5), (60, 57), (60, 59.9), (12, 1)])
def test_a_step_whose_worker_is_lost_has_not_timed_out(lasts: float, after: float) -> None:
    world = fleet(lasts)
    world.wait(after, "a", "plain", "b")
    effects = world.wait(12, "plain", "b")
    assert assigned(effects) == [("r/s/2", "b")]
    assert replies(effects) == []
    step = world.step()
    assert (step.failures, step.losses) == (0, 1)


def test_nor_has_it_where_the_leader_is_lost_as_well() -> None:
    world = fleet(3)
    world.wait(2, "a", "plain", "b")
    world.now += 5_000
    world.take_over()
    effects = world.wait(11, "plain", "b")
    assert assigned(effects) == [("r/s/2", "b")]
    assert world.step().failures == 0


def test_a_worker_that_was_silent_and_is_not_lost_is_deaf_after_all() -> None:
    world = fleet(3)
    assert replies(world.wait(9, "plain", "b")) == []
    world.beat("a", "r/s/1")
    assert replies(world.wait(9, "a", "plain", "b")) == [("q", "failed", "TIMED_OUT")]


# ── more time ─────────────────────────────────────────────────────────────────────────


def test_a_step_can_give_itself_more_time() -> None:
    world = running(10)
    world.wait(9, "a")
    world.refresh("r/s/1", 30)
    world.take_over()
    assert replies(world.wait(30 + GRACE - 0.1, "a")) == []
    assert replies(world.wait(0.1, "a")) == [("q", "failed", "TIMED_OUT")]


def test_a_step_can_give_itself_less_time() -> None:
    world = running(100)
    world.refresh("r/s/1", 1)
    assert replies(world.wait(1 + GRACE, "a")) == [("q", "failed", "TIMED_OUT")]


def test_only_the_attempt_that_runs_has_time_to_give() -> None:
    world = running(10, retries=1)
    world.finish("r/s/1", outcome=FAILED)
    world.start("r/s/2")
    world.refresh("r/s/1", 1_000)
    assert replies(world.wait(10 + GRACE, "a")) == [("q", "failed", "TIMED_OUT")]


# ── steps that do not stop ────────────────────────────────────────────────────────────


def test_a_step_that_lingers_has_failed_and_keeps_its_slot() -> None:
    world = running()
    world.trigger("next")
    effects = world.finish("r/s/1", outcome=FAILED, error=TIMED_OUT, lingers=True)
    assert replies(effects) == [("q", "failed", "TIMED_OUT")]
    assert assigned(effects) == []
    assert world.held_by("a") == ["r/s/1"]
    world.wait(60, "a")  # its worker mentions it
    assert world.held_by("a") == ["r/s/1"]
    assert assigned(world.stopped("r/s/1")) == [("next/s/1", "a")]


def test_a_retry_of_a_step_that_lingers_goes_elsewhere() -> None:
    world = running(retries=1)
    flow = one_step(timeout=10, retries=1)
    world.join("b", workflows=[flow])
    effects = world.finish("r/s/1", outcome=FAILED, error=TIMED_OUT, lingers=True)
    assert assigned(effects) == [("r/s/2", "b")]
    assert replies(world.finish("r/s/2", "b")) == [("q", "succeeded", None)]
    assert assigned(world.stopped("r/s/1")) == []
    assert world.held_by("a") == []


def test_lingering_told_twice_counts_once() -> None:
    world = running(retries=5)
    for _ in range(2):
        world.finish("r/s/1", outcome=FAILED, error=TIMED_OUT, lingers=True)
    assert (world.step().failures, world.step().attempt) == (1, 2)
    for _ in range(2):
        world.stopped("r/s/1")
    assert world.held_by("a") == ["r/s/2"]


def test_a_worker_that_forgot_what_lingers_has_its_slot_again() -> None:
    world = running()
    world.finish("r/s/1", outcome=FAILED, error=TIMED_OUT, lingers=True)
    world.wait(11, "a")
    world.beat("a")
    assert world.held_by("a") == []


def test_an_attempt_that_runs_cannot_be_released() -> None:
    world = running()
    world.stopped("r/s/1")
    assert world.held_by("a") == ["r/s/1"]


def test_what_lingers_on_a_lost_worker_is_not_given_anew() -> None:
    world = running()
    world.finish("r/s/1", outcome=FAILED, error=TIMED_OUT, lingers=True)
    world.join("b", workflows=[one_step(timeout=10)])
    assert assigned(world.wait(11, "b")) == []
    assert world.status() == "failed"

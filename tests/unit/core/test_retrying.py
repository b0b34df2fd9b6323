"""Failed steps are tried again: how often, when, and with what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ganger_broker.definitions import StepDefinition
from ganger_broker.messages import FailureReason, Outcome, RunError
from ganger_dispatcher.core.attempts import backoff
from ganger_dispatcher.core.effects import Assign, Count

from .world import SECOND, World, assigned, of, one_step, replies

FAILED = Outcome.FAILED


def test_a_failed_step_is_tried_again_as_often_as_it_may() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=2)])
    world.trigger(reply="q")
    for n in (1, 2):
        effects = world.finish(f"r/s/{n}", outcome=FAILED)
        assert assigned(effects) == [(f"r/s/{n + 1}", "a")]
        assert of(effects, Assign)[0].assignment.retry_count == n
        assert Count("steps_retried") in effects
    error = RunError(FailureReason.STEP_FAILED, "no", type="ValueError", traceback="…")
    assert replies(world.finish("r/s/3", outcome=FAILED, error=error)) == [
        ("q", "failed", "STEP_FAILED")
    ]
    kept = world.stored.headers["r"].error
    assert kept is not None
    assert (kept.message, kept.type, kept.step, kept.attempt) == ("no", "ValueError", "s", "r/s/3")


def test_a_failure_that_is_not_retryable_is_the_end() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=2)])
    world.trigger()
    world.finish("r/s/1", outcome=FAILED, retryable=False)
    assert world.status() == "failed"


def test_a_failure_without_an_error_has_one_all_the_same() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    assert replies(world.finish("r/s/1", outcome=FAILED)) == [("q", "failed", "STEP_FAILED")]


def test_a_retry_waits_its_turn() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=1)])
    world.trigger("r")
    world.trigger("next")
    assert assigned(world.finish("r/s/1", outcome=FAILED)) == [("next/s/1", "a")]
    assert (world.step().status, world.step().failures) == ("pending", 1)
    assert assigned(world.finish("next/s/1")) == [("r/s/2", "a")]


# ── backoff ───────────────────────────────────────────────────────────────────────────


def exact(**fields: object) -> World:
    """A worker with a step whose backoff is 2, 4, 8, … seconds."""
    world = World()
    world.join("a", workflows=[one_step(retries=5, backoff_factor=2, jitter=0, **fields)])
    return world


def test_a_step_rests_before_it_is_tried_again_longer_each_time() -> None:
    world = exact()
    world.trigger()
    for number, seconds in ((1, 2), (2, 4), (3, 8)):
        error = RunError(FailureReason.STEP_FAILED, f"no {number}")
        assert assigned(world.finish(f"r/s/{number}", outcome=FAILED, error=error)) == []
        step = world.step()
        assert (step.status, step.retry_at) == ("backoff", world.now + seconds * SECOND)
        assert step.error is not None
        assert (step.error.message, step.error.attempt) == (f"no {number}", f"r/s/{number}")
        assert world.held_by("a") == []
        assert assigned(world.wait(seconds - 0.001, "a")) == []
        assert assigned(world.wait(0.001, "a")) == [(f"r/s/{number + 1}", "a")]
        assert world.step().retry_at is None


def test_the_slot_is_for_others_while_a_step_rests() -> None:
    world = exact()
    world.trigger("r")
    world.trigger("next")
    assert assigned(world.finish("r/s/1", outcome=FAILED)) == [("next/s/1", "a")]
    assert assigned(world.wait(2, "a")) == []
    assert world.step().status == "pending"
    assert assigned(world.finish("next/s/1")) == [("r/s/2", "a")]


def test_a_step_can_say_itself_when_to_try_again() -> None:
    world = exact()
    world.trigger()
    world.finish("r/s/1", outcome=FAILED, retry_after=30)
    assert assigned(world.wait(29, "a")) == []
    assert assigned(world.wait(1, "a")) == [("r/s/2", "a")]
    assert assigned(world.finish("r/s/2", outcome=FAILED, retry_after=0)) == [("r/s/3", "a")]


def test_saying_when_does_not_give_more_retries() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=1)])
    world.trigger()
    world.finish("r/s/1", outcome=FAILED, retry_after=1)
    world.wait(1, "a")
    world.finish("r/s/2", outcome=FAILED, retry_after=1)
    assert world.status() == "failed"


def test_a_retry_still_desires_what_its_trigger_desired() -> None:
    world = World()
    world.join("a", {"model": "x"}, workflows=[one_step(retries=1, backoff_factor=2, jitter=0)])
    world.join("b", {"model": "y"}, workflows=[one_step(retries=1, backoff_factor=2, jitter=0)])
    world.trigger(desired_worker_labels={"model": "y"}, priority=3)
    world.finish("r/s/1", "b", outcome=FAILED)
    world.take_over()
    effects = world.wait(2, "a", "b")
    assert assigned(effects) == [("r/s/2", "b")]
    assert of(effects, Assign)[0].assignment.priority == 3


def test_a_schedule_time_out_begins_when_the_step_has_rested() -> None:
    world = exact(schedule_timeout=10)
    world.trigger()
    world.finish("r/s/1", outcome=FAILED, retry_after=60)
    world.leave("a")
    world.wait(60)
    assert world.step().status == "pending"
    world.wait(9.9)
    assert world.step().status == "pending"
    world.wait(0.1)
    assert world.step().status == "cancelled"


def test_a_rest_survives_the_dispatcher() -> None:
    world = exact()
    world.trigger()
    world.finish("r/s/1", outcome=FAILED)
    world.wait(1, "a")
    world.take_over()
    assert assigned(world.wait(0.9, "a")) == []
    assert assigned(world.wait(0.1, "a")) == [("r/s/2", "a")]


def test_a_rest_that_ended_while_nobody_led_ends_at_the_take_over() -> None:
    world = exact()
    world.trigger()
    world.finish("r/s/1", outcome=FAILED)
    world.now += 60 * SECOND
    world.take_over()
    assert assigned(world.wait(0.001, "a")) == [("r/s/2", "a")]


def test_a_resting_step_is_cancelled_at_once() -> None:
    world = exact()
    world.trigger(reply="q")
    world.finish("r/s/1", outcome=FAILED)
    assert replies(world.cancel()) == [("q", "cancelled", "CANCELLED")]
    assert assigned(world.wait(10, "a")) == []


def test_losing_the_worker_does_not_end_a_rest() -> None:
    world = exact()
    world.trigger()
    world.finish("r/s/1", outcome=FAILED)
    world.leave("a")
    world.join("b", workflows=[one_step(retries=5, backoff_factor=2, jitter=0)])
    assert assigned(world.wait(1.9, "b")) == []
    assert assigned(world.wait(0.1, "b")) == [("r/s/2", "b")]
    assert world.step().losses == 0


@given(
    factor=st.floats(1, 1e9),
    most=st.floats(0.001, 1e9),
    jitter=st.floats(0, 1),
    failures=st.integers(1, 1_000_000),
)
def test_a_rest_is_never_longer_than_the_cap_and_shortened_by_no_more_than_the_jitter(
    factor: float, most: float, jitter: float, failures: int
) -> None:
    exact = StepDefinition("s", backoff_factor=factor, backoff_max_seconds=most, jitter=0)
    jittered = replace(exact, jitter=jitter)
    full, seconds = backoff(exact, failures, "r/s/1"), backoff(jittered, failures, "r/s/1")
    assert full <= most * (1 + 1e-9)
    assert full * (1 - jitter) * (1 - 1e-9) <= seconds <= full
    assert seconds == backoff(jittered, failures, "r/s/1")


def test_steps_that_failed_together_do_not_come_again_together() -> None:
    definition = StepDefinition("s", backoff_factor=2, jitter=0.5)
    rests = {backoff(definition, 3, f"r{number}/s/3") for number in range(100)}
    assert len(rests) == 100
    assert min(rests) < 5
    assert max(rests) > 7


def test_without_a_factor_there_is_no_rest() -> None:
    assert backoff(StepDefinition("s"), 5, "r/s/5") == pytest.approx(0)

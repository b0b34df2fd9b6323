"""Workers whose process was stopped: what becomes of each attempt that they held."""

import pytest

from ganger_broker.messages import FailureReason, Outcome, WorkerKilled
from ganger_dispatcher.core.effects import Count, DeleteQueue, DropWorker, Note
from ganger_dispatcher.core.state import Policy

from .world import World, assigned, of, one_step, replies, told


def running(*runs: str, policy: Policy | None = None, slots: int = 4, **step: object) -> World:
    """Worker ``a``, which runs the step of each of these."""
    world = World(policy)
    world.join("a", workflows=[one_step(**step)], slots=slots)
    for run in runs:
        world.trigger(run, reply=run)
        world.start(f"{run}/s/1")
    return world


def test_the_one_that_ran_has_failed_with_the_reason() -> None:
    world = running("r")
    effects = world.kill("a", "over its limit of 64 MB")
    assert effects[:2] == [DropWorker("a"), DeleteQueue("a")]
    assert Count("workers_killed") in effects
    assert [note.fields["attempts"] for note in of(effects, Note) if note.kind == "worker_killed"]
    assert replies(effects) == [("r", "failed", "OUT_OF_MEMORY")]
    error = world.step().error
    assert error is not None
    assert (error.message, error.step, error.attempt) == ("over its limit of 64 MB", "s", "r/s/1")
    assert world.stored.workers == {}


def test_it_counts_against_its_retries_and_rests_like_any_failure() -> None:
    world = running("r", retries=1, backoff_factor=3)
    world.kill()
    step = world.step()
    assert (step.status, step.failures, step.losses, step.attempt) == ("backoff", 1, 0, 2)
    world.join("a", incarnation="2")
    assert assigned(world.wait(4, "a")) == [("r/s/2", "a")]
    world.start("r/s/2")
    assert replies(world.kill()) == [("r", "failed", "OUT_OF_MEMORY")]


def test_of_several_nobody_can_tell_and_it_is_a_loss_of_each() -> None:
    world = running("x", "y", policy=Policy(most_losses=1))
    world.join("b", slots=2)
    assert assigned(world.kill("a")) == [("x/s/2", "b"), ("y/s/2", "b")]
    assert (world.step("x").losses, world.step("x").failures) == (1, 0)
    world.start("x/s/2", "b")
    world.start("y/s/2", "b")
    effects = world.kill("b", "over 64 MB")
    assert replies(effects) == [("x", "failed", "OUT_OF_MEMORY"), ("y", "failed", "OUT_OF_MEMORY")]
    error = world.step("x").error
    assert error is not None
    assert error.message == "its worker was lost 2 times, at last: over 64 MB"


def test_what_had_not_begun_is_returned() -> None:
    world = running("x")
    world.trigger("y")
    world.kill("a")
    assert world.status("x") == "failed"
    step = world.step("y")
    assert (step.status, step.attempt, step.losses, step.failures) == ("pending", 2, 0, 0)


def test_a_step_that_let_its_worker_say_nothing_is_found_nonetheless() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    assert replies(world.kill()) == [("q", "failed", "OUT_OF_MEMORY")]
    world = World()
    world.join("a", slots=2)
    world.trigger("x")
    world.trigger("y")
    world.kill()
    assert [world.step(run).losses for run in "xy"] == [1, 1]


def test_who_waits_for_children_is_not_to_blame_unless_nobody_else_is() -> None:
    world = running("x", "y")
    world.waits("x/s/1", 1)
    world.kill()
    assert (world.status("y"), world.step("x").losses) == ("failed", 1)
    world = running("x")
    world.waits("x/s/1", 1)
    world.kill()
    assert world.status("x") == "failed"


def test_one_that_did_not_stop_may_be_to_blame() -> None:
    world = running("x", "y", retries=1)
    world.finish("x/s/1", outcome=Outcome.FAILED, lingers=True)
    world.join("b")
    world.kill("a")
    assert (world.step("y").losses, world.step("y").failures) == (1, 0)
    assert world.step("x").failures == 1


def test_the_slot_of_a_cancelled_run_is_no_more_and_nobody_is_told() -> None:
    world = running("r")
    world.cancel()
    effects = world.kill()
    assert (replies(effects), told(effects)) == ([], [])
    assert world.stored.attempts == {}


@pytest.mark.parametrize("incarnation", ["0", "2"])
def test_another_incarnation_of_it_is_not_meant(incarnation: str) -> None:
    world = running("r")
    assert world.kill(incarnation=incarnation) == []
    assert world.held_by() == ["r/s/1"]


def test_one_that_is_not_known_is_not_told_to_register() -> None:
    world = World()
    killed = WorkerKilled("a", "1", FailureReason.OUT_OF_MEMORY, "over 64 MB")
    assert world.tell(killed) == []
    world.join("a")
    world.kill()
    assert world.tell(killed) == []

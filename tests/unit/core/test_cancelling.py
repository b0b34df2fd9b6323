"""Cancelling runs in each of their states."""

from ganger_broker.messages import Outcome
from ganger_broker.to_worker import CancelAttempt
from ganger_dispatcher.core.effects import DropPending, Unhold

from .world import World, assigned, of, replies, told


def test_a_pending_step() -> None:
    world = World()
    world.join("a")
    world.trigger("r1")
    world.trigger(reply="q")
    effects = world.cancel(reason="changed my mind")
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]
    assert of(effects, DropPending) == [DropPending("r/s")]
    assert told(effects) == []
    error = world.stored.headers["r"].error
    assert error is not None
    assert (error.message, error.step) == ("changed my mind", "s")
    assert assigned(world.finish("r1/s/1")) == []


def test_an_assigned_step() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    effects = world.cancel(reason="changed my mind")
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]
    assert told(effects) == [("a", CancelAttempt("r/s/1", "changed my mind"))]


def test_a_running_step_keeps_its_slot_until_the_worker_says_that_it_has_stopped() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.start("r/s/1")
    world.trigger("next")
    effects = world.cancel()
    assert told(effects) == [("a", CancelAttempt("r/s/1", "not needed"))]
    assert assigned(effects) == []
    assert world.held_by("a") == ["r/s/1"]
    assert assigned(world.finish("r/s/1", outcome=Outcome.CANCELLED)) == [("next/s/1", "a")]
    assert world.status() == "cancelled"


def test_a_step_that_ended_before_it_heard_of_the_cancellation_stays_cancelled() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    world.start("r/s/1")
    world.cancel()
    effects = world.finish("r/s/1", output=1)
    assert replies(effects) == []
    assert (world.status(), world.step().output) == ("cancelled", None)
    assert world.held_by("a") == []


def test_the_word_is_said_again_while_the_worker_goes_on() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.start("r/s/1")
    world.cancel()
    assert told(world.beat("a", "r/s/1")) == [
        ("a", CancelAttempt("r/s/1", "it does not count any more"))
    ]


def test_a_held_trigger() -> None:
    world = World()
    world.trigger(reply="q")
    effects = world.cancel()
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]
    assert of(effects, Unhold) == [Unhold("r")]
    assert assigned(world.join("a")) == []


def test_twice_or_nothing_that_is_known() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    world.cancel()
    assert world.cancel() == []
    assert world.cancel("never") == []


def test_a_worker_that_cancels_by_itself_cancels_the_run() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    world.start("r/s/1")
    effects = world.finish("r/s/1", outcome=Outcome.CANCELLED)
    assert [status for _, status, _ in replies(effects)] == ["cancelled"]
    assert told(effects) == []

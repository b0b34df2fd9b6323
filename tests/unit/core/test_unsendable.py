"""What the core makes of messages that could not be sent."""

from ganger_dispatcher.core.effects import Count, ReleaseAttempt
from ganger_dispatcher.core.facts import AssignmentImpossible, MessageDropped

from .world import World, assigned, of, replies


def test_a_step_whose_assignment_is_too_large_to_send_has_failed() -> None:
    world = World()
    world.join("a")
    world.trigger("large", reply="q")
    world.trigger("next")
    effects = world.tell(AssignmentImpossible("a", "large/s/1"))
    assert replies(effects) == [("q", "failed", "STEP_FAILED")]
    error = world.step("large").error
    assert error is not None
    assert "too large" in error.message
    assert assigned(effects) == [("next/s/1", "a")]


def test_of_an_attempt_that_is_over_only_its_slot_is_left() -> None:
    world = World()
    world.join("a")
    world.trigger("r")
    world.cancel("r")
    assert of(world.tell(AssignmentImpossible("a", "r/s/1")), ReleaseAttempt)
    assert world.held_by("a") == []
    assert world.tell(AssignmentImpossible("gone", "r/s/1")) == []


def test_what_was_dropped_is_counted_by_its_kind() -> None:
    effects = World().tell(MessageDropped("reply"))
    assert of(effects, Count) == [Count("messages_dropped"), Count("messages_dropped:reply")]

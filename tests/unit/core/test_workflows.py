"""Runs of several steps."""

from collections.abc import Callable

import pytest

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.fields import MAX_STEPS
from ganger_broker.messages import FailureReason, Outcome, RunError
from ganger_dispatcher.core.effects import Assign
from ganger_dispatcher.core.state import Policy

from .world import World, assigned, of, replies, told

FAILED = Outcome.FAILED


# ── several steps ─────────────────────────────────────────────────────────────────────

TREE = WorkflowDefinition(
    "w",
    [
        StepDefinition("b", parents=["a"]),
        StepDefinition("a"),
        StepDefinition("c", parents=["a"]),
    ],
)
DIAMOND = WorkflowDefinition(
    "w",
    [
        StepDefinition("a"),
        StepDefinition("b", parents=["a"]),
        StepDefinition("c", parents=["a"]),
        StepDefinition("d", parents=["b", "c"]),
        StepDefinition("e", parents=["d"]),
    ],
)


def tree(definition: WorkflowDefinition = TREE, slots: int = 4) -> World:
    world = World()
    world.join("w", workflows=[definition], slots=slots)
    assert assigned(world.trigger(reply="q")) == [("r/a/1", "w")]
    return world


def test_children_begin_when_their_parent_is_done_and_get_its_output() -> None:
    world = tree()
    assert world.step(step="b").status == world.step(step="c").status == "waiting"
    effects = world.finish("r/a/1", "w", output={"n": 1})
    assert assigned(effects) == [("r/b/1", "w"), ("r/c/1", "w")]
    assert [e.assignment.parents for e in of(effects, Assign)] == [{"a": {"n": 1}}] * 2
    assert replies(world.finish("r/b/1", "w", output=2)) == []
    assert replies(world.finish("r/c/1", "w", output=3)) == [("q", "succeeded", None)]
    assert world.stored.headers["r"].output == {"a": {"n": 1}, "b": 2, "c": 3}


def test_a_step_waits_for_all_its_parents() -> None:
    world = tree(DIAMOND)
    world.finish("r/a/1", "w")
    assert assigned(world.finish("r/b/1", "w")) == []
    assert assigned(world.finish("r/c/1", "w")) == [("r/d/1", "w")]


def test_a_child_may_wait_for_a_slot() -> None:
    world = tree(slots=1)
    assert assigned(world.finish("r/a/1", "w")) == [("r/b/1", "w")]
    assert world.step(step="c").status == "pending"
    assert assigned(world.finish("r/b/1", "w")) == [("r/c/1", "w")]


def test_where_a_parent_fails_its_children_are_cancelled_and_the_run_has_failed() -> None:
    world = tree()
    assert replies(world.finish("r/a/1", "w", FAILED)) == [("q", "failed", "STEP_FAILED")]
    assert world.step(step="b").status == world.step(step="c").status == "cancelled"
    error = world.step(step="b").error
    assert error is not None
    assert error.message == "a parent did not succeed"


def test_where_one_of_two_parents_fails_the_other_one_still_finishes() -> None:
    world = tree(DIAMOND)
    world.finish("r/a/1", "w", output=1)
    effects = world.finish("r/b/1", "w", FAILED)
    assert (told(effects), replies(effects)) == ([], [])
    assert world.step(step="d").status == world.step(step="e").status == "cancelled"
    assert replies(world.finish("r/c/1", "w", output=3)) == [("q", "failed", "STEP_FAILED")]
    assert world.stored.headers["r"].output == {"a": 1, "c": 3}


@pytest.mark.parametrize("definition", [TREE, DIAMOND])
def test_cancelling_ends_all_that_has_not_ended(definition: WorkflowDefinition) -> None:
    world = tree(definition)
    world.finish("r/a/1", "w", output=1)
    effects = world.cancel(reason="enough")
    assert [message.attempt for _, message in told(effects)] == ["r/b/1", "r/c/1"]
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]
    error = world.stored.headers["r"].error
    assert error is not None
    assert error.message == "enough"
    assert world.stored.headers["r"].output == {"a": 1}
    assert world.held_by("w") == ["r/b/1", "r/c/1"]


def test_the_error_of_a_run_is_that_of_the_step_to_blame() -> None:
    world = World()
    world.join("a", workflows=[TREE])
    world.trigger()
    error = RunError(FailureReason.CANCELLED, "stopped")
    world.finish("r/a/1", outcome=Outcome.CANCELLED, error=error)
    kept = world.stored.headers["r"].error
    assert kept is not None
    assert (kept.step, kept.message) == ("a", "stopped")


# ── wide and long ones ────────────────────────────────────────────────────────────────


def wide(steps: int) -> WorkflowDefinition:
    """``s0``, and all others its children."""
    others = [StepDefinition(f"s{n}", parents=["s0"]) for n in range(1, steps)]
    return WorkflowDefinition("w", [StepDefinition("s0"), *others])


def long(steps: int) -> WorkflowDefinition:
    """Each step the child of the one before, the last one written first."""
    others = [StepDefinition(f"s{n}", parents=[f"s{n - 1}"]) for n in range(1, steps)]
    return WorkflowDefinition("w", [*reversed(others), StepDefinition("s0")])


@pytest.mark.parametrize("shape", [wide, long])
@pytest.mark.parametrize("end", ["failed", "cancelled", "lost"])
def test_a_workflow_of_as_many_steps_as_are_taken_ends_whole(
    shape: Callable[[int], WorkflowDefinition], end: str
) -> None:
    world = World(Policy(most_losses=0))
    world.join("w", workflows=[shape(MAX_STEPS)])
    world.trigger(reply="q")
    world.start("r/s0/1", "w")
    match end:
        case "failed":
            effects = world.finish("r/s0/1", "w", FAILED)
        case "cancelled":
            effects = world.cancel()
        case _:
            effects = world.wait(11)
    [(_, status, _)] = replies(effects)
    assert status == ("cancelled" if end == "cancelled" else "failed")
    assert {step.status for step in world.stored.steps["r"].values()} <= {"failed", "cancelled"}
    error = world.stored.headers["r"].error
    assert error is not None
    assert error.step == "s0"

"""Whose turn it is for a slot: among those that waited, and those that one fact makes pending."""

import pytest

from ganger_broker.definitions import Concurrency, StepDefinition, WorkflowDefinition
from ganger_broker.messages import Outcome

from .world import World, assigned, one_step

CHAIN = WorkflowDefinition("w", [StepDefinition("s"), StepDefinition("t", parents=["s"])])


def full(priority: int, flow: WorkflowDefinition) -> World:
    """One slot, which a run of this priority has; of ``old`` a step waits for it."""
    world = World()
    world.join("a", workflows=[flow, one_step("old")])
    world.trigger("r", priority=priority)
    world.trigger("x", "old", priority=2)
    world.now += 1
    return world


@pytest.mark.parametrize(("priority", "goes"), [(3, "r/t/1"), (2, "x/s/1"), (1, "x/s/1")])
def test_the_next_step_of_a_run_has_its_turn_for_the_slot_of_the_last(
    priority: int, goes: str
) -> None:
    assert assigned(full(priority, CHAIN).finish("r/s/1")) == [(goes, "a")]


@pytest.mark.parametrize(("priority", "goes"), [(3, "r/s/2"), (2, "x/s/1"), (1, "x/s/1")])
def test_what_is_tried_again_has_its_turn_for_the_slot_of_what_failed(
    priority: int, goes: str
) -> None:
    world = full(priority, one_step(retries=1))
    assert assigned(world.finish("r/s/1", outcome=Outcome.FAILED)) == [(goes, "a")]


@pytest.mark.parametrize(("priority", "goes"), [(3, "next/s/1"), (2, "x/s/1"), (1, "x/s/1")])
def test_a_run_that_is_let_in_has_its_turn_for_the_slot_of_the_one_before(
    priority: int, goes: str
) -> None:
    one = WorkflowDefinition("w", [StepDefinition("s")], concurrency=[Concurrency()])
    world = full(3, one)
    world.trigger("next", priority=priority)
    assert assigned(world.finish("r/s/1")) == [(goes, "a")]


@pytest.mark.parametrize(("priority", "goes"), [(3, "r/s/2"), (2, "x/s/1"), (1, "x/s/1")])
def test_what_a_worker_has_lost_has_its_turn_for_the_slot_that_it_had(
    priority: int, goes: str
) -> None:
    """The worker has it no more, or it is another process."""
    world = full(priority, one_step())
    flows = [one_step(), one_step("old")]
    assert assigned(world.join("a", workflows=flows, incarnation="2")) == [(goes, "a")]
    world = full(priority, one_step())
    for _ in range(4):  # it says that it lives, and speaks of nothing
        assert assigned(world.beat("a")) == []
        world.now += 3_000
    assert assigned(world.beat("a")) == [(goes, "a")]


def test_those_that_are_given_anew_together_have_their_turns() -> None:
    world = World()
    flow = one_step(sets_labels={"model": "x"})
    world.join("a", workflows=[flow, one_step("old")], slots=2)
    for run, priority in (("low", 1), ("high", 3)):
        world.trigger(run, priority=priority)
    world.trigger("x", "old", priority=2)
    given = world.join("a", workflows=[flow, one_step("old")], incarnation="2")
    assert assigned(given) == [("high/s/2", "a")]
    assert assigned(world.finish("high/s/2")) == [("x/s/1", "a")]
    assert assigned(world.finish("x/s/1")) == [("low/s/2", "a")]


@pytest.mark.parametrize("how", ["leaves", "is silent"])
def test_what_a_worker_had_that_is_gone_is_given_in_turn(how: str) -> None:
    world = World()
    world.join("a", slots=2)
    world.trigger("low")
    world.trigger("high", priority=3)
    world.join("b")
    effects = world.leave("a") if how == "leaves" else world.wait(10, "b")
    assert assigned(effects) == [("high/s/2", "b")]


def test_triggers_that_were_held_have_their_turns() -> None:
    world = World()
    world.trigger("low")
    world.trigger("high", priority=3)
    assert assigned(world.join("a")) == [("high/s/1", "a")]


def test_what_comes_with_a_step_that_brings_labels_has_its_turn() -> None:
    flow, old = one_step(sets_labels={"model": "x"}), one_step("old")
    world = World()
    world.join("a", workflows=[flow, old], slots=2)
    for run in ("r1", "r2"):
        world.trigger(run, priority=3)
    world.trigger("x", "old", priority=1)
    given = world.join("a", workflows=[flow, old], slots=2, incarnation="2")
    assert assigned(given) == [("r1/s/2", "a"), ("r2/s/2", "a")]


def test_each_of_many_that_follow_has_its_turn() -> None:
    steps = [StepDefinition("s"), *(StepDefinition(f"t{n}", parents=["s"]) for n in range(3))]
    world = World()
    world.join("a", workflows=[WorkflowDefinition("w", steps), one_step("old")], slots=2)
    world.trigger("r", priority=3)
    world.trigger("y", "old", priority=3)
    for n in range(2):
        world.trigger(f"x{n}", "old", priority=2 + n)
    world.now += 1
    assert assigned(world.finish("r/s/1")) == [("x1/s/1", "a")]
    assert assigned(world.finish("x1/s/1")) == [("r/t0/1", "a")]
    assert assigned(world.finish("y/s/1")) == [("r/t1/1", "a")]
    assert assigned(world.finish("r/t0/1")) == [("r/t2/1", "a")]
    assert assigned(world.finish("r/t1/1")) == [("x0/s/1", "a")]

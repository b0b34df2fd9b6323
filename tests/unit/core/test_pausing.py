"""Workers that whoever keeps them pauses: they get nothing new, and end what began with them."""

import pytest

from ganger_broker.definitions import StepDefinition, StickyStrategy, WorkflowDefinition
from ganger_broker.messages import FailureReason as Reason
from ganger_broker.messages import (
    Heartbeat,
    StepWaits,
    WorkerDraining,
    WorkerEvent,
    WorkerKilled,
    WorkerPaused,
    WorkerResumed,
)
from ganger_broker.to_worker import RegisterAgain
from ganger_dispatcher.core import Core
from ganger_dispatcher.core.effects import Note
from ganger_dispatcher.core.facts import AssignmentReturned
from ganger_dispatcher.core.records import WorkerState
from ganger_dispatcher.core.state import Policy

from .world import World, assigned, of, one_step, told

PAUSED, RESUMED = WorkerPaused("a", "1"), WorkerResumed("a", "1")
CHAIN = WorkflowDefinition(
    "chain",
    [StepDefinition("first"), StepDefinition("second", parents=["first"])],
    sticky=StickyStrategy.HARD,
)
PLAIN = one_step()


def world_with(*workflows: WorkflowDefinition, slots: int = 2) -> World:
    world = World()
    world.join("a", workflows=[*workflows], slots=slots)
    return world


def kinds(world: World, event: WorkerEvent) -> list[str]:
    return [note.kind for note in of(world.tell(event), Note)]


def test_one_that_is_paused_gets_nothing_until_it_is_resumed() -> None:
    world = world_with(PLAIN)
    assert assigned(world.trigger("before")) == [("before/s/1", "a")]
    assert kinds(world, PAUSED) == ["worker_paused"]
    assert kinds(world, PAUSED) == []
    assert assigned(world.trigger("after")) == []
    assert assigned(world.finish("before/s/1")) == []
    assert assigned(world.tell(RESUMED)) == [("after/s/1", "a")]
    assert kinds(world, RESUMED) == []


def test_others_get_what_it_does_not_take() -> None:
    world = world_with(PLAIN)
    world.tell(PAUSED)
    world.join("b")
    assert assigned(world.trigger()) == [("r/s/1", "b")]


def test_a_run_that_is_pinned_to_it_goes_on_there() -> None:
    world = world_with(CHAIN, PLAIN)
    world.trigger(workflow="chain")
    world.tell(PAUSED)
    world.trigger("other")
    assert assigned(world.finish("r/first/1")) == [("r/second/1", "a")]


def test_what_is_pinned_to_it_waits_for_its_slot() -> None:
    world = world_with(CHAIN, PLAIN, slots=1)
    world.trigger(workflow="chain")
    world.tell(StepWaits("a", "1", "r/first/1", 1))
    assert assigned(world.trigger("r2")) == [("r2/s/1", "a")]
    world.tell(PAUSED)
    assert assigned(world.trigger("child", "chain", parent="r/first", sticky_to="a")) == []
    world.trigger("r3")
    assert assigned(world.finish("r2/s/1")) == [("child/first/1", "a")]


@pytest.mark.parametrize("restored", [False, True])
def test_it_stays_paused_when_it_registers_again_and_when_another_leads(restored: bool) -> None:
    world = world_with(CHAIN, PLAIN)
    world.trigger(workflow="chain")
    world.tell(PAUSED)
    if restored:
        world.core = Core(Policy())
        world.core.restore(world.stored.snapshot(), world.now)
    else:
        world.join("a", workflows=[CHAIN, PLAIN], slots=2, again=True, attempts=["r/first/1"])
    assert assigned(world.trigger("other")) == []
    assert assigned(world.finish("r/first/1")) == [("r/second/1", "a")]
    assert assigned(world.tell(RESUMED)) == [("other/s/1", "a")]


def test_a_process_that_comes_after_it_is_not_paused() -> None:
    world = world_with(PLAIN)
    world.tell(PAUSED)
    world.join("a", incarnation="2")
    world.tell(PAUSED)  # the one before is meant
    assert assigned(world.trigger()) == [("r/s/1", "a")]


@pytest.mark.parametrize("event", [PAUSED, RESUMED])
def test_one_that_drains_or_has_no_queue_is_let_be(event: WorkerEvent) -> None:
    world = world_with(PLAIN)
    world.tell(WorkerDraining("a", "1"))
    assert kinds(world, event) == []
    assert world.core.state.workers["a"].state is WorkerState.DRAINING

    world = world_with(PLAIN)
    world.trigger()
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    assert kinds(world, event) == []
    assert world.core.state.workers["a"].state is WorkerState.UNREACHABLE


def test_one_that_is_paused_may_lose_its_queue() -> None:
    """What is pinned to it would go there and come back for ever."""
    world = world_with(CHAIN)
    world.trigger(workflow="chain")
    world.tell(PAUSED)
    assert assigned(world.tell(AssignmentReturned("a", "r/first/1", no_queue=True))) == []
    assert world.core.state.workers["a"].state is WorkerState.UNREACHABLE
    assert assigned(world.join("a", workflows=[CHAIN], slots=2, again=True)) == [("r/first/2", "a")]


def test_what_others_say_of_a_worker_is_no_sign_of_life() -> None:
    world = world_with(PLAIN)
    heard_at = world.now
    world.now += 5
    for event in (PAUSED, RESUMED, WorkerKilled("a", "1", Reason.OUT_OF_MEMORY, "too large")):
        assert world.core.state.workers["a"].heartbeat_at == heard_at
        world.tell(event)
    for event in (PAUSED, RESUMED):
        assert told(world.tell(event)) == []  # nobody knows it any more


def test_one_that_drains_ends_its_steps_though_another_has_its_version_otherwise() -> None:
    """It says so again when it comes back to its broker, and takes no more of them anyway."""
    world = world_with(PLAIN)
    world.trigger()
    world.tell(WorkerDraining("a", "1"))
    world.join("b", workflows=[one_step(timeout=5)])
    assert told(world.join("a", again=True, draining=True, attempts=["r/s/1"])) == []
    assert told(world.tell(Heartbeat("a", "1", ["r/s/1"], draining=True))) == []
    assert world.held_by("a") == ["r/s/1"]
    assert len(told(world.join("a", again=True, attempts=["r/s/1"]))) == 1  # takes some again


def test_one_that_is_paused_makes_way_for_another_version() -> None:
    world = World()
    world.join("b", workflows=[one_step(version="1")])
    world.join("a", workflows=[one_step(version="2")])
    world.tell(PAUSED)
    world.trigger()
    assert (world.core.state.runs["r"].header.version, world.held_by("b")) == ("1", ["r/s/1"])
    world.tell(RESUMED)
    world.trigger("r2")
    assert (world.core.state.runs["r2"].header.version, world.held_by("a")) == ("2", ["r2/s/1"])


def test_one_whose_definition_was_lost_is_resumed_when_it_has_registered_again() -> None:
    """It was paused when it came with it, so no new run began with it, and another leads since."""
    world = world_with(PLAIN)
    world.tell(PAUSED)
    other = one_step(version="2", timeout=5)
    world.join("a", workflows=[other], slots=2)
    world.take_over()
    assert [type(word) for _, word in told(world.tell(RESUMED))] == [RegisterAgain]
    assert assigned(world.trigger()) == []
    world.join("a", workflows=[other], slots=2)
    assert assigned(world.tell(RESUMED)) == [("r/s/1", "a")]


def test_one_that_another_has_come_for_stays_paused() -> None:
    """With other code under the same version: each ends what began with it."""
    world = world_with(PLAIN)
    world.trigger()
    world.tell(PAUSED)
    assert told(world.join("b", workflows=[one_step(timeout=5)])) == []
    assert told(world.join("a", again=True, attempts=["r/s/1"])) == []
    assert kinds(world, RESUMED) == []
    world.trigger("r2")
    assert (world.held_by("a"), world.held_by("b")) == (["r/s/1"], ["r2/s/1"])
    world.leave("b")
    assert "worker_resumed" in kinds(world, RESUMED)

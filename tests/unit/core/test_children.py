"""Runs that steps spawn: whose they are, where they go, and the slot of a step that waits."""

import pytest

from ganger_broker.definitions import StepDefinition, StickyStrategy, WorkflowDefinition
from ganger_broker.messages import CancelRun, Outcome, RunResult, RunStatus, WorkerPaused
from ganger_broker.messages import Trigger as TriggerMessage
from ganger_dispatcher.core.effects import Effect, EndRun
from ganger_dispatcher.core.facts import BrokerRestored, TriggerReceived

from .world import World, address, assigned, of, one_step, replies, told

CHILD = one_step("child")


def family(slots: int = 3) -> World:
    """Run ``r`` on worker ``a`` has spawned run ``c``; both run."""
    world = World()
    world.join("a", workflows=[one_step(retries=1), CHILD], slots=slots)
    world.trigger("r", reply="q")
    world.start("r/s/1")
    spawn(world)
    return world


def spawn(world: World, run_id: str = "c", parent: str = "r/s", **fields: object) -> list[Effect]:
    return world.trigger(run_id, "child", reply="p", parent=parent, **fields)


def ended(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(effect.run_id, effect.header.status.value) for effect in of(effects, EndRun)]


# ── whose they are ────────────────────────────────────────────────────────────────────


def test_a_child_knows_its_parent() -> None:
    world = family()
    assert world.stored.headers["c"].parent == "r/s"
    assert world.stored.headers["r"].parent is None


def test_cancelling_a_run_cancels_its_children_and_theirs() -> None:
    world = family()
    spawn(world, "grandchild", "c/s")
    effects = world.cancel("r")
    assert ended(effects) == [("r", "cancelled"), ("c", "cancelled"), ("grandchild", "cancelled")]
    error = world.stored.headers["c"].error
    assert error is not None
    assert error.message == "the run that spawned it did not succeed"
    assert {word.attempt for _, word in told(effects)} == {"r/s/1", "c/s/1", "grandchild/s/1"}


def test_a_run_that_fails_takes_its_children_along() -> None:
    world = family()
    world.finish("r/s/1", outcome=Outcome.FAILED, retryable=False)
    assert world.status("c") == "cancelled"


def test_a_retry_of_the_parent_finds_its_children_as_they_are() -> None:
    world = family()
    assert assigned(world.finish("r/s/1", outcome=Outcome.FAILED)) == [("r/s/2", "a")]
    assert world.status("c") == "running"
    assert assigned(spawn(world)) == []
    assert len(replies(world.finish("c/s/1"))) == 1


def test_a_run_that_succeeds_lets_its_children_go_on() -> None:
    world = family()
    world.finish("r/s/1")
    assert world.status("c") == "running"
    assert replies(world.finish("c/s/1")) == [("p", "succeeded", None)]


def test_the_next_leader_knows_the_family() -> None:
    world = family()
    world.take_over()
    assert ended(world.cancel("r")) == [("r", "cancelled"), ("c", "cancelled")]


def test_a_child_that_ended_is_forgotten() -> None:
    world = family()
    world.finish("c/s/1")
    assert world.core.state.children == {}
    assert ended(world.cancel("r")) == [("r", "cancelled")]


def test_a_child_that_comes_after_its_parent_was_cancelled_is_cancelled() -> None:
    world = World()
    world.join("a", workflows=[CHILD])
    trigger = TriggerMessage("child", run_id="c", parent="r/s")
    for status, expected in ((RunStatus.CANCELLED, "cancelled"), (RunStatus.SUCCEEDED, "running")):
        parent = RunResult("w", "r", status)
        run_id = f"c-{status}"
        world.tell(TriggerReceived(trigger, run_id, address("p"), parent_ended=parent))
        assert world.status(run_id) == expected


def test_a_child_in_the_batch_of_its_parents_end_is_cancelled() -> None:
    world = family()
    world.cancel("r")
    trigger = TriggerMessage("child", run_id="late", parent="r/s")
    world.tell(TriggerReceived(trigger, "late"), same_batch=True)
    assert world.status("late") == "cancelled"


def test_a_child_whose_workflow_is_not_registered_yet_is_cancelled_with_its_parent() -> None:
    world = family()
    world.trigger("held", "unknown", reply="h", parent="r/s")
    assert ("h", "cancelled", "CANCELLED") in replies(world.cancel("r"))
    assert world.core.state.held == {}


def test_the_next_leader_knows_children_that_are_held() -> None:
    world = family()
    world.trigger("held", "unknown", reply="h", parent="r/s")
    world.take_over()
    assert ("h", "cancelled", "CANCELLED") in replies(world.cancel("r"))
    assert assigned(world.join("b", workflows=[one_step("unknown")])) == []
    assert world.status("held") == "cancelled"


def test_a_child_that_was_held_is_still_its_parents_when_it_begins() -> None:
    world = family()
    world.trigger("held", "unknown", parent="r/s")
    world.take_over()
    assert assigned(world.join("b", workflows=[one_step("unknown")])) == [("held/s/1", "b")]
    world.cancel("r")
    assert world.status("held") == "cancelled"


def test_a_long_line_of_descent_is_cancelled_whole() -> None:
    world = World()
    world.join("a", workflows=[CHILD], slots=4096)
    spawn(world, "c0", "nobody/s")
    for number in range(1, 2000):
        spawn(world, f"c{number}", f"c{number - 1}/s")
    assert len(ended(world.cancel("c0"))) == 2000


def test_cancelling_is_asked_for_by_message() -> None:
    assert CancelRun("r").reason == "cancelled on request"


# ── where they go ─────────────────────────────────────────────────────────────────────


def placed(sticky: StickyStrategy | None, slots: int = 2) -> tuple[str | None, World]:
    child = one_step("child")
    child.sticky = sticky
    world = World()
    world.join("a", workflows=[one_step(), child], slots=slots)
    world.join("b", workflows=[one_step(), child], slots=slots)
    world.trigger("r", desired_worker_labels={})
    effects = spawn(world, sticky_to="a")
    return (assigned(effects)[0][1] if assigned(effects) else None), world


def test_a_sticky_child_goes_to_its_parents_worker() -> None:
    for sticky in (None, StickyStrategy.SOFT, StickyStrategy.HARD):
        assert placed(sticky)[0] == "a"


@pytest.mark.parametrize("sticky", [None, StickyStrategy.SOFT])
def test_a_soft_child_has_the_slot_that_its_parent_lends_it_though_it_comes_first(
    sticky: StickyStrategy | None,
) -> None:
    where, world = placed(sticky, slots=1)
    assert where is None
    assert assigned(world.waits("r/s/1", 1)) == [("c/s/1", "a")]


@pytest.mark.parametrize("sticky", [None, StickyStrategy.SOFT])
def test_a_soft_child_goes_elsewhere_where_its_parent_does_not_wait_for_it(
    sticky: StickyStrategy | None,
) -> None:
    _, world = placed(sticky, slots=1)
    assert assigned(world.wait(0.4)) == []
    assert assigned(world.wait(0.1)) == [("c/s/1", "b")]
    _, world = placed(sticky, slots=1)
    assert assigned(world.finish("r/s/1", "a")) == [("c/s/1", "a")]
    _, world = placed(sticky, slots=1)
    child = one_step("child")
    child.sticky = sticky
    world.leave("b")  # r is given to one of the others, and c to the other
    for name in ("x", "y"):
        world.join(name, workflows=[one_step(), child])
    assert [attempt for attempt, _ in assigned(world.leave("a"))] == ["r/s/2", "c/s/1"]


def test_a_soft_child_waits_for_nobody_where_the_slot_is_another_ones() -> None:
    _, world = placed(None, slots=1)
    assert assigned(world.waits("r/s/1", 1)) == [("c/s/1", "a")]
    assert assigned(spawn(world, "d", sticky_to="a")) == [("d/s/1", "b")]
    _, world = placed(None, slots=1)
    assert assigned(spawn(world, "e", "nobody/s", sticky_to="a")) == [("e/s/1", "b")]


def test_a_soft_child_does_not_wait_for_a_worker_that_is_paused() -> None:
    _, world = placed(None, slots=1)
    assert assigned(world.tell(WorkerPaused("a", "1"))) == [("c/s/1", "b")]
    world.finish("c/s/1", "b")
    assert assigned(spawn(world, "d", sticky_to="a")) == [("d/s/1", "b")]


def test_a_hard_child_begins_with_the_definition_that_its_parents_worker_has() -> None:
    """That one is paused, and newer code has come."""
    old, new = one_step("child", "1"), one_step("child", "2", timeout=5)
    old.sticky = new.sticky = StickyStrategy.HARD
    world = World()
    world.join("a", workflows=[one_step(), old], slots=2)
    world.trigger("r")
    world.tell(WorkerPaused("a", "1"))
    world.join("b", workflows=[new])
    assert assigned(spawn(world, sticky_to="a")) == [("c/s/1", "a")]
    assert world.stored.headers["c"].version == "1"
    assert assigned(spawn(world, "d", sticky_to="b")) == [("d/s/1", "b")]
    assert world.stored.headers["d"].version == "2"


def test_a_soft_child_waits_for_no_word_while_words_are_not_to_be_had() -> None:
    world = World()
    for name in ("a", "b", "silent"):
        world.join(name, workflows=[one_step(), CHILD])
    world.trigger("r", desired_worker_labels={})
    world.tell(BrokerRestored(since=world.now))
    world.beat("a", "r/s/1")
    assert assigned(spawn(world, sticky_to="a")) != []


def test_when_that_worker_is_full_a_hard_child_waits() -> None:
    where, world = placed(StickyStrategy.HARD, slots=1)
    assert where is None
    assert assigned(world.finish("r/s/1", "a")) == [("c/s/1", "a")]


def test_a_sticky_child_stays_with_its_parent_with_all_of_its_steps() -> None:
    """Also where its workflow has no strategy of its own, and as far as labels let it."""
    gpu = {"gpu": "yes"}
    steps = [
        StepDefinition("a"),
        StepDefinition("b", parents=["a"]),
        StepDefinition("c", parents=["b"], desired_worker_labels=gpu),
        StepDefinition("d", parents=["c"]),
    ]
    child = WorkflowDefinition("child", steps)
    world = World()
    for name, labels in (("one", {}), ("two", {}), ("gpu", gpu)):
        world.join(name, labels, workflows=[child], slots=5)
    assert assigned(spawn(world, sticky_to="two")) == [("c/a/1", "two")]
    assert assigned(world.finish("c/a/1", "two")) == [("c/b/1", "two")]
    assert assigned(world.finish("c/b/1", "two")) == [("c/c/1", "gpu")]
    assert assigned(world.finish("c/c/1", "gpu")) == [("c/d/1", "gpu")]


def test_a_sticky_child_whose_parents_worker_is_lost_goes_on_elsewhere_by_its_labels() -> None:
    child = one_step("child", desired_worker_labels={"gpu": "yes"})
    world = World()
    for name, labels in (("a", {"gpu": "yes"}), ("plain", {}), ("b", {"gpu": "yes"})):
        world.join(name, labels, workflows=[one_step(), child], slots=5)
    assert assigned(spawn(world, sticky_to="a")) == [("c/s/1", "a")]
    assert assigned(world.wait(11, "plain", "b")) == [("c/s/2", "b")]


# ── the slot of a step that waits ─────────────────────────────────────────────────────


def test_a_step_that_waits_for_its_child_leaves_it_its_slot() -> None:
    world = family(slots=1)
    assert world.step("c").status == "pending"
    assert assigned(world.waits("r/s/1", 1)) == [("c/s/1", "a")]
    assert world.held_by("a") == ["r/s/1", "c/s/1"]
    world.finish("c/s/1")
    world.waits("r/s/1", 2)
    assert assigned(world.trigger("next")) == []
    assert assigned(world.finish("r/s/1")) == [("next/s/1", "a")]


def test_only_newer_words_count() -> None:
    world = family(slots=1)
    world.waits("r/s/1", 1)
    world.finish("c/s/1")
    world.waits("r/s/1", 2)
    assert assigned(world.trigger("next")) == []
    for seq in (1, 2, 1):
        assert assigned(world.waits("r/s/1", seq)) == []


def test_a_step_that_goes_on_may_find_its_slot_taken_and_no_more_are_given() -> None:
    world = family(slots=1)
    world.waits("r/s/1", 1)
    world.waits("r/s/1", 2)  # two run now, in one slot: the worker lets one of them wait
    world.trigger("next")
    assert assigned(world.finish("c/s/1")) == []
    assert assigned(world.finish("r/s/1")) == [("next/s/1", "a")]


def test_a_step_that_ends_while_it_waits_gives_no_slot_twice() -> None:
    world = family(slots=1)
    world.waits("r/s/1", 1)
    world.trigger("x")
    world.trigger("y")
    assert assigned(world.finish("r/s/1")) == []
    assert assigned(world.finish("c/s/1")) == [("x/s/1", "a")]


def test_who_waits_survives_a_take_over_and_a_new_process_waits_for_nothing() -> None:
    world = family(slots=1)
    world.waits("r/s/1", 1)
    world.take_over()
    assert assigned(world.trigger("next")) == []
    assert assigned(world.finish("c/s/1")) == [("next/s/1", "a")]
    world.join("a", workflows=[one_step(retries=1), CHILD], slots=1, incarnation="2")
    assert world.core.state.workers["a"].waits == {}
    assert len(world.held_by("a")) == 1

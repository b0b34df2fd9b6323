"""The step of a workflow that runs when another has failed for good."""

from typing import Any

from ganger_broker.definitions import (
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
)
from ganger_broker.messages import FailureReason, Outcome, RunError, Trigger
from ganger_broker.to_worker import Assignment
from ganger_dispatcher.core.effects import Assign
from ganger_dispatcher.core.facts import TriggerReceived

from .world import World, assigned, of, one_step, replies

FAILED = Outcome.FAILED
BOOM = RunError(FailureReason.STEP_FAILED, "boom", type="ValueError")


def flow(**oops: Any) -> WorkflowDefinition:
    """``a`` → ``b`` and, beside them, ``c``."""
    steps = [StepDefinition("a"), StepDefinition("b", parents=["a"]), StepDefinition("c")]
    return WorkflowDefinition("w", steps, on_failure=StepDefinition("oops", **oops))


def failing(slots: int = 4, **oops: Any) -> World:
    """``a`` has succeeded and ``b`` has failed; ``c`` runs."""
    world = World()
    world.join("a", workflows=[flow(**oops)], slots=slots)
    world.trigger(reply="q", metadata={"by": "me"}, priority=2)
    world.finish("r/a/1", output=7)
    world.finish("r/b/1", outcome=FAILED, error=BOOM)
    return world


def sent(world: World, attempt: str) -> Assignment:
    """The failure step's assignment, which came when the last other step ended."""
    [assignment] = [
        effect.assignment
        for effect in of(world.finish("r/c/1", output=9), Assign)
        if effect.assignment.attempt == attempt
    ]
    return assignment


def test_it_runs_when_all_others_have_ended_and_knows_what_failed() -> None:
    world = failing()
    assert "oops" not in world.stored.steps["r"]
    assignment = sent(world, "r/oops/1")
    assert assignment.parents == {"a": 7, "c": 9}
    assert list(assignment.errors) == ["b"]
    error = assignment.errors["b"]
    assert (error.message, error.type, error.attempt) == ("boom", "ValueError", "r/b/1")
    assert (assignment.metadata, assignment.priority) == ({"by": "me"}, 2)
    assert world.status() == "running"


def test_the_run_has_failed_with_the_first_error_however_it_ends() -> None:
    for outcome in (Outcome.SUCCEEDED, FAILED):
        world = failing()
        sent(world, "r/oops/1")
        effects = world.finish("r/oops/1", outcome=outcome, output="told", error=None)
        assert replies(effects) == [("q", "failed", "STEP_FAILED")]
        error = world.stored.headers["r"].error
        assert error is not None
        assert error.step == "b"
        output = world.stored.headers["r"].output
        assert output == {"a": 7, "c": 9, **({"oops": "told"} if outcome != FAILED else {})}


def test_it_does_not_run_for_a_run_that_succeeds() -> None:
    world = World()
    world.join("a", workflows=[flow()], slots=4)
    world.trigger(reply="q")
    for step in ("a", "b"):
        world.finish(f"r/{step}/1")
    effects = world.finish("r/c/1")
    assert assigned(effects) == []
    assert replies(effects) == [("q", "succeeded", None)]


def test_it_does_not_run_for_a_run_that_is_cancelled() -> None:
    world = World()
    world.join("a", workflows=[flow()], slots=4)
    world.trigger(reply="q")
    effects = world.cancel()
    assert assigned(effects) == []
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]


def test_it_is_placed_by_its_own_labels_and_those_of_the_trigger() -> None:
    world = World()
    definition = flow(desired_worker_labels={"mail": "yes"})
    world.join("a", {"zone": "eu"}, workflows=[definition], slots=4)
    world.join("b", {"zone": "us", "mail": "yes"}, workflows=[definition], slots=4)
    world.trigger(desired_worker_labels={"zone": "eu"})
    world.finish("r/a/1", outcome=FAILED, error=BOOM)
    assert assigned(world.finish("r/c/1")) == []
    assert world.step("r", "oops").status == "pending"
    assert assigned(world.label(1, {"mail": "yes"})) == [("r/oops/1", "a")]


def test_it_is_tried_again_and_survives_a_lost_worker_and_a_take_over() -> None:
    world = failing(retries=1)
    sent(world, "r/oops/1")
    assert assigned(world.finish("r/oops/1", outcome=FAILED)) == [("r/oops/2", "a")]
    world.take_over()
    world.join("b", workflows=[flow(retries=1)])
    effects = world.leave("a")
    assert assigned(effects) == [("r/oops/3", "b")]
    assert list(of(effects, Assign)[0].assignment.errors) == ["b"]
    assert replies(world.finish("r/oops/3", "b")) == [("q", "failed", "STEP_FAILED")]


def test_cancelling_while_it_runs_ends_the_run_as_failed() -> None:
    world = failing()
    sent(world, "r/oops/1")
    assert replies(world.cancel()) == [("q", "failed", "STEP_FAILED")]


def test_a_step_that_loses_its_workers_has_failed_too() -> None:
    world = World()
    world.join("a", workflows=[flow()], slots=4)
    world.trigger()
    world.finish("r/c/1")
    for number in range(6):
        world.wait(11)  # silent: lost
        if number < 5:
            world.join("a", workflows=[flow()], slots=4, incarnation=f"{number + 2}")
    world.join("a", workflows=[flow()], slots=4, incarnation="9")
    assert world.step("r", "a").status == "failed"
    assert world.held_by("a") == ["r/oops/1"]


def test_cancelling_a_run_in_which_a_step_has_failed_is_no_failure() -> None:
    flow = WorkflowDefinition(
        "w",
        [StepDefinition("a"), StepDefinition("b"), StepDefinition("c", ["a"])],
        on_failure=StepDefinition("oops"),
    )
    world = World()
    world.join(workflows=[flow], slots=9)
    world.trigger(reply="q")
    world.finish("r/a/1", outcome=Outcome.FAILED)
    effects = world.cancel(reason="not needed")
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]
    error = world.stored.headers["r"].error
    assert error is not None
    assert (error.step, error.message) == ("b", "not needed")
    assert "oops" not in world.stored.steps["r"]


def test_cancelling_while_the_step_for_failures_runs_leaves_it_failed() -> None:
    flow = WorkflowDefinition("w", [StepDefinition("a")], on_failure=StepDefinition("oops"))
    world = World()
    world.join(workflows=[flow], slots=9)
    world.trigger(reply="q")
    world.finish("r/a/1", outcome=Outcome.FAILED)
    assert replies(world.cancel()) == [("q", "failed", "STEP_FAILED")]


def test_a_step_that_finds_no_worker_does_not_make_what_failed_undone() -> None:
    nobody = {"nobody": "has"}
    steps = [StepDefinition("a"), StepDefinition("b", desired_worker_labels=nobody)]
    sad = WorkflowDefinition("w", steps, on_failure=StepDefinition("oops"))
    world = World()
    world.join("a", workflows=[sad])
    world.trigger(reply="q")
    world.finish("r/a/1", outcome=FAILED, error=BOOM)
    assert assigned(world.wait(300, "a")) == [("r/oops/1", "a")]
    assert replies(world.finish("r/oops/1")) == [("q", "failed", "STEP_FAILED")]
    error = world.stored.headers["r"].error
    assert error is not None
    assert (error.step, error.message) == ("a", "boom")


def test_the_first_error_is_that_of_the_step_that_failed_first() -> None:
    world = World()
    steps = [StepDefinition("a"), StepDefinition("b")]
    world.join("a", workflows=[WorkflowDefinition("w", steps)], slots=2)
    world.trigger()
    world.finish("r/b/1", outcome=FAILED, error=BOOM)
    world.now += 1
    world.finish("r/a/1", outcome=FAILED)
    error = world.stored.headers["r"].error
    assert error is not None
    assert error.step == "b"


def test_with_its_worker_lost_it_goes_to_another_that_has_its_labels() -> None:
    """Also where the workflow is sticky, if it may go elsewhere."""
    gpu = {"gpu": "yes"}
    for sticky in (None, StickyStrategy.SOFT, StickyStrategy.HARD):
        oops = StepDefinition("oops", desired_worker_labels=gpu)
        sad = WorkflowDefinition(
            "w",
            [StepDefinition("s", desired_worker_labels=gpu)],
            on_failure=oops,
            sticky=sticky,
            sticky_on_loss=StickyOnLoss.REPIN,
        )
        world = World()
        for name, labels in (("one", gpu), ("plain", {}), ("two", gpu)):
            world.join(name, labels, workflows=[sad])
        world.trigger(reply="q")
        effects = world.finish("r/s/1", "one", FAILED, error=BOOM)
        [(attempt, worker)] = assigned(effects)
        assert (attempt, worker) == ("r/oops/1", "two" if sticky is None else "one")
        others = {"one", "two", "plain"} - {worker}
        [(attempt, worker)] = assigned(world.wait(11, *sorted(others)))
        assert attempt == "r/oops/2"
        assert worker in ("one", "two")
        assert replies(world.finish("r/oops/2", worker)) == [("q", "failed", "STEP_FAILED")]


# ── what it starts ────────────────────────────────────────────────────────────────────

NOTICE = one_step("notice")


def telling() -> World:
    """``s`` has failed after it had spawned ``of-s``; ``oops`` runs and has spawned ``of-oops``."""
    world = World()
    sad = WorkflowDefinition("w", [StepDefinition("s")], on_failure=StepDefinition("oops"))
    world.join("a", workflows=[sad, NOTICE], slots=9)
    world.trigger(reply="q")
    world.trigger("of-s", "notice", parent="r/s")
    world.finish("r/s/1", outcome=FAILED)
    world.trigger("of-oops", "notice", parent="r/oops")
    return world


def test_the_runs_that_it_starts_go_on_when_the_run_has_failed() -> None:
    world = telling()
    world.take_over()
    assert replies(world.finish("r/oops/1")) == [("q", "failed", "STEP_FAILED")]
    assert (world.status("of-s"), world.status("of-oops")) == ("cancelled", "running")


def test_the_runs_that_it_starts_are_cancelled_when_it_fails_or_is_cancelled() -> None:
    world = telling()
    world.finish("r/oops/1", outcome=FAILED)
    assert world.status("of-oops") == "cancelled"
    world = telling()
    world.cancel()
    assert world.status("of-oops") == "cancelled"


def test_what_it_started_may_come_after_the_end_of_the_run() -> None:
    world = telling()
    world.finish("r/oops/1")
    ended = world.core.state.ended["r"]
    for step, expected in (("oops", "running"), ("s", "cancelled")):
        late = Trigger("notice", run_id=f"late-{step}", parent=f"r/{step}")
        world.tell(TriggerReceived(late, f"late-{step}", parent_ended=ended))
        assert world.status(f"late-{step}") == expected


def test_of_a_soft_child_it_goes_to_the_worker_of_what_failed() -> None:
    gpu = {"gpu": "yes"}
    steps = [StepDefinition("a"), StepDefinition("b", parents=["a"], desired_worker_labels=gpu)]
    for sticky in (None, StickyStrategy.SOFT):
        child = WorkflowDefinition("w", steps, on_failure=StepDefinition("oops"), sticky=sticky)
        world = World()
        world.join("plain", workflows=[child], slots=5)
        world.join("gpu", gpu, workflows=[child], slots=5)
        assert assigned(world.trigger(sticky_to="plain")) == [("r/a/1", "plain")]
        assert assigned(world.finish("r/a/1", "plain")) == [("r/b/1", "gpu")]
        assert assigned(world.finish("r/b/1", "gpu", FAILED)) == [("r/oops/1", "gpu")]

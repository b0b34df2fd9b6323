"""Each thing that a workflow can ask for, with required labels and a worker lost in the middle."""

import pytest

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import Outcome, PushEvent
from ganger_dispatcher.core.effects import Assign, Effect
from ganger_dispatcher.core.facts import EventPushed

from .world import World, assigned, of, one_step, replies

FAILED = Outcome.FAILED
GPU, CPU = {"kind": "gpu"}, {"kind": "cpu"}
ALIVE = ("cpu", "spare")


def fleet(*flows: WorkflowDefinition, slots: int = 2) -> World:
    """``gpu`` will be lost; ``cpu`` meets no step that wants a GPU, and ``spare`` does."""
    world = World()
    for name, labels in (("gpu", GPU), ("cpu", CPU), ("spare", GPU)):
        world.join(name, labels, workflows=list(flows), slots=slots)
    return world


def lose(world: World) -> list[Effect]:
    """``gpu`` dies, and the others live."""
    return world.wait(10, *ALIVE)


# ── DAGs ──────────────────────────────────────────────────────────────────────────────

PICTURE = WorkflowDefinition(
    "w",
    [
        StepDefinition("split", desired_worker_labels=CPU),
        StepDefinition("caption", parents=["split"], desired_worker_labels=GPU),
        StepDefinition("thumb", parents=["split"], desired_worker_labels=CPU),
        StepDefinition("publish", parents=["caption", "thumb"], desired_worker_labels=GPU),
        StepDefinition("tidy", parents=["publish"], desired_worker_labels=CPU),
    ],
)


def branching() -> World:
    """The branches run on ``gpu`` and ``cpu``."""
    world = fleet(PICTURE)
    assert assigned(world.trigger(reply="q")) == [("r/split/1", "cpu")]
    branches = assigned(world.finish("r/split/1", "cpu", output="parts"))
    assert branches == [("r/caption/1", "gpu"), ("r/thumb/1", "cpu")]
    world.start("r/caption/1", "gpu")
    return world


def test_a_branch_that_is_lost_runs_again_and_the_other_goes_on() -> None:
    world = branching()
    assert assigned(world.finish("r/thumb/1", "cpu", output="small")) == []
    [again] = of(lose(world), Assign)
    assert (again.worker, again.assignment.attempt) == ("spare", "r/caption/2")
    assert again.assignment.parents == {"split": "parts"}
    assert assigned(world.finish("r/caption/2", "spare")) == [("r/publish/1", "spare")]
    assert assigned(world.finish("r/publish/1", "spare")) == [("r/tidy/1", "cpu")]
    assert replies(world.finish("r/tidy/1", "cpu")) == [("q", "succeeded", None)]


def test_a_branch_that_fails_after_a_loss_cancels_what_comes_behind_it() -> None:
    world = branching()
    lose(world)
    assert replies(world.finish("r/caption/2", "spare", FAILED)) == []
    assert replies(world.finish("r/thumb/1", "cpu")) == [("q", "failed", "STEP_FAILED")]
    steps = world.stored.steps["r"]
    assert (steps["publish"].status, steps["tidy"].status) == ("cancelled", "cancelled")
    error = world.stored.headers["r"].error
    assert error is not None
    assert error.attempt == "r/caption/2"


def test_a_step_behind_two_branches_waits_for_the_label_that_was_lost() -> None:
    world = branching()
    world.leave("spare")
    world.finish("r/thumb/1", "cpu")
    assert assigned(world.wait(10, "cpu")) == []
    world.take_over()
    assert assigned(world.label(1, GPU, worker="cpu")) == [("r/caption/2", "cpu")]
    assert assigned(world.finish("r/caption/2", "cpu")) == [("r/publish/1", "cpu")]


# ── retries ───────────────────────────────────────────────────────────────────────────

RETRYING = one_step(retries=2, backoff_factor=4, jitter=0, desired_worker_labels=GPU)
NEAR = {"zone": "near"}


def test_a_retry_that_is_lost_costs_none_and_keeps_the_labels_of_its_trigger() -> None:
    world = fleet(RETRYING)
    for seq, name in enumerate(("gpu", "cpu", "spare"), 1):
        if name != "spare":
            world.label(seq, NEAR, worker=name)
    assert assigned(world.trigger(desired_worker_labels=NEAR)) == [("r/s/1", "gpu")]
    world.finish("r/s/1", "gpu", FAILED)
    assert assigned(world.wait(4, "gpu", *ALIVE)) == [("r/s/2", "gpu")]
    world.start("r/s/2", "gpu")
    assert assigned(lose(world)) == []  # ``spare`` is not near
    step = world.step()
    assert (step.status, step.failures, step.losses) == ("pending", 1, 1)
    [again] = of(world.label(9, NEAR, worker="spare"), Assign)
    assert (again.worker, again.assignment.attempt) == ("spare", "r/s/3")
    assert again.assignment.retry_count == 1
    world.finish("r/s/3", "spare", FAILED)
    assert assigned(world.wait(15.9, *ALIVE)) == []  # it rests as before its second retry
    assert assigned(world.wait(0.1, *ALIVE)) == [("r/s/4", "spare")]


# ── cancellation ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_cancelled_run_stays_so_whenever_its_worker_is_lost(lost: str) -> None:
    world = fleet(one_step(desired_worker_labels=GPU))
    world.leave("spare")
    assert assigned(world.trigger(reply="q")) == [("r/s/1", "gpu")]
    world.start("r/s/1", "gpu")
    if lost == "before":
        world.wait(10, "cpu")
        assert world.step().status == "pending"
    assert replies(world.cancel()) == [("q", "cancelled", "CANCELLED")]
    world.wait(10, "cpu")
    assert "gpu" not in world.stored.workers
    assert assigned(world.join("late", GPU, workflows=[one_step(desired_worker_labels=GPU)])) == []
    assert world.status() == "cancelled"


# ── children ──────────────────────────────────────────────────────────────────────────


def family() -> World:
    """``r`` waits on ``cpu`` in its one slot for its child, which runs on ``gpu``."""
    parent = one_step(desired_worker_labels=CPU)
    child = one_step("child", desired_worker_labels=GPU)
    world = fleet(parent, child, slots=1)
    assert assigned(world.trigger()) == [("r/s/1", "cpu")]
    world.start("r/s/1", "cpu")
    assert assigned(world.trigger("c", "child", parent="r/s", reply="p")) == [("c/s/1", "gpu")]
    world.start("c/s/1", "gpu")
    world.waits("r/s/1", 1, "cpu")
    return world


def test_a_child_that_is_lost_runs_again_where_its_labels_are() -> None:
    world = family()
    assert assigned(lose(world)) == [("c/s/2", "spare")]
    assert replies(world.finish("c/s/2", "spare")) == [("p", "succeeded", None)]


def test_cancelling_the_parent_reaches_a_child_that_waits_for_a_label_since_its_loss() -> None:
    world = family()
    world.drain("spare")
    lose(world)
    assert world.step("c").status == "pending"
    assert replies(world.cancel()) == [("p", "cancelled", "CANCELLED")]


def test_a_parent_that_is_lost_while_it_waits_takes_no_slot_with_it() -> None:
    world = family()
    child = one_step("child", desired_worker_labels=GPU)
    world.join("cpu2", CPU, workflows=[one_step(desired_worker_labels=CPU), child], slots=1)
    assert assigned(world.wait(10, "gpu", "spare", "cpu2")) == [("r/s/2", "cpu2")]
    assert world.status("c") == "running"
    assert assigned(world.trigger("c", "child", parent="r/s", reply="p")) == []


# ── events ────────────────────────────────────────────────────────────────────────────


def test_a_run_of_an_event_survives_the_worker_between_push_and_start() -> None:
    step = StepDefinition("s", desired_worker_labels=GPU)
    world = fleet(WorkflowDefinition("w", [step], on_events=["image:*"]))
    pushed = EventPushed("image:new", PushEvent(payload={"n": 1}), "e")
    [(attempt, worker)] = assigned(world.tell(pushed))
    assert worker == "gpu"
    [again] = of(lose(world), Assign)
    assert (again.worker, again.assignment.input) == ("spare", {"n": 1})
    assert again.assignment.attempt == attempt[:-1] + "2"
    assert assigned(world.tell(pushed)) == []  # the same event, delivered again

"""The next leader begins where the last one stopped, from what was stored."""

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_dispatcher.core.effects import Assign, DropPending, EndRun, StoreStep
from ganger_dispatcher.core.facts import AssignmentReturned, TimePassed
from ganger_dispatcher.core.state import Policy

from .world import World, assigned, of, one_step, replies


def test_an_empty_store() -> None:
    world = World()
    assert world.take_over() == []


def test_what_was_assigned_is_sent_again_as_it_was() -> None:
    world = World()
    world.join("a", workflows=[one_step(timeout=7)])
    sent = of(world.trigger(input={"n": 1}, metadata={"by": "me"}, priority=2), Assign)
    assert world.take_over() == sent
    world.start("r/s/1")
    world.finish("r/s/1", output=1)
    assert world.status() == "succeeded"


def test_what_runs_is_not_sent_again() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    world.start("r/s/1")
    assert world.take_over() == []
    assert replies(world.finish("r/s/1")) == [("q", "succeeded", None)]


def test_pending_steps_keep_their_turn_and_their_deadline() -> None:
    world = World()
    world.join("a", workflows=[one_step(schedule_timeout=30)])
    world.trigger("now")
    for run_id, priority in [("z-old", 1), ("a-young", 1), ("urgent", 3)]:
        world.now += 1_000
        world.trigger(run_id, priority=priority, reply=run_id)
    world.wait(20, "a")
    world.take_over()
    assert assigned(world.finish("now/s/1")) == [("urgent/s/1", "a")]
    assert assigned(world.finish("urgent/s/1")) == [("z-old/s/1", "a")]
    assert replies(world.wait(9, "a")) == [("a-young", "cancelled", "SCHEDULING_TIMED_OUT")]


def test_a_pending_step_that_finds_a_worker_at_once() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    effects = world.take_over()  # whose queue was gone may have one again
    assert assigned(effects) == [("r/s/2", "a")]
    assert of(effects, DropPending) == [DropPending("r/s")]
    assert world.stored.pending == {}


def test_held_triggers_stay_held() -> None:
    world = World()
    world.trigger("r1", reply="one")
    world.trigger("r2", "other", reply="two")
    world.now += 30_000
    assert world.take_over() == []
    assert assigned(world.join("a")) == [("r1/s/1", "a")]
    assert replies(world.wait(31, "a")) == [("two", "failed", "UNKNOWN_WORKFLOW")]


def test_workers_get_a_fresh_deadline_and_then_are_lost() -> None:
    world = World()
    world.join("a")
    world.now += 3_600_000
    world.take_over()
    world.wait(9.9)
    assert "a" in world.stored.workers
    world.wait(0.2)
    assert "a" not in world.stored.workers


def test_attempts_get_a_fresh_pick_up_deadline() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.now += 60_000
    world.take_over()
    for _ in range(10):
        world.now += 1_000
        world.tell(TimePassed())
        assert assigned(world.beat("a")) == []
    world.now += 1
    assert assigned(world.beat("a")) == [("r/s/2", "a")]


def test_words_from_before_take_no_attempt_until_they_are_known_to_be_read() -> None:
    world = World(Policy(worker_timeout=120_000))
    world.join("a")
    world.trigger()
    world.take_over()
    world.now += 10_500
    assert world.core.wake_at is not None
    assert world.core.wake_at > world.now
    assert assigned(world.beat("a")) == []


def test_slots_of_cancelled_attempts_stay_taken() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.start("r/s/1")
    world.cancel()
    world.take_over()
    assert assigned(world.trigger("next")) == []
    assert assigned(world.finish("r/s/1")) == [("next/s/1", "a")]


def test_a_draining_worker_is_still_draining() -> None:
    world = World()
    world.join("a")
    world.drain()
    world.take_over()
    assert assigned(world.trigger()) == []


def test_labels_and_their_sequence_are_kept() -> None:
    world = World()
    flow = one_step(desired_worker_labels={"model": "x"})
    world.join("a", {"model": "y", "gone": 1}, workflows=[flow])
    world.trigger()
    world.label(4, {"new": 1}, "gone")
    world.take_over()
    assert world.core.state.workers["a"].labels == {"model": "y", "new": 1}
    assert assigned(world.label(4, {"model": "x"})) == []
    assert assigned(world.label(5, {"model": "x"})) == [("r/s/1", "a")]


def test_a_run_keeps_the_definition_it_began_with() -> None:
    world = World()
    two = [StepDefinition("s"), StepDefinition("t", parents=["s"])]
    world.join("a", workflows=[WorkflowDefinition("w", two)], slots=2)
    world.trigger("before")
    world.join("b", workflows=[one_step(version="2")])
    world.take_over()
    world.finish("before/s/1", output=1)
    assert world.step("before", "t").status == "assigned"
    [(attempt, worker)] = assigned(world.trigger("after"))
    assert len(of(world.finish(attempt, worker), EndRun)) == 1


def test_a_step_whose_worker_is_not_there_is_given_anew() -> None:
    for begun in (False, True):
        world = World()
        world.join("a")
        world.trigger()
        if begun:
            world.start("r/s/1")
        del world.stored.workers["a"], world.stored.attempts["a"]
        assert of(world.take_over(), StoreStep) != []
        assert world.step().status == "pending"
        assert assigned(world.join("b")) == [("r/s/2", "b")]


def test_a_second_take_over_changes_nothing() -> None:
    world = World()
    world.join("a")
    world.trigger("r1")
    world.trigger("r2")
    first = world.take_over()
    before = world.stored.snapshot()
    assert world.take_over() == first
    assert world.stored.snapshot() == before

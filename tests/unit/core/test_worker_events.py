"""What workers say: twice, too late, out of order, from the grave, or of what is not theirs."""

from typing import Any

import pytest

from ganger_broker.messages import Heartbeat, Outcome
from ganger_broker.to_worker import CancelAttempt, Refused, RegisterAgain
from ganger_dispatcher.core import Core
from ganger_dispatcher.core.effects import Beat, ReleaseAttempt, StoreLabels, StoreStep
from ganger_dispatcher.core.facts import AssignmentReturned
from ganger_dispatcher.core.state import Policy

from .world import World, assigned, of, one_step, told


def world_with_a_step() -> World:
    world = World()
    world.join("a")
    world.trigger()
    return world


# ── delivered again ───────────────────────────────────────────────────────────────────


def test_started_twice_is_started_once() -> None:
    world = world_with_a_step()
    world.start("r/s/1")
    world.now += 1
    assert world.start("r/s/1") == [Beat("a", world.now)]


def test_finished_twice_is_finished_once() -> None:
    world = world_with_a_step()
    world.finish("r/s/1")
    world.trigger("r2")
    assert world.finish("r/s/1") == [Beat("a", world.now)]
    assert world.held_by("a") == ["r2/s/1"]


def test_finished_before_it_was_started() -> None:
    world = world_with_a_step()
    world.finish("r/s/1", output=1)
    assert world.step().status == "succeeded"
    assert world.start("r/s/1") == [Beat("a", world.now)]
    assert world.step().status == "succeeded"


def test_a_failure_said_twice_costs_one_retry() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=2)])
    world.trigger()
    world.finish("r/s/1", outcome=Outcome.FAILED)
    world.finish("r/s/1", outcome=Outcome.FAILED)
    step = world.step()
    assert (step.attempt, step.failures, step.status) == (2, 1, "assigned")


# ── two of one name ───────────────────────────────────────────────────────────────────


def test_a_process_that_lives_on_after_another_took_its_id_is_told_to_end() -> None:
    world = World()
    world.join("a", incarnation="1")
    world.join("a", incarnation="2", host="h", pid=7)
    ((worker, message),) = told(world.tell(Heartbeat("a", "1", [])))
    assert worker == "a"
    assert isinstance(message, Refused)
    assert (message.for_good, message.incarnation) == (True, "1")
    assert message.reason == (
        "worker id 'a': another process has registered with it since (host h, pid 7); give each "
        "worker an id of its own"
    )
    assert told(world.tell(Heartbeat("a", "2", []))) == []


def test_a_process_nobody_knows_of_is_not_told_to_end_for_another() -> None:
    world = World()
    world.join("a", incarnation="1")
    assert told(world.tell(Heartbeat("a", "never seen", []))) == []


# ── what was lost on the way, or in Redis ─────────────────────────────────────────────


@pytest.mark.parametrize("lost", [{"label_seq": 3}, {"draining": True}])
def test_a_worker_whose_word_was_lost_is_asked_for_all_of_it(lost: dict[str, Any]) -> None:
    world = World()
    world.join("a", label_seq=2)
    assert told(world.tell(Heartbeat("a", "1", [], label_seq=2))) == []
    assert told(world.tell(Heartbeat("a", "1", [], **lost))) == [("a", RegisterAgain())]
    world.join("a", {"model": "b"}, again=True, **lost)
    assert told(world.tell(Heartbeat("a", "1", [], **lost))) == []


def test_workers_whose_definitions_were_lost_are_asked_for_them() -> None:
    world = World()
    world.join("a")
    snapshot = world.stored.snapshot()
    assert told(Core(Policy()).restore(snapshot, world.now)) == []
    snapshot = world.stored.snapshot()
    snapshot.workflows.clear()
    assert told(Core(Policy()).restore(snapshot, world.now)) == [("a", RegisterAgain())]


# ── fenced ────────────────────────────────────────────────────────────────────────────


def test_an_attempt_that_was_given_to_another_changes_nothing() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    world.join("b")
    assert world.step().worker == "b"
    before = world.step()
    assert of(world.start("r/s/1", "a"), StoreStep) == []
    assert of(world.finish("r/s/1", "a"), ReleaseAttempt) == []
    assert world.step() == before
    assert world.held_by("b") == ["r/s/2"]


def test_an_attempt_of_another_worker_changes_nothing() -> None:
    world = World()
    world.join("a")
    world.join("b", slots=4)
    world.trigger()
    holder = world.step().worker
    assert holder == "a"
    world.start("r/s/1", "b")
    world.finish("r/s/1", "b", output="forged")
    assert (world.step().status, world.held_by("a")) == ("assigned", ["r/s/1"])


def test_ids_that_are_no_attempts_change_nothing() -> None:
    world = world_with_a_step()
    for attempt in ("", "r", "r/s", "r/s/x", "r/t/1", "q/s/1", "r/s/1/1", "r/s/2"):
        assert world.start(attempt) == [Beat("a", world.now)]
        assert world.finish(attempt) == [Beat("a", world.now)]


def test_the_process_before_this_one_is_not_heard() -> None:
    world = world_with_a_step()
    world.join("a", incarnation="2")
    assert world.step().attempt == 2
    world.incarnations["a"] = "1"
    assert world.start("r/s/2") == []
    assert world.finish("r/s/2") == []
    assert world.label(9, {"x": 1}) == []
    assert world.leave() == []
    assert world.held_by("a") == ["r/s/2"]


# ── labels ────────────────────────────────────────────────────────────────────────────


def test_only_newer_labels_count() -> None:
    world = World()
    world.join("a", {"model": "x"}, label_seq=3)
    assert of(world.label(3, {"model": "old"}), StoreLabels) == []
    assert of(world.label(2, {"model": "older"}), StoreLabels) == []
    change = StoreLabels("a", 5, {"model": "new", "size": 1}, ("gone",))
    assert of(world.label(5, {"model": "new", "size": 1}, "gone"), StoreLabels) == [change]
    assert of(world.label(4, {"model": "late"}), StoreLabels) == []
    assert world.core.state.workers["a"].labels == {"model": "new", "size": 1}


def test_a_new_incarnation_counts_its_labels_from_the_beginning() -> None:
    world = World()
    world.join("a")
    world.label(7, {"model": "x"})
    world.join("a", {"model": "y"}, incarnation="2")
    assert of(world.label(1, {"model": "z"}), StoreLabels) != []
    assert world.stored.workers["a"]["labels"] == {"model": "z"}


def test_a_registration_that_comes_late_does_not_bring_old_labels_back() -> None:
    world = World()
    world.join("a", {"model": "x"})
    world.label(7, {"model": "y"})
    world.join("a", {"model": "x"}, label_seq=3)
    assert world.stored.workers["a"]["labels"] == {"model": "y"}
    world.join("a", {"model": "z"}, label_seq=8)
    assert world.stored.workers["a"]["labels"] == {"model": "z"}
    assert of(world.label(8, {"model": "w"}), StoreLabels) == []


# ── strangers ─────────────────────────────────────────────────────────────────────────


def test_a_worker_that_is_not_known_is_told_to_register() -> None:
    world = World()
    world.incarnations["ghost"] = "1"
    again = [("ghost", RegisterAgain())]
    assert told(world.beat("ghost", "r/s/1")) == again
    assert told(world.start("r/s/1", "ghost")) == again
    assert told(world.finish("r/s/1", "ghost")) == again
    assert told(world.label(1, {"x": 1}, worker="ghost")) == again
    assert told(world.drain("ghost")) == again
    assert world.leave("ghost") == []


# ── heartbeats compare ────────────────────────────────────────────────────────────────


def test_a_heartbeat_that_says_what_is_known_changes_nothing() -> None:
    world = world_with_a_step()
    world.start("r/s/1")
    world.now += 3_000
    assert world.beat("a", "r/s/1") == [Beat("a", world.now)]


def test_an_attempt_that_is_missing_within_the_pick_up_deadline_may_be_on_its_way() -> None:
    world = world_with_a_step()
    world.now += 10_000
    assert world.beat("a") == [Beat("a", world.now)]


def test_an_attempt_that_is_missing_beyond_the_pick_up_deadline_is_given_anew() -> None:
    world = world_with_a_step()
    world.wait(5, "a")
    world.beat("a")
    world.now += 5_001
    assert assigned(world.beat("a")) == [("r/s/2", "a")]
    assert (world.step().losses, world.held_by("a")) == (1, ["r/s/2"])


def test_a_slot_that_a_cancelled_attempt_held_is_freed_by_its_absence() -> None:
    world = world_with_a_step()
    world.trigger("next")
    world.cancel()
    world.wait(9, "a")
    world.now += 1_001
    assert assigned(world.beat("a")) == [("next/s/1", "a")]


def test_an_attempt_that_the_worker_should_not_hold_is_cancelled() -> None:
    world = world_with_a_step()
    event = Heartbeat("a", "1", ["r/s/1", "old/s/1", "older/s/2"])
    text = "it does not count any more"
    assert told(world.tell(event)) == [
        ("a", CancelAttempt("old/s/1", text)),
        ("a", CancelAttempt("older/s/2", text)),
    ]


# ── assignments that came back ────────────────────────────────────────────────────────


def test_not_picked_up_in_time_is_matched_again_and_the_worker_stays_open() -> None:
    world = world_with_a_step()
    effects = world.tell(AssignmentReturned("a", "r/s/1", no_queue=False))
    assert assigned(effects) == [("r/s/2", "a")]
    step = world.step()
    assert (step.losses, step.failures) == (0, 0)


def test_without_a_queue_the_worker_gets_nothing_until_it_registers_anew() -> None:
    world = world_with_a_step()
    effects = world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    assert assigned(effects) == []
    assert world.stored.workers["a"]["state"] == "unreachable"
    assert assigned(world.label(1, {"x": 1})) == []
    assert assigned(world.join("a")) == [("r/s/2", "a")]


def test_a_worker_without_a_queue_that_is_alive_is_told_to_register() -> None:
    world = world_with_a_step()
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    assert told(world.beat("a")) == [("a", RegisterAgain())]
    world.join("a")
    assert told(world.beat("a", "r/s/2")) == []


def test_a_draining_worker_without_a_queue_is_still_draining() -> None:
    world = world_with_a_step()
    world.drain()
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    assert world.stored.workers["a"]["state"] == "draining"
    assert world.held_by("a") == []


def test_it_came_back_twice() -> None:
    world = world_with_a_step()
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=False))
    assert world.tell(AssignmentReturned("a", "r/s/1", no_queue=False)) == []
    assert world.held_by("a") == ["r/s/2"]


def test_the_copy_of_an_assignment_that_was_picked_up_came_back() -> None:
    world = world_with_a_step()
    world.take_over()  # sends it again: the worker has it twice and takes the first
    world.start("r/s/1")
    assert world.tell(AssignmentReturned("a", "r/s/1", no_queue=False)) == []
    assert (world.step().status, world.held_by("a")) == ("running", ["r/s/1"])
    world.finish("r/s/1")
    assert world.status() == "succeeded"


def test_the_assignment_of_a_cancelled_attempt_came_back() -> None:
    world = world_with_a_step()
    world.trigger("next")
    world.cancel()
    effects = world.tell(AssignmentReturned("a", "r/s/1", no_queue=False))
    assert assigned(effects) == [("next/s/1", "a")]


def test_it_came_back_from_a_worker_that_is_gone() -> None:
    world = world_with_a_step()
    world.leave("a")
    assert world.tell(AssignmentReturned("a", "r/s/1", no_queue=True)) == []
    assert world.step().status == "pending"

"""Silence, loss, return; and silence that is the dispatcher's own."""

import pytest

from ganger_broker.to_worker import CancelAttempt, RegisterAgain
from ganger_dispatcher.core import Core, workers
from ganger_dispatcher.core.attempts import attempt_lost
from ganger_dispatcher.core.core import TimerFailed
from ganger_dispatcher.core.effects import Count, DeleteQueue, DropWorker
from ganger_dispatcher.core.facts import AssignmentReturned, BrokerRestored, TimePassed
from ganger_dispatcher.core.state import Policy, State

from .world import World, assigned, of, replies, told


def test_a_silent_worker_is_lost_and_its_attempt_given_to_another() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.start("r/s/1")
    world.join("b")
    assert assigned(world.wait(10, "b")) == [("r/s/2", "b")]
    assert "a" not in world.stored.workers
    step = world.step()
    assert (step.worker, step.losses, step.failures) == ("b", 1, 0)


def test_all_that_a_loss_wants_done_first() -> None:
    world = World()
    world.join("a")
    world.trigger()
    effects = world.wait(10)
    assert effects[:2] == [DropWorker("a"), DeleteQueue("a")]
    assert Count("workers_lost") in effects
    assert world.step().status == "pending"


def test_any_event_counts_as_a_heartbeat() -> None:
    world = World()
    world.join("a")
    world.trigger()
    for _ in range(5):
        world.wait(9)
        world.start("r/s/1")
    assert "a" in world.stored.workers
    world.wait(9.9)
    assert "a" in world.stored.workers
    world.wait(0.2)
    assert "a" not in world.stored.workers


def test_a_worker_declared_lost_that_speaks_again_registers_anew_and_stops_what_it_had() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.start("r/s/1")
    world.wait(10)
    assert told(world.beat("a", "r/s/1")) == [("a", RegisterAgain())]
    effects = world.join("a", attempts=["r/s/1"])
    assert told(effects) == [("a", CancelAttempt("r/s/1", "it was given to another worker"))]
    assert assigned(effects) == []  # its slot is still taken
    effects = world.finish("r/s/1", output="of the old attempt")
    assert assigned(effects) == [("r/s/2", "a")]
    assert world.step().status == "assigned"
    world.finish("r/s/2", output="of the new one")
    assert world.step().output == "of the new one"


def test_losses_do_not_count_as_retries_but_end_at_last() -> None:
    world = World(Policy(most_losses=2))
    world.join("w0")
    world.trigger(reply="q")
    for n in range(1, 3):
        assert replies(world.wait(10)) == []
        world.join(f"w{n}")
        assert world.step().losses == n
    effects = world.wait(10)
    assert replies(effects) == [("q", "failed", "WORKER_LOST")]
    error = world.stored.headers["r"].error
    assert error is not None
    assert (error.message, error.step, error.attempt) == (
        "its worker was lost 3 times",
        "s",
        "r/s/3",
    )
    assert assigned(world.join("w3")) == []


def test_a_lost_worker_frees_what_cancelled_runs_held_without_more_ado() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    world.cancel()
    effects = world.wait(10)
    assert replies(effects) == []
    assert (world.status(), world.stored.attempts) == ("cancelled", {})


def test_workers_lost_together_do_not_get_each_other_s_attempts() -> None:
    world = World(Policy(most_losses=1))
    for n in range(5):
        world.join(f"w{n}", slots=2)
    world.trigger()
    effects = world.wait(10)
    assert assigned(effects) == []
    assert (world.step().losses, world.step().status) == (1, "pending")
    assert assigned(world.join("next")) == [("r/s/2", "next")]


def test_a_worker_that_leaves_gives_its_attempts_back_and_they_are_no_losses() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.start("r/s/1")
    world.join("b")
    effects = world.leave("a")
    assert of(effects, DeleteQueue) == [DeleteQueue("a")]
    assert assigned(effects) == [("r/s/2", "b")]
    assert (world.step().losses, list(world.stored.workers)) == (0, ["b"])
    assert world.leave("a") == []


def test_a_new_incarnation_gets_the_attempts_of_the_old_one_anew() -> None:
    world = World()
    world.join("a", {"model": "x"})
    world.trigger()
    world.start("r/s/1")
    effects = world.join("a", {"model": "y"}, incarnation="2")
    assert assigned(effects) == [("r/s/2", "a")]
    assert (world.held_by("a"), world.stored.attempts["a"]) == (["r/s/2"], {"r/s/2"})
    assert world.stored.workers["a"]["incarnation"] == "2"
    assert world.stored.workers["a"]["labels"] == {"model": "y"}


def test_a_registration_of_the_old_incarnation_delivered_again_changes_nothing() -> None:
    world = World()
    world.join("a")
    world.join("a", incarnation="2")
    world.trigger()
    world.take_over()
    assert world.join("a", incarnation="1") == []
    world.incarnations["a"] = "2"
    world.finish("r/s/1")
    assert world.status() == "succeeded"


def test_the_same_incarnation_again_keeps_its_attempts() -> None:
    world = World()
    world.join("a", slots=2)
    world.trigger("r1")
    world.start("r1/s/1")
    effects = world.join("a", slots=2, attempts=["r1/s/1"])
    assert (told(effects), assigned(effects)) == ([], [])
    assert world.stored.attempts["a"] == {"r1/s/1"}
    world.finish("r1/s/1")
    assert world.status("r1") == "succeeded"


def test_a_restarted_worker_is_watched_by_one_timer() -> None:
    world = World()
    for incarnation in "12345":
        world.join("a", incarnation=incarnation)
        world.wait(1)
    world.wait(10, "a")
    state = world.core.state
    state.now += 20_000
    assert [timer.name for timer in state.due()] == ["a/5"]


# ── the dispatcher's own silence ──────────────────────────────────────────────────────


def two_heard_now() -> World:
    world = World()
    world.join("a")
    world.join("b")
    world.wait(30, "a", "b")
    return world


def test_a_stalled_dispatcher_does_not_declare_the_fleet_dead() -> None:
    for stall in (6, 8, 9, 10, 10.5, 12, 14, 16, 60, 3_600):
        world = two_heard_now()
        world.now += round(stall * 1000)
        assert of(world.tell(TimePassed()), DropWorker) == [], stall
        world.wait(9.9 if stall > 6 else 3.9)
        assert set(world.stored.workers) == {"a", "b"}, stall


def test_after_the_stall_silence_counts_again() -> None:
    world = two_heard_now()
    world.now += 60_000
    world.tell(TimePassed())
    world.wait(10.1, "b")
    assert set(world.stored.workers) == {"b"}


def test_while_events_are_unread_nobody_is_lost() -> None:
    world = two_heard_now()
    for _ in range(30):
        world.now += 1_000
        assert of(world.tell(TimePassed(read_to=0)), DropWorker) == []
    world.now += 1_000
    world.beat("a")
    world.tell(TimePassed())
    assert set(world.stored.workers) == {"a"}


def test_while_the_broker_was_away_nobody_could_be_heard() -> None:
    world = two_heard_now()
    world.wait(9)
    world.tell(BrokerRestored(since=world.now - 9_000))
    world.wait(9.9)
    assert set(world.stored.workers) == {"a", "b"}
    world.wait(0.2)
    assert world.stored.workers == {}


def test_a_word_that_was_long_on_its_way_takes_no_attempt_from_its_worker() -> None:
    """It may have been said before the worker had the attempt: events are read late."""
    world = World()
    given = world.now
    world.join("a")
    world.trigger()
    for _ in range(30):
        world.now += 1_000
        world.tell(TimePassed(read_to=given))
        assert assigned(world.beat("a")) == []
    assert world.core.to_read == given + 10_001
    world.tell(TimePassed(read_to=given + 10_001))
    assert world.core.to_read is None
    assert assigned(world.beat("a", "r/s/1")) == []
    assert assigned(world.beat("a")) == [("r/s/2", "a")]


def test_what_was_given_before_nobody_was_heard_may_be_picked_up_after_it() -> None:
    world = World()
    world.join("a")
    world.trigger()
    given = world.now
    world.now += 14_000
    world.tell(BrokerRestored(since=given))
    for _ in range(10):
        assert assigned(world.beat("a")) == []
        world.now += 1_000
        world.tell(TimePassed())
    world.now += 1
    assert assigned(world.beat("a")) == [("r/s/2", "a")]


def test_an_outage_makes_no_old_assignment_that_comes_back_a_new_one() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.now += 1
    world.join("a")  # its queue is there again
    world.tell(BrokerRestored(since=world.now))
    world.tell(AssignmentReturned("a", "r/s/1", no_queue=True))
    assert world.core.state.workers["a"].state == "ready"


def test_a_core_without_workers_and_runs_asks_for_no_wake_up() -> None:
    assert World().core.wake_at is None
    world = World()
    world.trigger()
    assert world.core.wake_at == world.now + 60_000


def test_a_defect_that_one_workers_loss_brings_out_costs_no_other_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(state: State, attempt: str, *, counts: bool = True) -> None:
        if attempt == "bad/s/1":
            raise ZeroDivisionError
        attempt_lost(state, attempt, counts=counts)

    monkeypatch.setattr(workers, "attempt_lost", fails)
    world = World()
    for worker, run in (("x", "good"), ("y", "bad"), ("z", "fine")):
        world.join(worker)
        world.trigger(run)
    world.now += 1
    world.join("lives")
    with pytest.raises(TimerFailed) as caught:
        world.wait(10, "lives")
    assert (caught.value.kind, caught.value.name) == ("worker", "y/1")
    # as its term does, after what it had not stored: begin anew, and let that one be
    world.core = Core(world.policy, {(caught.value.kind, caught.value.name)})
    world.core.restore(world.stored.snapshot(), world.now)
    world.wait(11, "lives")
    assert set(world.stored.workers) == {"lives", "y"}
    assert world.step("good").worker == "lives"

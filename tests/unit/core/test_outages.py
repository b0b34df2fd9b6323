"""What waits loses no time while nobody could be heard: a new leader, a stall, a broker away."""

from collections.abc import Callable

import pytest

from ganger_broker.definitions import RateLimit
from ganger_broker.messages import WorkerRegistered
from ganger_dispatcher.core import core
from ganger_dispatcher.core.effects import Bury
from ganger_dispatcher.core.facts import BrokerRestored, TimePassed
from ganger_dispatcher.core.state import State, TimerFailed

from .world import World, assigned, of, one_step, replies

Outage = Callable[[World], None]


def taken_over(world: World) -> None:
    """Nobody led for 20 seconds."""
    world.now += 20_000
    world.take_over()


def stood_still(world: World) -> None:
    """The dispatcher was not run for 20 seconds, and what came meanwhile is not read yet. It
    was to be woken within the first of them: that is not known to be lost."""
    heard_at = world.now
    world.now += 20_000
    world.tell(TimePassed(read_to=heard_at))


def cut_off(world: World) -> None:
    """The broker was away for 20 seconds."""
    since = world.now
    for _ in range(40):
        world.now += 500
        world.tell(TimePassed(read_to=since))
    world.tell(BrokerRestored(since=since))
    world.tell(TimePassed(read_to=world.now))


OUTAGES = pytest.mark.parametrize("outage", [taken_over, stood_still, cut_off])


def busy(world: World, **step: object) -> World:
    """One worker, whose slot is taken, and two steps that wait for it."""
    world.join("a", workflows=[one_step(**step)])
    world.trigger("n1")
    world.start("n1/s/1")
    world.wait(2, "a")
    world.trigger("n2", reply="q2")
    world.trigger("n3", reply="q3")
    world.wait(1, "a")
    return world


@OUTAGES
def test_a_step_for_which_a_worker_was_idle_is_not_ended_for_want_of_one(outage: Outage) -> None:
    world = busy(World(), schedule_timeout=8)
    outage(world)
    effects = world.tell(TimePassed(read_to=world.now))
    effects += world.finish("n1/s/1")
    effects += world.tell(TimePassed(read_to=world.now))
    assert assigned(effects) == [("n2/s/1", "a")]
    assert replies(effects) == []
    assert assigned(world.wait(5, "a") + world.finish("n2/s/1")) == [("n3/s/1", "a")]


@OUTAGES
def test_its_time_goes_on_where_it_stood_when_all_are_heard(outage: Outage) -> None:
    world = busy(World(), schedule_timeout=8)
    outage(world)
    world.wait(2)
    assert world.status("n2") == "running"
    world.beat("a", "n1/s/1")
    assert replies(world.wait(5.9, "a")) == []
    ended = replies(world.wait(1.2, "a"))
    assert ended == [(f"q{n}", "cancelled", "SCHEDULING_TIMED_OUT") for n in (2, 3)]
    assert world.stored.pending == {}


@OUTAGES
def test_who_is_never_heard_again_holds_it_up_no_longer_than_others(outage: Outage) -> None:
    world = busy(World(), schedule_timeout=8)
    world.join("b", workflows=[one_step("other")])
    outage(world)
    world.beat("a", "n1/s/1")
    assert replies(world.wait(10, "a")) == []
    assert "b" not in world.stored.workers
    assert len(replies(world.wait(7.1, "a"))) == 2


@OUTAGES
def test_patience_stands_still_meanwhile(outage: Outage) -> None:
    desired = {"model": {"value": "x", "weight": 10, "prefer_for": 6}}
    world = World()
    for name, labels in (("warm", {"model": "x"}), ("cold", {})):
        world.join(name, labels, workflows=[one_step(desired_worker_labels=desired)])
    world.trigger("n1")
    world.trigger("n2")
    outage(world)
    world.tell(TimePassed(read_to=world.now))
    effects = world.beat("cold") + world.finish("n1/s/1", "warm")
    assert assigned(effects) == [("n2/s/1", "warm")]


def test_a_second_change_of_leaders_before_all_are_heard_costs_no_more() -> None:
    world = busy(World(), schedule_timeout=8)
    world.join("b", workflows=[one_step("other")])
    taken_over(world)
    world.beat("a", "n1/s/1")
    world.wait(2, "a")
    world.take_over()
    world.beat("a", "n1/s/1")
    world.beat("b")
    assert replies(world.wait(4.9, "a", "b")) == []


def test_an_outage_of_the_broker_is_none_of_the_next_leaders_either() -> None:
    world = busy(World(), schedule_timeout=8)
    world.join("b", workflows=[one_step("other")])
    cut_off(world)
    world.beat("a", "n1/s/1")
    world.take_over()
    world.beat("a", "n1/s/1")
    world.beat("b")
    assert replies(world.wait(4.9, "a", "b")) == []


def test_a_step_that_comes_under_a_rate_limit_before_all_are_heard_has_lost_nothing() -> None:
    limit = RateLimit("k", 1, 10)
    flow = one_step(schedule_timeout=8, rate_limits={"k": 1})
    world = World()
    world.join("a", workflows=[one_step("other"), flow], rate_limits=[limit])
    world.join("b", {"gpu": 1}, workflows=[one_step("user", rate_limits={"k": 1})])
    world.trigger("busy", workflow="other")
    world.start("busy/s/1")
    world.trigger("r", reply="q")
    world.now += 3_000
    world.beat("a", "busy/s/1")
    world.now += 20_000
    world.take_over()
    assert assigned(world.trigger("user", workflow="user")) == [("user/s/1", "b")]
    world.finish("busy/s/1")
    assert world.step("r").limited_since == world.now
    assert assigned(world.trigger("next", workflow="other")) == [("next/s/1", "a")]
    world.start("next/s/1")
    world.beat("b", "user/s/1")
    world.wait(10.5, "a", "b")
    assert world.step("r").limited_since is None, "there is room again, and no worker"
    assert replies(world.wait(4.2, "a", "b")) == []


def test_a_trigger_waits_until_those_that_have_registered_are_heard() -> None:
    world = World()
    world.trigger("r", reply="q")
    world.now += 61_000
    world.take_over()
    assert of(world.tell(TimePassed(read_to=0)), Bury) == []
    assert world.core.to_read == world.now - 1_000
    world.incarnations["a"] = "1"
    event = WorkerRegistered("a", "1", name="a", slots=1, workflows=[one_step()])
    assert assigned(world.tell(event)) == [("r/s/1", "a")]


def test_a_trigger_is_held_for_no_shorter_where_the_broker_was_away_and_nobody_is_known() -> None:
    world = World()
    world.trigger("r", reply="q")
    world.wait(50)
    cut_off(world)
    assert replies(world.wait(9.9)) == []
    assert replies(world.wait(0.2)) == [("q", "failed", "UNKNOWN_WORKFLOW")]


def test_a_trigger_whose_workflow_never_comes_is_given_up_once_all_is_read() -> None:
    world = World()
    world.trigger("r", reply="q")
    world.now += 61_000
    assert replies(world.tell(TimePassed(read_to=world.now - 1_001))) == []
    assert world.core.to_read == world.now - 1_000
    assert replies(world.tell(TimePassed(read_to=world.now - 1_000))) == [
        ("q", "failed", "UNKNOWN_WORKFLOW")
    ]
    assert world.core.to_read is None


def test_a_wake_up_that_means_nothing_any_more_wants_nothing_read() -> None:
    world = World()
    world.join("a", workflows=[one_step(schedule_timeout=8, timeout=3)])
    world.trigger()
    world.start("r/s/1")
    world.finish("r/s/1")
    for _ in range(60):
        world.now += 500
        world.beat("a")
        world.tell(TimePassed(read_to=0))
        assert world.core.to_read is None


def test_a_defect_in_looking_at_a_wake_up_is_that_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(state: State, name: str) -> bool:
        raise ZeroDivisionError

    monkeypatch.setitem(core._FOR_WANT_OF_WORD, "pending", fails)
    world = busy(World(), schedule_timeout=8)
    with pytest.raises(TimerFailed) as caught:
        world.wait(9, "a")
    assert (caught.value.kind, caught.value.name) == ("pending", "n2/s")

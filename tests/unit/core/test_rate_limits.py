"""Rate limits: no window ever has more than the limit, and everybody has a turn."""

from typing import Any

import pytest
from msgspec.structs import replace

from ganger_broker.definitions import RateLimit
from ganger_broker.messages import Outcome
from ganger_dispatcher.core.rates import Rate

from .world import World, assigned, one_step, told

API = RateLimit("api", 3, 60)


def fleet(limit: RateLimit = API, slots: int = 100, **step: Any) -> World:
    world = World()
    flow = one_step(rate_limits={limit.key: 1}, **step)
    world.join(workflows=[flow], slots=slots, rate_limits=[limit])
    return world


def given(world: World, count: int, **fields: Any) -> int:
    """How many of so many triggers are placed at once."""
    before = sum(len(effects) for effects in (world.held_by(),))
    for number in range(count):
        world.trigger(f"r{world.now}-{number}", **fields)
    return len(world.held_by()) - before


def test_no_more_than_the_limit_is_given_in_a_window() -> None:
    world = fleet()
    assert given(world, 5) == 3
    assert assigned(world.wait(59, "a")) == []
    assert len(assigned(world.wait(2, "a"))) == 2
    assert given(world, 5) == 1


def test_what_was_given_counts_until_its_part_has_left_the_window() -> None:
    rate = Rate(RateLimit("api", 2, 60), {})
    rate.take(1, 10_500)
    rate.take(1, 30_000)
    assert rate.room_at(1, 30_001) == 71_000
    assert rate.room_at(1, 70_999) == 71_000
    assert rate.room_at(1, 71_000) == 71_000
    assert rate.room_at(2, 71_000) == 91_000
    assert rate.room_at(2, 91_000) == 91_000


@pytest.mark.parametrize(("limit", "seconds"), [(7, 1), (30, 60), (1000, 86_400)])
def test_whatever_comes_when_the_limit_holds(limit: int, seconds: int) -> None:
    rate = Rate(RateLimit("api", limit, seconds), {})
    now, given_at = 1_000, []
    for step in range(3 * limit):
        units = 1 + step % 3
        now = rate.room_at(units, now) + step % 7
        rate.take(units, now)
        given_at += [now] * units
    for first, beyond in zip(given_at, given_at[limit:], strict=False):
        assert beyond - first >= seconds * 1000


def test_a_blocked_step_is_explained_by_name() -> None:
    world = fleet(RateLimit("api", 1, 60))
    world.trigger("first")
    world.trigger()
    step = world.step()
    assert (step.status, step.waits_for) == ("pending", "rate limit 'api': 1 per 60 s")
    world.wait(61, "a")
    step = world.step()
    assert (step.status, step.waits_for) == ("assigned", None)


def test_it_waits_for_its_turn_and_high_priority_goes_first() -> None:
    world = fleet(RateLimit("api", 1, 10))
    for run_id, priority in [("first", 1), ("low", 1), ("high", 3), ("second", 1)]:
        world.trigger(run_id, priority=priority)
    effects = world.wait(35, "a")
    assert [attempt for attempt, _ in assigned(effects)] == ["high/s/1", "low/s/1", "second/s/1"]


def test_a_step_that_needs_fewer_units_does_not_overtake() -> None:
    world = World()
    flows = [
        one_step("big", rate_limits={"api": 3}),
        one_step("small", rate_limits={"api": 1}),
    ]
    world.join(workflows=flows, slots=9, rate_limits=[API])
    world.trigger("one", "small")
    world.trigger("three", "big")
    assert assigned(world.trigger("late", "small")) == []
    assert [a for a, _ in assigned(world.wait(61.5, "a"))] == ["three/s/1"]


def test_steps_without_the_limit_are_not_held_up() -> None:
    world = World()
    flows = [one_step("w", rate_limits={"api": 1}), one_step("free")]
    world.join(workflows=flows, slots=9, rate_limits=[RateLimit("api", 1, 60)])
    world.trigger("first")
    world.trigger("waits")
    assert assigned(world.trigger("goes", "free")) == [("goes/s/1", "a")]


def test_a_step_that_waited_for_a_worker_takes_its_units_when_it_gets_one() -> None:
    world = fleet(RateLimit("api", 1, 60), slots=1)
    world.join("b", workflows=[one_step("other")])
    world.trigger("first")
    world.trigger("second")
    world.wait(61, "a", "b")
    assert world.step("second").waits_for is None  # now it waits for a slot
    assert assigned(world.finish("first/s/1")) == [("second/s/1", "a")]
    assert assigned(world.trigger("third")) == []
    assert world.step("third").waits_for is None
    assert assigned(world.finish("second/s/1")) == []
    assert world.step("third").waits_for == "rate limit 'api': 1 per 60 s"


def test_a_step_that_nobody_can_take_holds_up_nobody() -> None:
    world = World()
    flows = [
        one_step("stuck", rate_limits={"api": 2}, desired_worker_labels={"x": 1}),
        one_step("w", rate_limits={"api": 1}),
    ]
    world.join(workflows=flows, slots=9, rate_limits=[RateLimit("api", 2, 60)])
    assert assigned(world.trigger("first")) == [("first/s/1", "a")]
    assert assigned(world.trigger("stuck", "stuck")) == []
    assert world.step("stuck").waits_for is None  # it waits for a worker with x = 1
    assert assigned(world.trigger("second")) == [("second/s/1", "a")]


def test_one_wake_up_does_for_all_that_wait() -> None:
    world = fleet(RateLimit("api", 1, 60))
    for number in range(100):
        world.trigger(f"r{number}")
    kinds = [timer.kind for timer in world.core.state._timers]
    assert kinds.count("rate") == 1


def test_a_freed_slot_is_not_kept_from_others_by_a_blocked_step() -> None:
    world = World()
    flows = [one_step("w", rate_limits={"api": 1}), one_step("free")]
    world.join(workflows=flows, rate_limits=[RateLimit("api", 1, 60)])
    world.trigger("busy", "free")
    world.trigger("one")
    world.trigger("two")
    world.trigger("goes", "free")
    assert assigned(world.finish("busy/s/1")) == [("one/s/1", "a")]
    assert assigned(world.finish("one/s/1")) == [("goes/s/1", "a")]
    assert world.step("two").waits_for is not None


def test_with_required_labels_and_a_worker_lost_each_attempt_takes_units() -> None:
    world = World()
    flow = one_step(rate_limits={"api": 1}, desired_worker_labels={"gpu": 1}, retries=1)
    limit = RateLimit("api", 2, 60)
    world.join("a", {"gpu": 1}, workflows=[flow], rate_limits=[limit])
    world.join("b", {"gpu": 2}, workflows=[flow], rate_limits=[limit])
    assert assigned(world.trigger()) == [("r/s/1", "a")]
    world.join("c", {"gpu": 1}, workflows=[flow], rate_limits=[limit])
    assert assigned(world.leave("a")) == [("r/s/2", "c")]
    assert assigned(world.finish("r/s/2", "c", Outcome.FAILED)) == []
    assert world.step().waits_for == "rate limit 'api': 2 per 60 s"
    assert assigned(world.wait(61, "b", "c")) == [("r/s/3", "c")]


def test_a_cancellation_reaches_it() -> None:
    world = fleet(RateLimit("api", 1, 3600))
    world.trigger("first")
    world.trigger()
    world.cancel()
    assert world.status() == "cancelled"
    assert world.core.state.limited == {}
    assert world.stored.pending == {}


def test_while_it_waits_for_a_limit_its_schedule_time_out_does_not_run() -> None:
    limit = RateLimit("api", 1, 60)
    flow = one_step(rate_limits={"api": 1}, schedule_timeout=10, desired_worker_labels={"gpu": 1})
    world = World()
    world.join("a", {"gpu": 1}, workflows=[flow], slots=9, rate_limits=[limit])
    world.join("b", workflows=[flow], slots=9, rate_limits=[limit])
    world.trigger("first")
    world.wait(30, "a", "b")
    world.trigger()
    world.wait(25, "a", "b")
    assert world.step().waits_for == "rate limit 'api': 1 per 60 s"
    world.take_over()
    world.leave("a")  # the only worker with what it requires
    world.wait(6, "b")
    assert (world.step().status, world.step().waits_for) == ("pending", None)
    effects = world.wait(9, "b")
    assert world.step().status == "pending"
    effects = world.wait(2, "b")
    error = world.step().error
    assert error is not None
    assert (error.reason, error.message) == (
        "SCHEDULING_TIMED_OUT",
        "no worker could take it within 10 s",
    )
    assert assigned(effects) == []


def test_a_limit_that_never_has_room_is_named_when_the_schedule_time_out_ends_it() -> None:
    world = World()
    flow = one_step(rate_limits={"api": 2}, schedule_timeout=100)
    world.join("a", workflows=[flow], slots=9, rate_limits=[RateLimit("api", 2, 60)])
    world.trigger("first")
    world.trigger()
    world.wait(30, "a")
    world.join("b", workflows=[one_step("other")], rate_limits=[RateLimit("api", 1, 60)])
    world.wait(99, "a", "b")
    assert world.step().status == "pending"
    world.wait(2, "a", "b")
    error = world.step().error
    assert error is not None
    assert error.reason == "SCHEDULING_TIMED_OUT"
    assert error.message == "there was no room for it within 100 s: rate limit 'api': 1 per 60 s"


def test_the_next_leader_goes_on_counting() -> None:
    world = fleet()
    assert given(world, 5) == 3
    world.wait(30, "a")
    assert assigned(world.take_over())[3:] == []
    assert len(world.held_by()) == 3
    assert len(assigned(world.wait(31, "a"))) == 2


def test_a_new_limit_counts_at_once_with_what_was_given() -> None:
    world = fleet()
    assert given(world, 6) == 3
    flow = one_step(rate_limits={"api": 1})
    effects = world.join("b", workflows=[flow], slots=9, rate_limits=[RateLimit("api", 5, 60)])
    assert len(assigned(effects)) == 2
    assert len(world.core.state.limited) == 1


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"none": 1}, "rate_limits: there is no rate limit 'none'; declare it first"),
        ({"api": 4}, "rate_limits.api: 4 is more than its limit, 3"),
    ],
)
def test_units_that_can_never_be_had_are_refused(units: dict[str, int], said: str) -> None:
    world = World()
    effects = world.join(workflows=[one_step(rate_limits=units)], rate_limits=[API])
    [(_, refused)] = told(effects)
    assert refused.reason == f"workflow 'w': step 's': {said}"


def test_a_limit_that_was_lowered_below_what_a_step_takes_is_not_overrun() -> None:
    world = World()
    flow = one_step(rate_limits={"api": 10})
    world.join("a", workflows=[flow], rate_limits=[RateLimit("api", 10, 60)])
    world.join("b", workflows=[one_step("other")], rate_limits=[RateLimit("api", 2, 60)])
    assert assigned(world.trigger()) == []
    assert world.step().waits_for == "rate limit 'api': 2 per 60 s"
    assert assigned(world.wait(200, "a", "b")) == []
    raised = world.join("c", workflows=[one_step("other")], rate_limits=[RateLimit("api", 10, 60)])
    assert assigned(raised) == [("r/s/1", "a")]


# ── several limits ────────────────────────────────────────────────────────────────────


def crowded(limits: list[RateLimit], big: dict[str, int], *small: dict[str, int]) -> float:
    """Seconds that a step which takes ``big`` waits, while others come all the time."""
    world = World()
    flows = [one_step("big", rate_limits=big)]
    flows += [one_step(f"small{n}", rate_limits=units) for n, units in enumerate(small)]
    world.join("a", workflows=flows, slots=1000, rate_limits=limits)
    for number in range(40):  # what is asked for before has its turn before
        for n in range(len(small)):
            world.trigger(f"before-{number}-{n}", f"small{n}")
        world.wait(0.5, "a")
    world.trigger("r", "big", priority=3)
    asked_at = world.now
    while world.step().waits_for is not None and world.now < asked_at + 3_600_000:
        for n in range(len(small)):
            world.trigger(f"{world.now}-{n}", f"small{n}")
        world.wait(5, "a")
    return (world.now - asked_at) / 1000


SECOND, MINUTE = RateLimit("a", 1, 1), RateLimit("b", 2, 60)


def test_who_has_its_turn_in_one_limit_does_not_overtake_in_another() -> None:
    world = World()
    flows = [
        one_step("w", rate_limits={"b": 2}),
        one_step("both", rate_limits={"a": 1, "b": 1}),
        one_step("fast", rate_limits={"a": 1}),
    ]
    world.join("a", workflows=flows, slots=9, rate_limits=[SECOND, MINUTE])
    world.trigger("both1", "both")
    world.wait(30, "a")
    world.trigger("both2", "both")
    world.wait(2, "a")
    world.trigger()
    world.wait(28, "a")
    for number in range(2):
        world.trigger(f"fast{number}", "fast")
    world.trigger("late", "both")  # has its turn in the one limit when there is room in both
    world.wait(4, "a")
    assert world.step("late").waits_for == "rate limit 'b': 2 per 60 s"
    assert assigned(world.wait(30, "a")) == [("r/s/1", "a")]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_step_of_several_limits_is_not_starved_by_those_of_one(names: str) -> None:
    big = {name: {"a": 1, "b": 2}[name] for name in names}
    assert crowded([SECOND, MINUTE], big, {"a": 1}, {"b": 1}, {"b": 1, "a": 1}) <= 70
    assert crowded([SECOND, replace(MINUTE, per=1)], big, {"a": 1}, {"b": 1}) <= 70


def test_of_two_limits_the_slower_one_keeps_room_for_who_is_first_in_the_faster() -> None:
    world = World()
    flows = [
        one_step("w", rate_limits={"a": 1, "b": 1}),
        one_step("fast", rate_limits={"a": 1}),
        one_step("slow", rate_limits={"b": 1}),
    ]
    limits = [SECOND, replace(MINUTE, limit=1)]
    world.join("a", workflows=flows, slots=9, rate_limits=limits)
    world.trigger("first", "fast")
    world.trigger()
    assert world.step().waits_for == "rate limit 'a': 1 per 1 s"
    world.now += 1
    assert assigned(world.trigger("later", "slow")) == []
    assert world.step("later").waits_for == "rate limit 'b': 1 per 60 s"
    assert assigned(world.wait(1.1, "a")) == [("r/s/1", "a")]
    assert assigned(world.trigger("r2")) == []
    world.wait(2, "a")
    assert world.step("r2").waits_for == "rate limit 'b': 1 per 60 s"
    assert assigned(world.trigger("fast2", "fast")) == [
        ("fast2/s/1", "a")
    ]  # it does not stand still
    assert [each for each, _ in assigned(world.wait(130, "a"))] == ["later/s/1", "r2/s/1"]


def test_no_room_is_kept_for_what_can_never_go() -> None:
    world = World()
    flows = [one_step("w", rate_limits={"a": 2, "b": 1}), one_step("slow", rate_limits={"b": 1})]
    world.join("a", workflows=flows, rate_limits=[replace(SECOND, limit=2), MINUTE], slots=9)
    world.join("b", workflows=[one_step("other")], rate_limits=[SECOND])
    world.trigger()
    world.now += 1
    for number in range(2):
        assert len(assigned(world.trigger(f"slow{number}", "slow"))) == 1

"""Preferences with patience: how long a step waits for the worker it prefers, and when not."""

from typing import Any

from ganger_broker.definitions import RateLimit, StickyStrategy
from ganger_broker.labels import Requirement, parse_desired
from ganger_dispatcher.core.patience import plain, stages

from .world import World, assigned, one_step

WARM = {"model": {"value": "x", "weight": 10, "prefer_for": "2s"}}


def fleet(desired: dict[str, Any] = WARM, **fields: Any) -> World:
    """``warm`` has the model and one slot, which is taken; ``cold`` has not, and is free."""
    world = World()
    flow = one_step(desired_worker_labels=desired, **fields)
    world.join("warm", {"model": "x"}, workflows=[flow])
    assert assigned(world.trigger("first")) == [("first/s/1", "warm")]
    world.join("cold", {"model": "y"}, workflows=[flow], slots=2)
    return world


# ── waiting ───────────────────────────────────────────────────────────────────────────


def test_it_waits_for_the_worker_it_prefers_while_that_one_is_merely_busy() -> None:
    world = fleet()
    assert assigned(world.trigger()) == []
    world.wait(1.9, "warm", "cold")
    assert world.step().status == "pending"
    assert assigned(world.finish("first/s/1", "warm")) == [("r/s/1", "warm")]
    assert world.core.state.patient == {}


def test_after_that_it_takes_a_lesser_worker() -> None:
    world = fleet()
    world.trigger()
    assert assigned(world.wait(1.999, "warm", "cold")) == []
    assert assigned(world.wait(0.001, "warm", "cold")) == [("r/s/1", "cold")]


def test_after_that_it_still_prefers_it() -> None:
    world = fleet()
    world.trigger("other", desired_worker_labels={"model": "y"})
    world.trigger("another", desired_worker_labels={"model": "y"})
    world.trigger()
    world.wait(3, "warm", "cold")
    assert world.step().status == "pending"
    assert assigned(world.finish("first/s/1", "warm")) == [("r/s/1", "warm")]


def test_its_patience_begins_when_a_rate_limit_lets_it_go() -> None:
    world = World()
    flow = one_step(desired_worker_labels=WARM, rate_limits={"api": 1}, schedule_timeout=30)
    limits = [RateLimit("api", 1, 60)]
    world.join("warm", {"model": "x"}, workflows=[flow], rate_limits=limits)
    world.join("cold", {"model": "y"}, workflows=[flow], rate_limits=limits, slots=2)
    assert assigned(world.trigger("first")) == [("first/s/1", "warm")]
    world.trigger()
    assert assigned(world.wait(60, "warm", "cold")) == []
    assert world.step().waits_for == "rate limit 'api': 1 per 60 s"
    world.wait(1.5, "warm", "cold")
    assert (world.step().waits_for, world.step().status) == (None, "pending")
    world.take_over()
    assert assigned(world.finish("first/s/1", "warm")) == [("r/s/1", "warm")]


def test_after_a_rate_limit_it_is_patient_for_no_longer_than_before() -> None:
    world = World()
    flow = one_step(desired_worker_labels=WARM, rate_limits={"api": 1})
    limits = [RateLimit("api", 1, 60)]
    world.join("warm", {"model": "x"}, workflows=[flow], rate_limits=limits)
    world.join("cold", {"model": "y"}, workflows=[flow], rate_limits=limits)
    world.trigger("first")
    world.trigger()
    assert assigned(world.wait(61, "warm", "cold")) == []
    assert assigned(world.wait(3, "warm", "cold")) == [("r/s/1", "cold")]


def test_what_it_was_patient_for_counts_each_time_a_rate_limit_holds_it() -> None:
    wish = {"model": {"value": "x", "weight": 10, "prefer_for": "30s"}}
    flow = one_step(desired_worker_labels=wish, rate_limits={"api": 1})
    younger = one_step("younger", rate_limits={"api": 1})
    limits = [RateLimit("api", 1, 60)]
    world = World()
    world.join("cold", workflows=[flow, younger], rate_limits=limits, slots=9)
    world.join("warm", {"model": "x"}, workflows=[flow], rate_limits=limits)
    world.trigger("first")
    world.trigger()
    world.now += 1
    for number in range(3):
        world.trigger(f"younger{number}", "younger")
    assert assigned(world.wait(62, "warm", "cold")) == [("younger0/s/1", "cold")]
    world.wait(30, "warm", "cold")  # its patience is over, and the limit has no room
    assert world.step().waits_for is not None
    assert assigned(world.wait(32, "warm", "cold")) == [("r/s/1", "cold")]


def test_it_does_not_wait_where_nobody_meets_it() -> None:
    world = World()
    world.join("cold", workflows=[one_step(desired_worker_labels=WARM)])
    assert assigned(world.trigger()) == [("r/s/1", "cold")]


def test_it_does_not_wait_when_the_one_is_free() -> None:
    world = fleet()
    world.finish("first/s/1", "warm")
    assert assigned(world.trigger()) == [("r/s/1", "warm")]


def test_a_worker_that_takes_no_steps_is_not_waited_for() -> None:
    world = fleet()
    world.drain("warm")
    assert assigned(world.trigger()) == [("r/s/1", "cold")]


# ── the reason to wait goes away ──────────────────────────────────────────────────────


def test_it_waits_no_more_when_the_worker_loses_the_label() -> None:
    world = fleet()
    world.trigger()
    assert assigned(world.label(1, {"model": "z"}, worker="warm")) == [("r/s/1", "cold")]


def test_it_waits_no_more_when_the_worker_drains_leaves_or_is_lost() -> None:
    for end in (lambda w: w.drain("warm"), lambda w: w.leave("warm")):
        world = fleet(timeout=1000)
        world.trigger("r", priority=3)
        assert ("r/s/1", "cold") in assigned(end(world))
    desired = {"model": {"value": "x", "weight": 1, "prefer_for": "1h"}}
    world = fleet(desired)
    world.trigger("r", priority=3)
    assert ("r/s/1", "cold") in assigned(world.wait(11, "cold"))


def test_a_worker_that_comes_is_taken_at_once() -> None:
    world = fleet()
    world.trigger()
    flow = one_step(desired_worker_labels=WARM)
    assert assigned(world.join("new", {"model": "x"}, workflows=[flow])) == [("r/s/1", "new")]


# ── with everything else ──────────────────────────────────────────────────────────────


def test_required_labels_always_count() -> None:
    desired = {**WARM, "zone": "eu"}
    flow = one_step(desired_worker_labels=desired)
    world = World()
    world.join("elsewhere", {"model": "x", "zone": "us"}, workflows=[flow])
    world.join("cold", {"zone": "eu"}, workflows=[flow])
    # one that is warm and must not take it is nobody to wait for
    assert assigned(world.trigger()) == [("r/s/1", "cold")]


def test_patience_goes_on_with_the_next_leader() -> None:
    world = fleet()
    world.trigger()
    world.wait(1, "warm", "cold")
    world.take_over()
    world.beat("warm", *world.held_by("warm"))
    world.beat("cold", *world.held_by("cold"))
    assert assigned(world.wait(0.9, "warm", "cold")) == []
    assert assigned(world.wait(0.1, "warm", "cold")) == [("r/s/1", "cold")]


def test_a_cancelled_step_waits_for_nothing() -> None:
    world = fleet()
    world.trigger()
    world.cancel()
    assert world.core.state.patient == {}
    assert assigned(world.wait(3, "warm", "cold")) == []


def test_a_schedule_time_out_is_none_the_later_for_it() -> None:
    desired = {"model": {"value": "x", "weight": 1, "prefer_for": "1h"}}
    world = fleet(desired, schedule_timeout=5)
    world.trigger()
    world.wait(5, "warm", "cold")
    assert world.step().status == "cancelled"
    assert world.core.state.patient == {}


def test_a_hard_pinned_run_has_one_worker_and_no_choice() -> None:
    world = World()
    flow = one_step(desired_worker_labels=WARM)
    flow.sticky = StickyStrategy.HARD
    world.join("warm", {"model": "x"}, workflows=[flow])
    world.join("cold", workflows=[flow])
    assert assigned(world.trigger("first")) == [("first/s/1", "warm")]
    assert assigned(world.trigger("r", sticky_to="cold")) == [("r/s/1", "cold")]


def test_stages_ask_for_less_and_less() -> None:
    desired = {
        "a": {"value": 1, "prefer_for": 2},
        "b": {"value": 1, "prefer_for": 5, "weight": 7},
        "c": {"value": 1, "weight": 3},
        "d": 1,
    }
    conditions = [c for group in parse_desired(desired).values() for c in group]
    requirement = Requirement.of("w:s", conditions)

    def required(what: Requirement) -> str:
        return "".join(c.key for c in what.conditions if c.required)

    (first, one), (second, two) = stages(requirement)
    assert (first, required(one)) == (2000, "abd")
    assert (second, required(two)) == (5000, "bd")
    assert required(plain(requirement)) == "d"
    without = {
        key: {k: v for k, v in wish.items() if k != "prefer_for"}
        if isinstance(wish, dict)
        else wish
        for key, wish in desired.items()
    }
    without["a"] = {"value": 1, "required": False}
    same = [c for group in parse_desired(without).values() for c in group]
    assert plain(requirement) == Requirement.of("w:s", same)
    assert stages(plain(requirement)) == ()


def test_it_waits_no_more_when_another_label_is_coming_to_the_one_it_waits_for() -> None:
    wants = {"model": {"value": "y", "weight": 10, "prefer_for": 600}, "zone": "eu"}
    flows = [
        one_step("patient", desired_worker_labels=wants, schedule_timeout=3600),
        one_step("loads", sets_labels={"model": "x"}, desired_worker_labels={"gpu": 1}),
        one_step("busy", desired_worker_labels={"gpu": 1}),
    ]
    world = World()
    world.join("warm", {"model": "y", "gpu": 1, "zone": "eu"}, workflows=flows)
    world.trigger("busy", "busy")
    world.join("cold", {"model": "z", "gpu": 0, "zone": "eu"}, workflows=flows)
    world.join("elsewhere", {"model": "z", "gpu": 0, "zone": "us"}, workflows=flows)
    assert assigned(world.trigger("p", "patient")) == []
    assert assigned(world.trigger("loads", "loads", priority=3)) == []
    effects = world.finish("busy/s/1", "warm")
    assert assigned(effects) == [("loads/s/1", "warm"), ("p/s/1", "cold")]

"""Runs that stay with a worker, soft and hard; labels count in any case."""

from typing import Any

from ganger_broker.definitions import (
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
)
from ganger_broker.messages import Outcome
from ganger_dispatcher.core.effects import Effect

from .world import World, assigned, one_step, replies

SOFT, HARD = StickyStrategy.SOFT, StickyStrategy.HARD
GPU = {"gpu": "yes"}


def chain(sticky: StickyStrategy, **fields: Any) -> WorkflowDefinition:
    """``a`` → ``b`` → ``c``; ``c`` needs a GPU."""
    steps = [
        StepDefinition("a"),
        StepDefinition("b", parents=["a"], retries=1),
        StepDefinition("c", parents=["b"], desired_worker_labels=GPU),
    ]
    return WorkflowDefinition("w", steps, sticky=sticky, **fields)


def fleet(sticky: StickyStrategy, slots: int = 1, **fields: Any) -> World:
    """Workers ``one`` and ``two``, both with a GPU."""
    world = World()
    for name in ("one", "two"):
        world.join(name, GPU, workflows=[chain(sticky, **fields)], slots=slots)
    return world


def where(effects: list[Effect]) -> str:
    [(_, worker)] = assigned(effects)
    return worker


# ── soft ──────────────────────────────────────────────────────────────────────────────


def test_soft_prefers_the_worker_of_the_step_before() -> None:
    world = fleet(SOFT)
    first = where(world.trigger())
    # the other one has been idle for longer, and would be chosen
    assert where(world.finish("r/a/1", first)) == first
    assert where(world.finish("r/b/1", first)) == first


def test_soft_takes_another_worker_when_that_one_is_full() -> None:
    world = fleet(SOFT)
    assert where(world.trigger("r")) == "one"
    assert where(world.trigger("other")) == "two"
    world.trigger("third")
    # the slot of ``one`` goes to the run that waits, before its own next step is ready
    assert assigned(world.finish("r/a/1", "one")) == [("third/a/1", "one")]
    assert assigned(world.finish("other/a/1", "two")) == [("r/b/1", "two")]
    assert where(world.finish("r/b/1", "two")) == "two"


def test_soft_takes_another_worker_when_that_one_lacks_a_required_label() -> None:
    world = World()
    world.join("plain", workflows=[chain(SOFT)], slots=2)
    world.join("gpu", GPU, workflows=[chain(SOFT)], slots=2)
    first = where(world.trigger())
    assert first == "plain"
    assert where(world.finish("r/a/1", "plain")) == "plain"
    assert where(world.finish("r/b/1", "plain")) == "gpu"


def test_soft_prefers_it_to_one_of_more_weight() -> None:
    flow = chain(SOFT)
    flow.steps[1].desired_worker_labels = {"model": {"value": "x", "weight": 100}}
    world = World()
    world.join("one", GPU, workflows=[flow])
    assert where(world.trigger()) == "one"
    world.join("warm", {"model": "x", **GPU}, workflows=[flow])
    assert where(world.finish("r/a/1", "one")) == "one"


def between_near_and_warm() -> World:
    """``near`` runs the first step of ``r``; the second prefers ``warm``, which is busy."""
    steps = [
        StepDefinition("a", desired_worker_labels={"zone": 1}),
        StepDefinition("b", parents=["a"]),
    ]
    steps[1].desired_worker_labels = {"model": {"value": "x", "prefer_for": "1m"}}
    flow = WorkflowDefinition("w", steps, sticky=SOFT)
    world = World()
    world.join("warm", {"model": "x"}, workflows=[flow, one_step("other")])
    world.trigger("busy", "other")
    world.join("near", {"zone": 1}, workflows=[flow])
    world.trigger()
    return world


def test_soft_goes_before_patience() -> None:
    world = between_near_and_warm()
    assert where(world.finish("r/a/1", "near")) == "near"


def test_soft_waits_with_patience_where_the_worker_before_is_full() -> None:
    world = between_near_and_warm()
    world.trigger("next")
    assert where(world.finish("r/a/1", "near")) == "near"
    assert world.step("r", "b").status == "pending"
    assert assigned(world.finish("busy/s/1", "warm")) == [("r/b/1", "warm")]


def test_soft_follows_the_parent_that_ended_last() -> None:
    steps = [StepDefinition("a"), StepDefinition("b"), StepDefinition("c", parents=["a", "b"])]
    world = World()
    for name in ("one", "two"):
        world.join(name, workflows=[WorkflowDefinition("w", steps, sticky=SOFT)])
    assert assigned(world.trigger()) == [("r/a/1", "one"), ("r/b/1", "two")]
    world.now += 1
    world.finish("r/b/1", "two")
    world.now += 1
    assert where(world.finish("r/a/1", "one")) == "one"


# ── hard ──────────────────────────────────────────────────────────────────────────────


def test_hard_stays_with_the_first_worker_and_waits_for_it() -> None:
    world = fleet(HARD)
    assert where(world.trigger("r")) == "one"
    assert world.stored.headers["r"].pinned == "one"
    assert where(world.trigger("other")) == "two"
    world.trigger("third")
    assert assigned(world.finish("r/a/1", "one")) == [("third/a/1", "one")]
    assert assigned(world.finish("other/a/1", "two")) == [("other/b/1", "two")]
    assert world.step("r", "b").status == "pending"
    # its turn is before that of the step of ``third`` that becomes ready now
    assert assigned(world.finish("third/a/1", "one")) == [("r/b/1", "one")]


def test_hard_does_not_switch_labels_off() -> None:
    world = World()
    world.join("plain", workflows=[chain(HARD)])
    world.trigger()
    world.finish("r/a/1", "plain")
    world.join("gpu", GPU, workflows=[chain(HARD)])
    assert assigned(world.finish("r/b/1", "plain")) == []
    assert world.step("r", "c").status == "pending"
    assert assigned(world.label(1, GPU, worker="plain")) == [("r/c/1", "plain")]


def test_hard_lets_the_labels_of_the_first_step_choose() -> None:
    world = fleet(HARD)
    world.label(1, {"zone": "eu"}, worker="two")
    assert where(world.trigger(desired_worker_labels={"zone": "eu"})) == "two"
    assert where(world.finish("r/a/1", "two")) == "two"


def test_hard_retries_on_the_same_worker() -> None:
    world = fleet(HARD, slots=2)
    world.trigger()
    world.finish("r/a/1", "one")
    assert where(world.finish("r/b/1", "one", Outcome.FAILED)) == "one"


def test_hard_survives_a_take_over() -> None:
    world = fleet(HARD, slots=2)
    world.trigger()
    world.take_over()
    assert where(world.finish("r/a/1", "one")) == "one"


# ── its worker is lost ────────────────────────────────────────────────────────────────


def test_a_run_whose_worker_is_lost_waits_for_it_until_its_schedule_time_out() -> None:
    world = fleet(HARD)
    world.trigger(reply="q")
    effects = world.wait(11, "two")
    assert assigned(effects) == []
    assert world.step("r", "a").status == "pending"
    effects = world.wait(300, "two")
    assert replies(effects) == [("q", "cancelled", "SCHEDULING_TIMED_OUT")]
    error = world.stored.headers["r"].error
    assert error is not None
    assert error.message.endswith("its run is sticky (HARD) and pinned to one, which is lost")


def test_a_worker_that_comes_back_under_its_id_gets_its_runs() -> None:
    world = fleet(HARD)
    world.trigger()
    world.wait(11, "two")
    effects = world.join("one", GPU, workflows=[chain(HARD)], incarnation="2")
    assert assigned(effects) == [("r/a/2", "one")]


def test_repin_takes_another_eligible_worker_and_stays_there() -> None:
    world = fleet(HARD, slots=2, sticky_on_loss=StickyOnLoss.REPIN)
    world.trigger()
    effects = world.wait(11, "two")
    assert assigned(effects) == [("r/a/2", "two")]
    assert world.stored.headers["r"].pinned == "two"
    world.join("one", GPU, workflows=[chain(HARD, sticky_on_loss=StickyOnLoss.REPIN)], slots=2)
    assert where(world.finish("r/a/2", "two")) == "two"


def test_repin_moves_steps_that_were_waiting_for_the_worker() -> None:
    flow = chain(HARD, sticky_on_loss=StickyOnLoss.REPIN)
    world = World()
    world.join("one", GPU, workflows=[flow])
    world.trigger("r")
    world.trigger("next", priority=3)
    world.finish("r/a/1", "one")
    assert world.step("r", "b").status == "pending"
    world.join("two", GPU, workflows=[flow])
    assert assigned(world.leave("one")) == [("next/a/2", "two")]
    assert world.stored.headers["r"].pinned is None
    assert assigned(world.finish("next/a/2", "two")) == [("next/b/1", "two")]
    assert assigned(world.finish("next/b/1", "two")) == [("next/c/1", "two")]
    assert assigned(world.finish("next/c/1", "two")) == [("r/b/1", "two")]
    assert {world.stored.headers[run].pinned for run in ("r", "next")} == {"two"}


def test_repin_looks_at_labels_too() -> None:
    flow = chain(HARD, sticky_on_loss=StickyOnLoss.REPIN)
    world = World()
    world.join("one", GPU, workflows=[flow], slots=2)
    world.trigger()
    world.finish("r/a/1", "one")
    world.finish("r/b/1", "one")
    world.join("plain", workflows=[flow], slots=2)
    assert assigned(world.leave("one")) == []
    assert world.stored.headers["r"].pinned is None
    world.take_over()
    assert assigned(world.join("gpu", GPU, workflows=[flow])) == [("r/c/2", "gpu")]


def test_repin_lets_the_labels_of_the_first_step_choose_again() -> None:
    steps = [
        StepDefinition("a", desired_worker_labels=GPU),
        StepDefinition("b", parents=["a"]),
        StepDefinition("c", parents=["b"], desired_worker_labels={"disk": 1}),
    ]
    flow = WorkflowDefinition("w", steps, sticky=HARD, sticky_on_loss=StickyOnLoss.REPIN)
    world = World()
    world.join("one", GPU, workflows=[flow])
    world.join("plain", {"disk": 1}, workflows=[flow], slots=9)
    world.trigger()
    world.finish("r/a/1", "one")
    assert assigned(world.leave("one")) == []
    wish = {"value": "yes", "comparator": "EQUAL", "required": True}
    assert world.stored.headers["r"].pin_desires == {"gpu": wish}
    world.take_over()
    assert assigned(world.join("gpu", {**GPU, "disk": 1}, workflows=[flow])) == [("r/b/2", "gpu")]
    assert where(world.finish("r/b/2", "gpu")) == "gpu"


def test_repin_minds_a_trigger_s_labels_and_all_steps_that_may_begin_the_run() -> None:
    flow = roots(sticky_on_loss=StickyOnLoss.REPIN)
    world = World()
    world.join("one", {**GPU, "zone": 1}, workflows=[flow], slots=3)
    world.trigger(desired_worker_labels={"zone": 1})
    world.join("no-gpu", {"zone": 1}, workflows=[flow], slots=3)
    world.join("no-zone", GPU, workflows=[flow], slots=3)
    assert assigned(world.leave("one")) == []
    effects = world.join("fit", {**GPU, "zone": 1}, workflows=[flow], slots=3)
    assert {worker for _, worker in assigned(effects)} == {"fit"}


def test_repin_bears_with_more_conditions_than_one_step_may_have() -> None:
    wish = [{"value": -n, "comparator": "GREATER_THAN"} for n in range(1, 41)]
    more = [{"value": n, "comparator": "LESS_THAN"} for n in range(100, 140)]
    steps = [StepDefinition("a"), StepDefinition("b")]
    steps[0].desired_worker_labels, steps[1].desired_worker_labels = {"m": wish}, {"m": more}
    flow = WorkflowDefinition("w", steps, sticky=HARD, sticky_on_loss=StickyOnLoss.REPIN)
    world = World()
    world.join("one", {"m": 1}, workflows=[flow], slots=2)
    world.trigger()
    world.join("two", {"m": 1}, workflows=[flow], slots=2)
    assert sorted(assigned(world.wait(11, "two"))) == [("r/a/2", "two"), ("r/b/2", "two")]


# ── several steps that may begin the run ──────────────────────────────────────────────


def roots(**fields: Any) -> WorkflowDefinition:
    """``a``, ``b`` and ``c`` at once, ``c`` on a GPU; all on one worker."""
    steps = [StepDefinition("a"), StepDefinition("b"), StepDefinition("c")]
    steps[2].desired_worker_labels = GPU
    return WorkflowDefinition("w", steps, sticky=HARD, **fields)


def waiting(**fields: Any) -> World:
    """Run ``r`` waits for a worker with all of its steps."""
    world = World()
    world.join("full", workflows=[roots(**fields)])
    world.drain("full")
    world.trigger()
    return world


def test_hard_steps_that_wait_together_go_to_one_worker() -> None:
    world = waiting()
    assert assigned(world.join("one", GPU, workflows=[roots()])) == [("r/a/1", "one")]
    assert assigned(world.join("two", GPU, workflows=[roots()], slots=3)) == []
    assert assigned(world.finish("r/a/1", "one")) == [("r/b/1", "one")]
    world.take_over()
    assert assigned(world.finish("r/b/1", "one")) == [("r/c/1", "one")]


def test_hard_steps_that_wait_together_wait_for_their_labels_on_that_worker() -> None:
    world = waiting()
    taken = assigned(world.join("plain", workflows=[roots()], slots=3))
    assert taken == [("r/a/1", "plain"), ("r/b/1", "plain")]
    assert assigned(world.join("gpu", GPU, workflows=[roots()], slots=3)) == []
    assert assigned(world.label(1, GPU, worker="plain")) == [("r/c/1", "plain")]


def test_hard_steps_that_follow_the_first_one_keep_their_turn() -> None:
    world = waiting()
    world.now += 1
    world.trigger("urgent", priority=3)
    taken = assigned(world.join("one", GPU, workflows=[roots()], slots=4))
    assert taken == [(f"urgent/{name}/1", "one") for name in "abc"] + [("r/a/1", "one")]


def test_a_step_whose_patience_is_over_takes_those_along_that_have_some_left() -> None:
    flow = roots()
    for step, patience in zip(flow.steps, (4, 8, 8), strict=True):
        warm = {"value": "x", "weight": 1, "prefer_for": patience}
        step.desired_worker_labels = {**step.desired_worker_labels, "model": warm}
    world = World()
    world.join("warm", {"model": "x"}, workflows=[flow, one_step("other")])
    world.trigger("busy", "other")
    world.join("two", workflows=[flow], slots=4)
    assert assigned(world.trigger()) == []
    assert assigned(world.wait(4, "warm", "two")) == [("r/a/1", "two"), ("r/b/1", "two")]
    assert assigned(world.finish("busy/s/1", "warm")) == []
    assert assigned(world.label(1, GPU, worker="two")) == [("r/c/1", "two")]


def test_repin_takes_all_branches_to_one_worker() -> None:
    repin = roots(sticky_on_loss=StickyOnLoss.REPIN)
    world = World()
    world.join("one", GPU, workflows=[repin], slots=3)
    assert len(assigned(world.trigger())) == 3
    assert assigned(world.wait(11)) == []
    assert assigned(world.join("two", GPU, workflows=[repin])) == [("r/a/2", "two")]
    for name in ("three", "four"):
        assert assigned(world.join(name, GPU, workflows=[repin])) == []
    assert where(world.finish("r/a/2", "two")) == "two"
    assert assigned(world.wait(11, "three", "four"))[0][1] in ("three", "four")
    assert len({world.step("r", name).worker for name in "bc"} - {None, "two"}) == 1

"""Steps of a pool run on that pool's workers only, whatever else is desired."""

from typing import Any

from ganger_broker.definitions import (
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
)
from ganger_broker.pool_labels import POOL, REGION

from .world import World, assigned

FLOW = WorkflowDefinition(
    "w", [StepDefinition("small", pool="p"), StepDefinition("large", pool="q"), StepDefinition("s")]
)


def world(**labels: dict[str, Any]) -> World:
    """Workers with these labels; in ``p``, ``q`` or none."""
    made = World()
    for name, those in labels.items():
        made.join(name, those, workflows=[FLOW], slots=5)
    return made


def test_a_step_goes_to_its_pool_and_one_of_none_goes_elsewhere() -> None:
    made = world(a={POOL: "p"}, b={POOL: "q"}, c={})
    assert sorted(assigned(made.trigger())) == [
        ("r/large/1", "b"),
        ("r/s/1", "c"),
        ("r/small/1", "a"),
    ]
    actions = {name: worker.actions for name, worker in made.core.state.workers.items()}
    assert actions == {"a": ["w:small"], "b": ["w:large"], "c": ["w:large", "w:s", "w:small"]}


def test_a_step_waits_for_its_pool_and_is_lost_to_nobody_else() -> None:
    made = world(a={POOL: "p"}, c={})
    made.trigger()
    assert made.step("r", "large").status == "pending"
    assert assigned(made.join("d", {POOL: "q"}, workflows=[FLOW])) == [("r/large/1", "d")]
    made.wait(11, "a", "c")  # d is silent
    assert made.step("r", "large").status == "pending"


def test_a_trigger_desires_a_region_and_cannot_leave_the_pool() -> None:
    made = world(
        a={POOL: "p", REGION: "fra"},
        b={POOL: "p", REGION: "iad"},
        c={POOL: "q", REGION: "iad"},
        d={},
    )
    given = dict(assigned(made.trigger("r", desired_worker_labels={REGION: "iad"})))
    assert given == {"r/small/1": "b", "r/large/1": "c"}
    given = dict(assigned(made.trigger("x", desired_worker_labels={POOL: "p"})))
    assert given["x/small/1"] in ("a", "b")
    assert "x/large/1" not in given
    assert made.step("x", "large").desired_worker_labels == {POOL: [{"value": "p"}, {"value": "q"}]}


def test_a_pool_is_kept_over_a_take_over() -> None:
    made = world(a={POOL: "p"}, c={})
    made.trigger()
    made.take_over()
    assert assigned(made.join("d", {POOL: "q"}, workflows=[FLOW])) == [("r/large/1", "d")]


# ── other machines for a workflow that goes on ────────────────────────────────────────


def chain(version: str, pool: str) -> WorkflowDefinition:
    """``a`` → ``b``, both in this pool."""
    steps = [StepDefinition("a", pool=pool), StepDefinition("b", parents=["a"], pool=pool)]
    return WorkflowDefinition("w", steps, version)


def test_a_run_goes_on_in_the_pool_that_took_the_place_of_its_own() -> None:
    made = World()
    old, new = chain("1", "p"), chain("2", "q")
    made.join("old", {POOL: "p"}, workflows=[old])
    made.trigger("r")
    made.trigger("waits")
    made.join("new", {POOL: "q"}, workflows=[new], slots=5)
    assert made.step("waits", "a").status == "pending"  # its own pool is there still
    assert assigned(made.drain("old")) == [("waits/a/1", "new")]
    assert made.step("waits", "a").desired_worker_labels == {POOL: [{"value": "q"}]}
    assert assigned(made.finish("r/a/1", "old")) == [("r/b/1", "new")]
    made.leave("old")
    made.take_over()
    assert assigned(made.finish("waits/a/1", "new")) == [("waits/b/1", "new")]


def test_it_goes_on_there_whichever_of_the_two_comes_first() -> None:
    made = World()
    made.join("old", {POOL: "p"}, workflows=[chain("1", "p")])
    made.trigger("r")
    made.trigger("waits")
    made.leave("old")
    assert made.step("waits", "a").status == "pending"
    effects = made.join("new", {POOL: "q"}, workflows=[chain("2", "q")], slots=5)
    assert sorted(assigned(effects)) == [("r/a/2", "new"), ("waits/a/1", "new")]


def test_a_pool_that_is_merely_busy_is_not_left() -> None:
    made = World()
    made.join("old", {POOL: "p"}, workflows=[chain("1", "p")])
    made.trigger("r")
    made.trigger("waits")
    made.join("new", {POOL: "q"}, workflows=[chain("2", "q")], slots=5)
    assert assigned(made.finish("r/a/1", "old")) == [("waits/a/1", "old")]
    assert made.step("r", "b").status == "pending"


def test_pools_may_be_replaced_again_and_again_and_back() -> None:
    made = World()
    made.join("p", {POOL: "p"}, workflows=[chain("1", "p")])
    made.drain("p")
    made.trigger("r")
    made.join("q", {POOL: "q"}, workflows=[chain("2", "q")], slots=5)
    assert made.step("r", "a").worker == "q"
    made.trigger("waits")
    made.drain("q")
    made.trigger("late")
    assert made.step("late", "a").status == "pending"
    assert assigned(made.join("s", {POOL: "s"}, workflows=[chain("3", "s")])) == [("late/a/1", "s")]
    made.drain("s")
    assert assigned(made.finish("r/a/1", "q")) == []
    effects = made.join("p2", {POOL: "p"}, workflows=[chain("1", "p")], slots=5)
    assert assigned(effects) == [("r/b/1", "p2")]


def test_a_hard_run_whose_pool_was_replaced_is_pinned_anew_there() -> None:
    def hard(version: str, pool: str) -> WorkflowDefinition:
        flow = chain(version, pool)
        flow.sticky, flow.sticky_on_loss = StickyStrategy.HARD, StickyOnLoss.REPIN
        return flow

    made = World()
    made.join("old", {POOL: "p"}, workflows=[hard("1", "p")])
    made.trigger("r")
    made.finish("r/a/1", "old")
    made.join("new", {POOL: "q"}, workflows=[hard("2", "q")])
    assert assigned(made.leave("old")) == [("r/b/2", "new")]

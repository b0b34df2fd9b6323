"""Steps of a pool run on that pool's workers only, whatever else is desired."""

from typing import Any

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
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

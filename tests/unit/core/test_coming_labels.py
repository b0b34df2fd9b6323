"""Labels that are coming: preferences count them from the assignment on, requirements never."""

from typing import Any

import pytest

from ganger_broker.definitions import FromInput
from ganger_broker.messages import Outcome

from .world import World, assigned, one_step, told

PREFERS = {"model": {"value": "x", "weight": 10}}
PATIENT = {"model": {"value": "x", "weight": 10, "prefer_for": "2s"}}
SETS = {"model": "x"}


def fleet(*workers: str, slots: int = 1, **step: Any) -> World:
    """Workers that are cold: they have no model, or an old one."""
    world = World()
    for worker in workers:
        world.join(worker, {"model": "old"}, workflows=[one_step(**step)], slots=slots)
    return world


def test_requests_for_a_cold_model_go_where_it_is_being_loaded() -> None:
    world = fleet("a", "b", "c", slots=3, desired_worker_labels=PREFERS, sets_labels=SETS)
    given = [worker for n in range(3) for _, worker in assigned(world.trigger(f"r{n}"))]
    assert given == ["a", "a", "a"]


def test_without_it_each_goes_to_another_worker() -> None:
    world = fleet("a", "b", "c", slots=3, desired_worker_labels=PREFERS)
    given = [worker for n in range(3) for _, worker in assigned(world.trigger(f"r{n}"))]
    assert given == ["a", "b", "c"]


def test_with_patience_they_wait_for_the_one_that_loads_it() -> None:
    world = fleet("a", "b", desired_worker_labels=PATIENT, sets_labels=SETS)
    assert assigned(world.trigger("first")) == [("first/s/1", "a")]
    assert assigned(world.trigger("second")) == []
    world.start("first/s/1")
    world.label(1, {"model": "x"})
    assert assigned(world.finish("first/s/1")) == [("second/s/1", "a")]


def test_the_old_value_is_not_expected_to_stay() -> None:
    world = fleet("a", "b", desired_worker_labels=PREFERS, sets_labels=SETS, slots=9)
    world.trigger("first")
    old = {"model": {"value": "old", "weight": 10}}
    assert assigned(world.trigger("second", desired_worker_labels=old)) == [("second/s/1", "b")]


def test_a_required_label_has_to_be_there() -> None:
    world = fleet("a", slots=2, desired_worker_labels=PREFERS, sets_labels=SETS)
    world.trigger("first")
    assert assigned(world.trigger("second", desired_worker_labels={"model": "x"})) == []
    assert assigned(world.label(1, {"model": "x"})) == [("second/s/1", "a")]


def test_the_value_may_come_from_the_input() -> None:
    sets = {"model": FromInput("model.name"), "size": 7}
    world = fleet("a", "b", slots=9, sets_labels=sets)
    world.trigger("first", input={"model": {"name": "y"}})
    assert world.core.state.workers["a"].coming == {"first/s/1": {"model": "y", "size": 7}}
    wants = {"model": {"value": "y", "weight": 10}}
    assert assigned(world.trigger("second", desired_worker_labels=wants)) == [("second/s/1", "a")]


@pytest.mark.parametrize("given", [{}, {"model": None}, {"model": ["x"]}, {"model": True}])
def test_an_input_without_such_a_value_sets_nothing(given: dict[str, Any]) -> None:
    world = fleet("a", sets_labels={"model": FromInput("model")})
    assert assigned(world.trigger(input=given)) == [("r/s/1", "a")]
    assert world.core.state.workers["a"].coming == {}


def test_what_did_not_come_is_expected_no_more() -> None:
    world = fleet("a", "b", slots=9, desired_worker_labels=PREFERS, sets_labels=SETS)
    world.trigger("first")
    world.finish("first/s/1", outcome=Outcome.FAILED)
    assert world.core.state.workers["a"].coming == {}
    # nobody has it now: it is the turn of b, which was given nothing yet
    assert assigned(world.trigger("second")) == [("second/s/1", "b")]


def test_who_waits_for_what_does_not_come_waits_no_more() -> None:
    world = fleet("a", "b", desired_worker_labels=PATIENT, sets_labels=SETS)
    world.trigger("first")
    assert assigned(world.trigger("second")) == []
    effects = world.finish("first/s/1", outcome=Outcome.FAILED)
    # a is free, and as good as b: neither has the model
    assert assigned(effects) == [("second/s/1", "b")]


def test_who_waits_for_a_lost_worker_to_load_it_goes_elsewhere() -> None:
    world = fleet("a", "b", desired_worker_labels=PATIENT, sets_labels=SETS)
    world.trigger("first")
    world.trigger("second")
    effects = world.leave("a")
    assert assigned(effects) == [("first/s/2", "b")]
    assert world.step("second").status == "pending"


def test_a_step_that_loads_it_brings_those_that_wait_for_it() -> None:
    """Who waits for a busy worker goes to another one that begins to load the model."""
    world = fleet("busy", desired_worker_labels=PATIENT)
    world.label(1, {"model": "x"}, worker="busy")
    world.trigger("first")
    world.trigger("waits")
    loads = one_step("load", desired_worker_labels={"zone": "b"}, sets_labels=SETS)
    flows = [one_step(desired_worker_labels=PATIENT), loads]
    world.join("b", {"zone": "b"}, workflows=flows, slots=2)
    assert world.step("waits").status == "pending"
    effects = world.trigger("loading", "load")
    assert assigned(effects) == [("loading/s/1", "b"), ("waits/s/1", "b")]


def test_the_next_leader_expects_the_same() -> None:
    world = fleet("a", "b", slots=2, desired_worker_labels=PREFERS, sets_labels=SETS)
    world.trigger("first")
    world.take_over()
    assert world.core.state.workers["a"].coming == {"first/s/1": SETS}
    assert assigned(world.trigger("second")) == [("second/s/1", "a")]


def test_a_worker_that_registers_again_is_still_expected_to_have_it() -> None:
    world = fleet("a", "b", slots=3, desired_worker_labels=PREFERS, sets_labels=SETS)
    world.trigger("first")
    flow = one_step(desired_worker_labels=PREFERS, sets_labels=SETS)
    world.join("a", {"model": "old"}, workflows=[flow], slots=3, attempts=["first/s/1"])
    assert assigned(world.trigger("second")) == [("second/s/1", "a")]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"model": FromInput("a[")}, "sets_labels.model: from_input: 'a[' is no JMESPath"),
        ({"model": FromInput("no(a)")}, "sets_labels.model: from_input: 'no(a)': there is no f"),
        ({"": "x"}, "sets_labels: the key '' must have 1 to 128 characters"),
    ],
)
def test_a_bad_definition_is_refused_with_its_place(sets: dict[str, Any], said: str) -> None:
    world = World()
    effects = world.join(workflows=[one_step(sets_labels=sets)])
    [(_, refused)] = told(effects)
    assert refused.reason.startswith(f"workflow 'w': step 's': {said}")
    assert world.core.state.workers == {}


def several(*workers: str, slots: int = 8) -> World:
    """Workers with a workflow that sets model x, one that sets y, and one that asks for labels."""
    world = World()
    flows = [one_step(name, sets_labels={"model": name}) for name in "xy"]
    for worker in workers:
        world.join(worker, {"model": "old"}, workflows=[*flows, one_step()], slots=slots)
    return world


def prefers(model: str) -> dict[str, Any]:
    return {"model": {"value": model, "weight": 10}}


def where(world: World, run_id: str, model: str) -> str:
    """Where a step goes that prefers this model."""
    [(attempt, worker)] = assigned(world.trigger(run_id, desired_worker_labels=prefers(model)))
    world.finish(attempt, worker)
    return worker


def test_what_has_come_may_go_again_while_its_step_goes_on() -> None:
    world = several("a")
    world.trigger("r1", "x")
    world.label(1, {"model": "x"})  # r1 has set it, and goes on
    world.trigger("r2", "y")
    world.label(2, {"model": "y"})
    world.finish("r2/s/1")
    assert world.core.state.workers["a"].coming == {}
    world.join("b", {"model": "x"}, workflows=[one_step()], slots=8)
    world.take_over()
    assert where(world, "for-y", "y") == "a"
    assert where(world, "for-x", "x") == "b"
    world.label(3, {}, "model")
    assert where(world, "after", "x") == "b"


def test_a_step_that_says_that_nothing_is_there_yet_is_still_loading() -> None:
    world = several("a", "b")
    world.trigger("r1", "x")
    world.label(1, {"model": "unset"})
    assert where(world, "r2", "x") == "a"
    world.label(2, {}, "model")
    assert where(world, "r3", "x") == "a"
    world.label(3, {"model": "x"})
    assert where(world, "r4", "x") == "a"
    assert world.core.state.workers["a"].coming == {}


def test_what_a_worker_has_is_not_coming_unless_something_else_is() -> None:
    world = several("a")
    world.label(1, {"model": "x"})
    world.trigger("r1", "x")
    assert world.core.state.workers["a"].coming == {}
    world.trigger("r2", "y")
    world.trigger("r3", "x")
    assert world.core.state.workers["a"].coming == {
        "r2/s/1": {"model": "y"},
        "r3/s/1": {"model": "x"},
    }


def test_a_worker_that_registers_again_says_what_has_come() -> None:
    world = several("a")
    world.trigger("r1", "x")
    flows = [one_step(name, sets_labels={"model": name}) for name in "xy"]
    again = {"label_seq": 1, "attempts": ["r1/s/1"], "workflows": flows, "slots": 8}
    world.join("a", {"model": "x"}, **again)
    assert world.core.state.workers["a"].coming == {}
    assert world.held_by() == ["r1/s/1"]


def test_the_labels_of_a_lost_worker_come_nowhere_and_required_ones_count_all_the_same() -> None:
    world = World()
    flow = one_step(
        sets_labels=SETS, desired_worker_labels={**PATIENT, "gpu": 1}, schedule_timeout=100
    )
    for worker, gpu in [("a", 1), ("b", 0)]:
        world.join(worker, {"gpu": gpu}, workflows=[flow])
    assert assigned(world.trigger("first")) == [("first/s/1", "a")]
    assert assigned(world.trigger("second")) == []  # it waits for a, where x is being loaded
    world.start("first/s/1")
    assert assigned(world.wait(15, "b")) == []  # a is lost; b has no gpu
    assert world.core.state.patient == {}
    effects = world.join("c", {"gpu": 1}, workflows=[flow], slots=2)
    assert sorted(assigned(effects)) == [("first/s/2", "c"), ("second/s/1", "c")]
    assert world.held_by("b") == []

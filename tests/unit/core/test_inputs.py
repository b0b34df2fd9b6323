"""Inputs that do not fit their workflow's schema are refused before anything runs."""

from typing import Any

import msgspec
import pytest

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import PushEvent, Refused
from ganger_dispatcher.core.effects import Bury, Count, StoreRun
from ganger_dispatcher.core.events import expanded
from ganger_dispatcher.core.facts import EventPushed
from ganger_dispatcher.core.inputs import InputSchema, schema_problem

from .world import World, assigned, of, replies, told

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "tags": {"items": {"type": "string"}}},
    "required": ["n"],
}


def flow(schema: Any = SCHEMA) -> WorkflowDefinition:
    return WorkflowDefinition("w", [StepDefinition("s")], on_events=["k"], input_schema=schema)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 1}, None),
        ({"n": 3, "tags": ["a"], "more": None}, None),
        ({}, "$.input: 'n' is a required property"),
        ({"n": "1"}, "$.input.n: '1' is not of type 'integer'"),
        ({"n": 0}, "$.input.n: 0 is less than the minimum of 1"),
        ({"n": 1, "tags": ["a", 2]}, "$.input.tags[1]: 2 is not of type 'string'"),
    ],
)
def test_the_field_is_named(given: dict[str, Any], said: str | None) -> None:
    assert InputSchema(SCHEMA).problem(given) == said


def test_the_field_is_named_from_the_input_on_in_a_union_as_well() -> None:
    branch = {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}
    schema = {"properties": {"root": {"anyOf": [branch, {"type": "null"}]}}}
    assert (
        InputSchema(schema).problem({"root": {"kind": "b"}})
        == "$.input.root.kind: 'a' was expected"
    )


def test_what_is_said_of_a_large_input_is_short() -> None:
    problem = InputSchema({"properties": {"n": {"type": "integer"}}}).problem({"n": "x" * 10_000})
    assert problem is not None
    assert problem.startswith("$.input.n: 'xxx")
    assert len(problem) == 1_001


def test_a_schema_fetches_nothing_and_goes_round_no_circle() -> None:
    for where in ("http://127.0.0.1:1/schema.json", "#/properties/n"):
        problem = InputSchema({"properties": {"n": {"$ref": where}}}).problem({"n": 1})
        assert (problem or "").startswith("$.input: its workflow's input_schema cannot be followed")


def test_a_bad_trigger_is_dead_lettered_and_answered_and_is_no_run() -> None:
    world = World()
    world.join("a", workflows=[flow()])
    effects = world.trigger("r", reply="q", input={"n": "x"})
    assert replies(effects) == [("q", "failed", "INVALID_INPUT")]
    [bury] = of(effects, Bury)
    assert (bury.reason, bury.routing_key) == ("invalid_input", "trigger.w")
    assert bury.detail == "$.input.n: 'x' is not of type 'integer'"
    assert msgspec.json.decode(bury.body)["input"] == {"n": "x"}
    assert Count("messages_dead:invalid_input") in effects
    assert of(effects, StoreRun) == []
    assert assigned(world.trigger("r", input={"n": 1})) == [("r/s/1", "a")]


def test_a_trigger_that_was_held_is_looked_at_when_its_workflow_comes() -> None:
    world = World()
    world.trigger("r", reply="q", input={"n": "x"})
    effects = world.join("a", workflows=[flow()])
    assert replies(effects) == [("q", "failed", "INVALID_INPUT")]
    assert world.core.state.held == {}
    assert world.stored.held == {}


def test_an_event_that_does_not_fit_starts_the_others() -> None:
    world = World()
    other = WorkflowDefinition("other", [StepDefinition("s")], on_events=["k"])
    world.join("a", workflows=[flow(), other], slots=5)
    effects = []
    for fact in expanded(EventPushed("k", PushEvent(), "e"), world.core.state.workflows.values()):
        effects += world.tell(fact)
    assert len(assigned(effects)) == 1
    assert [bury.reason for bury in of(effects, Bury)] == ["invalid_input"]


def test_a_schema_that_is_none_is_refused_with_its_worker() -> None:
    assert schema_problem(SCHEMA) is None
    world = World()
    [(worker, word)] = told(world.join("a", workflows=[flow({"type": "nonsense"})]))
    assert (worker, isinstance(word, Refused)) == ("a", True)
    assert "workflow 'w': input_schema: is no JSON Schema" in word.reason  # type: ignore[union-attr]
    assert world.core.state.workers == {}

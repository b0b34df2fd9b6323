"""Inputs that do not fit their workflow's schema are refused before anything runs."""

from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import FailureReason, Outcome, PushEvent, RunError, Trigger
from ganger_broker.to_worker import Refused
from ganger_dispatcher.core.effects import Bury, Count, StoreRun
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


class Circle(BaseModel):
    kind: Literal["circle"]
    r: float = Field(gt=0)


class Square(BaseModel):
    kind: Literal["square"]
    side: float
    inside: "Circle | Square | None" = Field(None, discriminator="kind")


class Drawing(BaseModel):
    shape: Circle | Square = Field(discriminator="kind")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"kind": "square", "side": 1}, None),
        ({"kind": "square", "side": "wide"}, ".side: 'wide' is not of type 'number'"),
        ({"kind": "circle", "r": -1}, ".r: -1 is less than or equal to the minimum of 0"),
        ({"kind": "square"}, ": 'side' is a required property"),
        ({"kind": "oval"}, ".kind: 'oval' is not one of 'circle', 'square'"),
        ({"side": 1}, ": 'kind' is a required property"),
        ({"kind": 1, "side": 1}, ".kind: 1 is not one of 'circle', 'square'"),
        (
            {"kind": "square", "side": 1, "inside": {"kind": "circle"}},
            ".inside: 'r' is a required property",
        ),
        (5, ": 5 is not valid under any of the given schemas"),
    ],
)
def test_of_a_tagged_union_the_branch_that_is_meant_is_looked_at(shape: Any, said: Any) -> None:
    problem = InputSchema(Drawing.model_json_schema()).problem({"shape": shape})
    assert problem == (said and f"$.input.shape{said}")


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
    effects = world.tell(EventPushed("k", PushEvent(), "e"))
    assert len(assigned(effects)) == 1
    assert [bury.reason for bury in of(effects, Bury)] == ["invalid_input"]


def test_an_input_that_only_the_worker_can_tell_is_dead_lettered_once_too() -> None:
    world = World()
    steps = [StepDefinition("s"), StepDefinition("t")]
    definition = WorkflowDefinition("w", steps, on_failure=StepDefinition("f"))
    world.join("a", workflows=[definition], slots=5)
    labels = {"gpu": {"value": 1, "required": False}}
    world.trigger("r", reply="q", input={"n": 7}, priority=3, desired_worker_labels=labels)
    unfit = RunError(FailureReason.INVALID_INPUT, "$.input.n: must be even")
    effects = world.start("r/s/1") + world.start("r/t/1")
    for attempt in ("r/s/1", "r/t/1"):
        effects += world.finish(attempt, outcome=Outcome.FAILED, error=unfit)
    assert of(effects, Bury) == [], "its step for failures has yet to run"

    world.start("r/f/1")
    effects = world.finish("r/f/1")

    assert replies(effects) == [("q", "failed", "INVALID_INPUT")]
    [bury] = of(effects, Bury)
    assert (bury.reason, bury.routing_key) == ("invalid_input", "trigger.w")
    assert bury.detail == "$.input.n: must be even"
    assert bury.keep, "there is no delivery that would come again"
    assert bury.reply is not None
    assert bury.reply.reply_to == "q"
    assert msgspec.json.decode(bury.body, type=Trigger) == Trigger(
        "w", {"n": 7}, "r", priority=3, desired_worker_labels=labels
    )
    assert Count("messages_dead:invalid_input") in effects


def test_a_schema_that_is_none_is_refused_with_its_worker() -> None:
    assert schema_problem(SCHEMA) is None
    world = World()
    [(worker, word)] = told(world.join("a", workflows=[flow({"type": "nonsense"})]))
    assert (worker, isinstance(word, Refused)) == ("a", True)
    assert "workflow 'w': input_schema: is no JSON Schema" in word.reason  # type: ignore[union-attr]
    assert world.core.state.workers == {}

"""A look at an input is bounded, and means by patterns and formats what pydantic means."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Network
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    AnyUrl,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    create_model,
)

from ganger_dispatcher.core.effort import MOST_STEPS, Effort, TooMuch, spend
from ganger_dispatcher.core.inputs import InputSchema, schema_problem

from .test_inputs import flow
from .world import World, assigned, replies


def problem(model: type[BaseModel], given: dict[str, Any]) -> str | None:
    schema = model.model_json_schema()
    assert schema_problem(schema) is None
    return InputSchema(schema).problem(given)


def of(kind: Any, value: Any) -> str | None:
    """What is wrong with a value for a field of this kind."""
    return problem(create_model("M", x=(kind, ...)), {"x": value})


def pattern(text: str) -> Any:
    return Annotated[str, StringConstraints(pattern=text)]


# ── no input takes for ever ───────────────────────────────────────────────────────────


class And(BaseModel):
    kind: Literal["and"]
    of: "And | Or | None" = None


class Or(BaseModel):
    kind: Literal["or"]
    of: "And | Or | None" = None


def nested(deep: int, kind: str) -> dict[str, Any]:
    value = {"kind": "and"}
    for _ in range(deep):
        value = {"kind": kind, "of": value}  # type: ignore[dict-item]
    return value


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pattern(r"^(a+)+$"), "a" * 10_000 + "!"),
        (pattern(r"(x+x+)+y"), "x" * 10_000),
        (dict[pattern(r"^(a+)+$"), int], {"a" * 10_000 + "!": "x"}),
        (And | Or, nested(150, "xor")),
    ],
)
def test_what_would_take_for_ever_is_looked_at_in_bounded_time(kind: Any, value: Any) -> None:
    of(kind, value)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pattern(r"^b"), "a" * 1_000_000),
        (set[int | str], [[number] for number in range(100_000)]),
        (list[Any], [1] * 1_000_000),
        (list[int], ["a"] * 1_000_000),
        (dict[str, int], {str(number): "x" for number in range(100_000)}),
    ],
)
def test_what_is_larger_than_one_input_is_worth_is_the_workers(kind: Any, value: Any) -> None:
    assert of(kind, value) is None


def test_what_was_found_by_then_counts() -> None:
    model = create_model("M", a=(int, ...), b=(list[int], ...))
    given = {"a": "x", "b": [1] * 1_000_000}
    assert problem(model, given) == "$.input.a: 'x' is not of type 'integer'"


def test_steps_are_counted_by_input() -> None:
    for _ in range(2):
        with Effort():
            spend(MOST_STEPS)
            with pytest.raises(TooMuch):
                spend(1)


@pytest.mark.timeout(10)
def test_a_pattern_hangs_no_dispatcher_and_labels_count_all_the_same() -> None:
    world = World()
    order = create_model("Order", name=(pattern(r"^(a+)+$"), ...))
    world.join("cold", workflows=[flow(order.model_json_schema())], slots=2)
    world.join("warm", {"model": "x"}, workflows=[flow(order.model_json_schema())])
    effects = world.trigger("r", reply="q", input={"name": "a" * 40 + "!"})
    assert replies(effects) == [("q", "failed", "INVALID_INPUT")]
    effects = world.trigger("s", input={"name": "aaa"}, desired_worker_labels={"model": "x"})
    assert assigned(effects) == [("s/s/1", "warm")]
    world.wait(15, "cold")  # the warm one is lost, and nobody else has the model
    assert (world.step("s").status, world.held_by("cold")) == ("pending", [])
    world.join("other", {"model": "x"}, workflows=[flow(order.model_json_schema())])
    assert world.held_by("other") == ["s/s/2"]


# ── patterns ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "fits", "not_so"),
    [
        (r"^\p{L}+$", "Ä", "1"),
        (r"^(?<x>a)$", "a", "b"),
        (r"a\z", "ba", "ab"),
        (r"a(?i)b", "aB", "AB"),
        (r"b", "abc", "ac"),
    ],
)
def test_patterns_are_pydantics(written: str, fits: str, not_so: str) -> None:
    assert of(pattern(written), fits) is None
    assert of(pattern(written), not_so) == f"$.input.x: {not_so!r} does not match {written!r}"
    keys = dict[pattern(written), int]  # type: ignore[misc]
    assert of(keys, {fits: 1}) is None
    assert of(keys, {fits: "x"}) == f"$.input.x.{fits}: 'x' is not of type 'integer'"


def test_a_pattern_that_the_engine_does_not_take_is_the_workers() -> None:
    class Python(BaseModel):
        model_config = ConfigDict(regex_engine="python-re", extra="forbid")
        x: str = Field(pattern=r"^(?=a)")

    assert problem(Python, {"x": "b"}) is None
    assert of(Decimal, "x") is None
    keys = {"patternProperties": {"(?=a)": {"type": "integer"}}, "additionalProperties": False}
    assert InputSchema(keys).problem({"b": "x"}) is None


def test_properties_that_nothing_speaks_of_are_named() -> None:
    keys = {"patternProperties": {"^a": {}}, "properties": {"b": {}}, "additionalProperties": False}
    assert InputSchema(keys).problem({"a1": 1, "b": 1}) is None
    assert InputSchema(keys).problem({"a1": 1, "c": 1}) == "$.input: no such properties: 'c'"
    keys |= {"additionalProperties": {"type": "integer"}}
    assert InputSchema(keys).problem({"c": "x"}) == "$.input.c: 'x' is not of type 'integer'"


# ── formats ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        (datetime, ["2027-01-01T09:00:00Z", "2027-01-01 09:00", "2027-01-01", "1800000000"]),
        (date, ["2027-01-01", "2027-01-01T00:00:00"]),
        (time, ["09:00", "09:00:00.5+01:00"]),
        (timedelta, ["P1DT2H", "01:30:00"]),
        (UUID, ["12345678-1234-5678-1234-567812345678", "12345678123456781234567812345678"]),
        (AnyUrl, ["ftp://host", "a:b"]),
        (HttpUrl, ["http://host/path"]),
        (IPv4Address, ["127.0.0.1"]),
        (IPv6Network, ["fe80::/10"]),
        (ByteSize, ["10 MB", 10]),
    ],
)
def test_formats_are_what_pydantic_takes(kind: Any, fits: list[Any]) -> None:
    model = create_model("M", x=(kind, ...))
    for value in fits:
        model.model_validate({"x": value})
        assert of(kind, value) is None
    said = of(kind, "-nonsense-")
    assert said is not None
    assert said.startswith("$.input.x: '-nonsense-' ")


def test_of_an_email_little_is_known_and_of_other_formats_nothing() -> None:
    for name, value, is_wrong in [
        ("email", "a@b", False),
        ("email", "Ada <a@b.org>", False),
        ("email", "nobody", True),
        ("email", "@", True),
        ("password", "", False),
        ("unheard-of", "x", False),
        ("date-time", 5, False),
        ("date-time", "9" * 20_000, False),
    ]:
        schema = {"properties": {"x": {"format": name}}}
        assert (InputSchema(schema).problem({"x": value}) is not None) is is_wrong, (name, value)


# ── elements that are there once ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "unique"),
    [
        ([1, "1", True, None, [1], {"a": 1}, {"a": [1]}], True),
        ([0, False], True),
        ([[0], [False]], True),
        ([1, 1.0], False),
        ([{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], False),
        ([[[1]], [[1]]], False),
        ("aa", True),
    ],
)
def test_unique_items(given: Any, unique: bool) -> None:
    schema = {"properties": {"x": {"uniqueItems": True}}}
    assert (InputSchema(schema).problem({"x": given}) is None) is unique

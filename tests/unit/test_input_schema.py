"""What is told of an input in advance: nothing that its model takes is refused, and much of what it
refuses is."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    RootModel,
    StringConstraints,
    Tag,
    ValidationError,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)

from ganger import Context, Ganger
from ganger.input_schema import input_schema
from ganger.testing import Fleet
from ganger_dispatcher.core.inputs import InputSchema, schema_problem


def problem(model: type[BaseModel], given: dict[str, Any]) -> str | None:
    """What is wrong with an input that the model refuses; None where only the model can tell."""
    schema = input_schema(model)
    if schema is None:
        return None
    assert schema_problem(schema) is None
    return InputSchema(schema).problem(given)


def takes(model: type[BaseModel], given: dict[str, Any]) -> bool:
    try:
        model.model_validate_json(json.dumps(given))
    except ValidationError:
        return False
    return True


class Renamed(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    total_price: float = Field(alias="totalPrice")
    seats: int


class Chosen(BaseModel):
    customer: str = Field(validation_alias=AliasChoices("cust", "customer"))
    first: str = Field("", validation_alias=AliasPath("names", 0))


class Split(BaseModel):
    name: str
    size: int

    @model_validator(mode="before")
    @classmethod
    def split(cls, given: Any) -> Any:
        if isinstance(given, dict) and "spec" in given:
            name, size = given["spec"].split(":")
            return {"name": name, "size": size}
        return given


class Listed(BaseModel):
    tags: list[str]
    size: int = 1

    @field_validator("tags", mode="before")
    @classmethod
    def split(cls, given: Any) -> Any:
        return given.split(",") if isinstance(given, str) else given


class Lax(BaseModel):
    seats: int = 1
    price: float = 1.5
    paid: bool = False
    at: datetime | None = None
    unique: set[int] = set()


class Circle(BaseModel):
    kind: Literal["circle"]
    r: float = Field(gt=0)


class Square(BaseModel):
    kind: Literal["square"]
    side: float


def by_side(given: Any) -> str:
    return "s" if isinstance(given, dict) and "side" in given else "c"


Guessed = Annotated[
    Annotated[Circle, Tag("c")] | Annotated[Square, Tag("s")], Discriminator(by_side)
]


class Drawing(BaseModel):
    shape: Circle | Square = Field(discriminator="kind")
    guessed: Guessed | None = None


class Node(BaseModel):
    n: int
    inside: "list[Node]" = []


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    seats: int = Field(ge=1, le=9)
    name: str = Field("Ada", min_length=2, max_length=4, pattern="^[A-Z]")
    on: date | None = None


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True, coerce_numbers_to_str=False)
    name: str = Field(max_length=2)


class Made(BaseModel):
    n: int

    def __init__(self, **given: Any) -> None:
        super().__init__(n=len(given))


Counts = RootModel[dict[str, int]]

TAKEN: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Renamed, {"total_price": 3, "seats": 1}),
    (Renamed, {"totalPrice": 3, "seats": 1}),
    (Chosen, {"customer": "x"}),
    (Chosen, {"cust": "x", "names": ["Ada"]}),
    (Split, {"spec": "a:3"}),
    (Listed, {"tags": "a,b"}),
    (Lax, {"seats": "2", "price": "1e3", "paid": "yes"}),
    (Lax, {"seats": 2.0, "price": "nan", "paid": 1}),
    (Lax, {"seats": True, "price": 3, "at": 1_700_000_000}),
    (Lax, {"at": "2026-01-01 00:00", "unique": [1, 1]}),
    (Drawing, {"shape": {"kind": "square", "side": "1.5"}}),
    (Drawing, {"shape": {"kind": "circle", "r": 1}, "guessed": {"kind": "circle", "r": 2}}),
    (Node, {"n": 1, "inside": [{"n": "2", "inside": [{"n": 3}]}]}),
    (Strict, {"seats": 1, "name": "Ada", "on": "2026-11-26"}),
    (Stripped, {"name": "  ab  "}),
    (Made, {"anything": 1}),
    (Counts, {"a": "1"}),
]


@pytest.mark.parametrize(("model", "given"), TAKEN)
def test_what_a_model_takes_is_not_refused_in_advance(
    model: type[BaseModel], given: dict[str, Any]
) -> None:
    assert takes(model, given)
    assert problem(model, given) is None


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (Renamed, {"total_price": 3}, ": 'seats' is a required property"),
        (Listed, {"tags": "a", "size": []}, ".size: [] is not of type 'integer', 'string', 'b"),
        (Listed, {}, ": 'tags' is a required property"),
        (Lax, {"seats": "two"}, ".seats: 'two' is not a 'whole number': Input should"),
        (Lax, {"price": "dear"}, ".price: 'dear' is not a 'number': Input should be a valid num"),
        (Lax, {"paid": "later"}, ".paid: 'later' is not a 'truth value': Input should be a val"),
        (Lax, {"seats": 1.5}, ".seats: 1.5 is not of type 'integer'"),
        (Lax, {"unique": {}}, ".unique: {} is not of type 'array'"),
        (Drawing, {"shape": {"kind": "square"}}, ".shape: 'side' is a required property"),
        (Drawing, {"shape": {"kind": "circle", "r": -1}}, ".shape.r: -1 is less than or equal to"),
        (Drawing, {"shape": {"kind": "oval"}}, ".shape.kind: 'oval' is not one of 'circle', 'sq"),
        (Node, {"n": 1, "inside": [{"n": 1, "inside": [{}]}]}, ".inside[0].inside[0]: 'n' is a r"),
        (Strict, {"seats": "2"}, ".seats: '2' is not of type 'integer'"),
        (Strict, {"seats": 0}, ".seats: 0 is less than the minimum of 1"),
        (Strict, {"seats": 10}, ".seats: 10 is greater than the maximum of 9"),
        (Strict, {"seats": 1, "name": "A"}, ".name: 'A' is too short"),
        (Strict, {"seats": 1, "name": "ada"}, ".name: 'ada' does not match '^[A-Z]'"),
        (Strict, {"seats": 1, "on": "soon"}, ".on: 'soon' is not a 'date'"),
        (Strict, {"seats": 1, "seat": 1}, ": no such properties: 'seat'"),
        (Counts, {"a": "x"}, ".a: 'x' is not a 'whole number': Input should be a valid"),
    ],
)
def test_what_a_model_is_sure_to_refuse_is_refused_in_advance(
    model: type[BaseModel], given: dict[str, Any], said: str
) -> None:
    assert not takes(model, given)
    assert (problem(model, given) or "").startswith(f"$.input{said}")


@pytest.mark.parametrize("model", [Split, Made])
def test_of_a_model_with_code_of_its_own_before_it_nothing_is_said(model: type[BaseModel]) -> None:
    assert input_schema(model) is None


# ── any model, any input ──────────────────────────────────────────────────────────────


class Plain(Enum):
    A = "a"
    B = 2


class Text(StrEnum):
    A = "a"
    B = "b"


class Whole(IntEnum):
    A = 1


KINDS: list[Any] = [
    *(int, float, bool, str, date, datetime, timedelta, UUID, Decimal, bytes, AnyUrl, Any, None),
    *(Plain, Text, Whole, Literal["a"], Literal["a", "b"], Literal[1, "a", True], Json[list[int]]),
    *(Circle, Listed, Strict, Stripped, Split, Made, Node, Guessed, Circle | Square),
    Annotated[int, Field(ge=1, lt=10)],
    Annotated[float, Field(gt=0.5, le=3)],
    Annotated[str, Field(pattern="^a+$", max_length=3)],
    Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, pattern="^a$")],
    Annotated[bool, Field(strict=True)],
    Annotated[int, Field(strict=True)],
    Annotated[int, BeforeValidator(lambda _: 1)],
    Annotated[int, WrapValidator(lambda _, __: 1)],
    Annotated[int, AfterValidator(lambda value: value)],
    Annotated[Circle | Square, Field(discriminator="kind")],
    Annotated[set[int], Field(min_length=1, max_length=2)],
    Annotated[list[int], Field(min_length=1, max_length=2)],
]
HOLDERS: list[Any] = [
    lambda kind: list[kind],
    lambda kind: dict[str, kind],
    lambda kind: dict[int, kind],
    lambda kind: tuple[kind, int],
    lambda kind: tuple[kind, ...],
    lambda kind: kind | str if kind is not None else int | None,
    lambda kind: create_model("Inner", x=(kind, ...), kind=(int, 1)),
]
VALUES: list[Any] = [
    *(0, 1, 2, 3.0, 1.5, -1, True, False, None, 2**53 + 1, 2**70, 1e300, -0.0, 1_700_000_000),
    *("", "a", "aa", "A", " a ", "a\n", "1", " 3 ", "1_000", "1.0", "+1", "1.", "0x1", "1e3", "٣"),
    *("inf", "NaN", "-Infinity", "yes", "OFF", "circle", "2026-01-01", "2026-01-01T00:00:00Z"),
    *("P1D", "1:00:00", "12345678123456781234567812345678", "a:b", "[1]", "a,b", "99999999999999"),
]
KEYS = ["x", "X", "y", "Y", "kind", "r", "side", "tags", "size", "n", "inside", "seats", "name"]

kinds = st.sampled_from(KINDS).flatmap(
    lambda kind: st.sampled_from([lambda same: same, *HOLDERS]).map(lambda hold: hold(kind))
)
values = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        {},
        {"default": None},
        {"alias": "X"},
        {"alias": "X", "default": None},
        {"validation_alias": AliasChoices("X", "x")},
        {"validation_alias": AliasChoices("X", AliasPath("Y", 0))},
        {"validation_alias": AliasPath("Y", 0)},
    ]
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "strict": st.booleans(),
        "extra": st.sampled_from(["allow", "forbid"]),
        "populate_by_name": st.booleans(),
        "str_strip_whitespace": st.booleans(),
        "coerce_numbers_to_str": st.booleans(),
        "regex_engine": st.sampled_from(["rust-regex", "python-re"]),
    },
)


@settings(max_examples=150, deadline=None)
@given(kinds, kinds, fields, configs, st.data())
def test_whatever_a_model_takes_is_not_refused_in_advance(
    kind: Any, other: Any, field: dict[str, Any], config: Any, data: st.DataObject
) -> None:
    model = create_model(
        "M", __config__=ConfigDict(**config), x=(kind, Field(**field)), y=(other, None)
    )
    schema = input_schema(model)
    if schema is None:
        return
    assert schema_problem(schema) is None
    checked = InputSchema(schema)
    keys = st.sampled_from(["x", "X", "y", "Y"])
    for _ in range(10):
        given = data.draw(st.dictionaries(keys, values, max_size=3))
        if takes(model, given):
            assert checked.problem(given) is None


# ── seen from outside ─────────────────────────────────────────────────────────────────


def test_it_is_the_workers_word_that_counts(app: Ganger, fleet: Fleet) -> None:
    @app.task(name="t", input_validator=Renamed, desired_worker_labels={"gpu": 1})
    async def task(input: Renamed, context: Context) -> list[float]:
        return [input.total_price, input.seats]

    fleet.worker("cpu", app, labels={"gpu": 0})
    fleet.worker("gpu", app, labels={"gpu": 1})
    run = fleet.run("t", {"total_price": "3", "seats": "2"})
    assert (run.output["t"], run.step("t").workers) == ([3.0, 2], ("gpu",))
    early = fleet.run("t", {"total_price": 3, "seats": []})
    late = fleet.run("t", {"total_price": [], "seats": 2})
    for refused in (early, late):
        assert (refused.status, refused.error and refused.error.reason) == (
            "failed",
            "INVALID_INPUT",
        )
    assert late.error is not None
    assert late.error.message.startswith("$.input.total_price: Input should be a valid number")

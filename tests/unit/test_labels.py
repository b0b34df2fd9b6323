"""Labels and desired labels: what is taken, with which defaults, and what is refused."""

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganger_broker.errors import InvalidInput, InvalidLabel
from ganger_broker.labels import (
    Condition,
    Requirement,
    WorkerLabelComparator,
    check_key,
    check_labels,
    check_value,
    conditions_to_desired,
    merge_desired,
    parse_desired,
)

C = WorkerLabelComparator


# ── labels ────────────────────────────────────────────────────────────────────────────


def test_labels_of_all_kinds_are_copied() -> None:
    labels = {"model": "x", "empty": "", "memory": 512, "load": 0.5, "k" * 128: "v" * 1024}
    checked = check_labels(labels)
    assert checked == labels
    assert checked is not labels


@pytest.mark.parametrize("number", [2**53, -(2**53), 0, -0.0, 1e308, 5e-324])
def test_numbers_at_the_edge_are_taken(number: float) -> None:
    assert check_value(number, "x") == number


REFUSED_LABELS: list[tuple[Any, str]] = [
    ({"gpu": True}, "labels.gpu: True must be a string or a number, not bool"),
    ({"gpu": None}, "labels.gpu: None must be a string or a number, not null"),
    ({"gpu": [1]}, "labels.gpu: [1] must be a string or a number, not list"),
    ({"gpu": {"a": 1}}, "labels.gpu: {'a': 1} must be a string or a number, not dict"),
    ({"gpu": b"x"}, "labels.gpu: b'x' must be a string or a number, not bytes"),
    ({"load": math.nan}, "labels.load: nan must be a finite number"),
    ({"load": math.inf}, "labels.load: inf must be a finite number"),
    ({"load": -math.inf}, "labels.load: -inf must be a finite number"),
    ({"n": 2**53 + 1}, "labels.n: the whole number 9007199254740993 must be within ±2^53"),
    ({"n": -(2**53) - 1}, "labels.n: the whole number -9007199254740993 must be within ±2^53"),
    ({"s": "v" * 1025}, "labels.s: the string 'vvv"),
    ({"s": "\ud800"}, "labels.s: '\\ud800' is not valid Unicode text"),
    ({"": 1}, "labels: the key '' must have 1 to 128 characters, it has 0"),
    ({"k" * 129: 1}, "must have 1 to 128 characters, it has 129"),
    ({"\ud800": 1}, "labels: the key '\\ud800' is not valid Unicode text"),
    ({5: 1}, "labels: the key 5 must be a string, not int"),
    ({str(n): n for n in range(65)}, "labels: a worker has at most 64 labels, these are 65"),
    ([("a", 1)], "labels: must be a map of key to value, not list"),
    (None, "labels: must be a map of key to value, not null"),
]


@pytest.mark.parametrize(("labels", "text"), REFUSED_LABELS)
def test_what_can_be_no_label_is_refused_where_it_is_given(labels: Any, text: str) -> None:
    with pytest.raises(InvalidLabel, match=re.escape(text)) as caught:
        check_labels(labels)
    assert len(str(caught.value)) < 250


def test_the_place_of_the_caller_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^workers\[3\]\.labels\.gpu: "):
        check_labels({"gpu": None}, "workers[3].labels")
    with pytest.raises(InvalidLabel, match=r"^label: the key"):
        check_key(None)


# ── desired labels: defaults ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wish", "condition"),
    [
        ("x", ("EQUAL", "x", True, 0)),
        (512, ("EQUAL", 512, True, 0)),
        ({"value": 0.5}, ("EQUAL", 0.5, True, 0)),
        ({"value": "x", "weight": 10}, ("EQUAL", "x", False, 10)),
        ({"value": "x", "required": False}, ("EQUAL", "x", False, 100)),
        ({"value": "x", "required": False, "weight": 7}, ("EQUAL", "x", False, 7)),
        ({"value": "x", "required": True, "weight": 7}, ("EQUAL", "x", True, 0)),
        ({"value": "x", "weight": 1_000_000}, ("EQUAL", "x", False, 1_000_000)),
        ({"value": "x", "comparator": None, "required": None}, ("EQUAL", "x", True, 0)),
        ({"value": 1, "comparator": C.LESS_THAN}, ("LESS_THAN", 1, True, 0)),
        ({"value": 1, "comparator": "GREATER_THAN"}, ("GREATER_THAN", 1, True, 0)),
        ({"value": ["x", 1], "comparator": "IN"}, ("IN", ("x", 1), True, 0)),
        ({"value": ("x",), "comparator": "NOT_IN"}, ("NOT_IN", ("x",), True, 0)),
        ({"comparator": "EXISTS"}, ("EXISTS", None, True, 0)),
        ({"comparator": "NOT_EXISTS", "value": None}, ("NOT_EXISTS", None, True, 0)),
    ],
)
def test_a_desired_label_and_its_defaults(wish: Any, condition: tuple[Any, ...]) -> None:
    comparator, *rest = condition
    assert parse_desired({"k": wish}) == {"k": (Condition("k", C(comparator), *rest),)}


def test_a_list_of_conditions_on_one_key_means_all_of_them() -> None:
    desired = parse_desired(
        {
            "disk": [
                {"value": 100, "comparator": "GREATER_THAN"},
                {"value": 900, "comparator": "LESS_THAN", "weight": 3},
            ]
        }
    )
    assert desired["disk"] == (
        Condition("disk", C.GREATER_THAN, 100, True, 0),
        Condition("disk", C.LESS_THAN, 900, False, 3),
    )


# ── desired labels: refusals ──────────────────────────────────────────────────────────

D = "desired_worker_labels"
REFUSED_WISHES: list[tuple[Any, str]] = [
    (None, f"{D}: must be a map of key to desired label, not null"),
    (["model"], f"{D}: must be a map of key to desired label, not list"),
    ({"": 1}, f"{D}: the key '' must have 1 to 128 characters, it has 0"),
    ({1: 1}, f"{D}: the key 1 must be a string, not int"),
    ({"m": None}, f"{D}.m.value: None must be a string or a number, not null"),
    ({"m": True}, f"{D}.m.value: True must be a string or a number, not bool"),
    ({"m": math.nan}, f"{D}.m.value: nan must be a finite number"),
    ({"m": {}}, f"{D}.m.value: is missing; EQUAL needs one"),
    ({"m": []}, f"{D}.m: the list of conditions is empty"),
    ({"m": ["x", "y"]}, f'{D}.m[0]: a list here holds conditions such as {{"value"'),
    ({"m": [{"value": 1}, {"value": []}]}, f"{D}.m[1].value: [] must be a string or a number"),
    ({"m": {"valeu": 1}}, f"{D}.m.valeu: unknown field; a desired label has value, comparator"),
    ({"m": {"value": 1, 5: 1}}, f"{D}.m.5: unknown field"),
    (
        {"m": {"value": 1, "comparator": "=="}},
        f"{D}.m.comparator: '==' must be one of EQUAL, NOT_EQUAL, GREATER_THAN",
    ),
    ({"m": {"value": 1, "comparator": "equal"}}, f"{D}.m.comparator: 'equal' must be one of"),
    ({"m": {"value": 1, "comparator": 5}}, f"{D}.m.comparator: 5 must be one of"),
    (
        {"m": {"value": 1, "required": "yes"}},
        f"{D}.m.required: 'yes' must be true or false, not str",
    ),
    (
        {"m": {"value": 1, "required": True, "prefer_for": 2}},
        f"{D}.m.prefer_for: means nothing on a required label",
    ),
    ({"m": {"value": 1, "prefer_for": "soon"}}, f"{D}.m.prefer_for: 'soon' must be a positive"),
    ({"m": {"value": 1, "prefer_for": 0}}, f"{D}.m.prefer_for: 0 must be a positive"),
    ({"m": {"value": 1, "prefer_for": "2h"}}, f"{D}.m.prefer_for: '2h' is over 3600 s"),
    ({"m": {"value": 1, "required": 1}}, f"{D}.m.required: 1 must be true or false, not int"),
    (
        {"m": {"value": 1, "weight": 0}},
        f"{D}.m.weight: 0 must be a whole number from 1 to 1,000,000",
    ),
    ({"m": {"value": 1, "weight": 1_000_001}}, f"{D}.m.weight: 1000001 must be a whole number"),
    ({"m": {"value": 1, "weight": 1.5}}, f"{D}.m.weight: 1.5 must be a whole number"),
    ({"m": {"value": 1, "weight": True}}, f"{D}.m.weight: True must be a whole number"),
    (
        {"m": {"value": 1, "required": True, "weight": "10"}},
        f"{D}.m.weight: '10' must be a whole number",
    ),
    ({"m": {"value": "x", "comparator": "IN"}}, f"{D}.m.value: IN takes a list of 1 to 1024"),
    ({"m": {"value": [], "comparator": "IN"}}, f"{D}.m.value: IN takes a list of 1 to 1024"),
    (
        {"m": {"value": list(range(1025)), "comparator": "NOT_IN"}},
        f"{D}.m.value: NOT_IN takes a list of 1 to 1024",
    ),
    ({"m": {"comparator": "IN"}}, f"{D}.m.value: is missing; IN needs one"),
    (
        {"m": {"value": [1, None], "comparator": "IN"}},
        f"{D}.m.value[1]: None must be a string or a number",
    ),
    (
        {"m": {"value": 1, "comparator": "EXISTS"}},
        f"{D}.m.value: EXISTS takes no value, 1 was given",
    ),
    ({str(n): n for n in range(65)}, f"{D}: at most 64 conditions, these are 65"),
]


@pytest.mark.parametrize(("desired", "text"), REFUSED_WISHES)
def test_what_can_be_no_desired_label_is_refused_where_it_is_given(desired: Any, text: str) -> None:
    with pytest.raises(InvalidLabel, match="^" + re.escape(text)) as caught:
        parse_desired(desired)
    assert len(str(caught.value)) < 250


def test_every_refusal_begins_with_the_place_of_the_caller() -> None:
    with pytest.raises(InvalidLabel, match=r"^\$\.here\.m\.weight: "):
        parse_desired({"m": {"value": 1, "weight": 0}}, "$.here")


# ── merging, writing out, normalising ─────────────────────────────────────────────────


def test_a_key_that_is_merged_over_replaces_all_conditions_on_it() -> None:
    base = parse_desired({"disk": [{"value": 1}, {"value": 2}], "model": "x"})
    over = parse_desired({"disk": 3, "region": "fra"})
    merged = merge_desired(base, over)
    assert merged == {**parse_desired({"disk": 3, "model": "x"}), "region": over["region"]}
    assert base["disk"] != merged["disk"]


scalars = (
    st.text(max_size=20)
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
)


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    comparator = draw(st.sampled_from(list(C)))
    wish: dict[str, Any] = {"comparator": comparator}
    if comparator.takes_list:
        wish["value"] = draw(st.lists(scalars, min_size=1, max_size=3))
    elif not comparator.takes_nothing:
        wish["value"] = draw(scalars)
    wish |= draw(
        st.fixed_dictionaries(
            {}, optional={"required": st.booleans(), "weight": st.integers(1, 1_000_000)}
        )
    )
    return wish


desired_labels = st.dictionaries(
    st.text(min_size=1, max_size=10),
    scalars | wishes() | st.lists(wishes(), min_size=1, max_size=3),
    max_size=5,
)


@given(desired_labels)
@settings(max_examples=300)
def test_what_is_written_out_is_read_back_to_the_same(desired: dict[str, Any]) -> None:
    parsed = parse_desired(desired)
    conditions = [condition for group in parsed.values() for condition in group]
    assert parse_desired(conditions_to_desired(conditions)) == parsed


@given(desired_labels, st.randoms())
@settings(max_examples=200)
def test_the_order_of_writing_does_not_change_a_requirement(
    desired: dict[str, Any], random: Any
) -> None:
    conditions = [c for group in parse_desired(desired).values() for c in group]
    shuffled = list(conditions)
    random.shuffle(shuffled)
    first, second = Requirement.of("w:s", conditions), Requirement.of("w:s", shuffled)
    assert first == second
    assert hash(first) == hash(second)


def test_a_string_and_a_number_make_different_requirements() -> None:
    def of(value: Any) -> Requirement:
        return Requirement.of("w:s", parse_desired({"m": value})["m"])

    assert of("1") != of(1)
    assert of("x") != Requirement.of("w:t", parse_desired({"m": "x"})["m"])


def test_values_of_subclasses_become_plain() -> None:
    class Text(str):
        __slots__ = ()

    class Whole(int):
        pass

    class Real(float):
        pass

    checked = check_labels({"a": Text("x"), "b": Whole(1), "c": Real(1.5)})
    assert checked == {"a": "x", "b": 1, "c": 1.5}
    assert [type(value) for value in checked.values()] == [str, int, float]


def test_patience_states_a_preference() -> None:
    parsed = parse_desired({"m": {"value": 1, "prefer_for": "1m30s"}})
    (condition,) = parsed["m"]
    assert (condition.required, condition.weight, condition.prefer_for) == (False, 100, 90.0)
    written = conditions_to_desired([condition])
    assert written["m"]["prefer_for"] == 90.0
    assert parse_desired(written) == parsed

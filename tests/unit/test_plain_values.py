"""What steps may return: what JSON and MessagePack can say, and nothing else."""

import math
from collections import OrderedDict
from enum import IntEnum, StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganger import InvalidInput
from ganger_broker.codec import encode
from ganger_broker.plain_values import plain

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(values)
@settings(max_examples=200)
def test_plain_values_pass_unchanged_and_can_be_sent(value: Any) -> None:
    copy = plain(value)
    assert copy == value
    assert encode(copy)


def test_it_is_a_copy() -> None:
    inner: list[int] = [1]
    copy = plain({"a": inner})
    inner.append(2)
    assert copy == {"a": [1]}


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


def test_subclasses_become_what_they_are_a_kind_of() -> None:
    class Word(str): ...

    class Share(float): ...

    copy = plain(OrderedDict(colour=Colour.RED, size=Size.LARGE, word=Word("w"), share=Share(0.5)))
    assert copy == {"colour": "red", "size": 3, "word": "w", "share": 0.5}
    assert {type(item) for item in copy.values()} == {str, int, float}
    assert type(copy) is dict
    assert plain((1, (2,))) == [1, [2]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, {1: 2}]}, "$.a[1]: the key 1 must be a string, not int"),
        ({"a": math.nan}, "$.a: nan has no JSON form"),
        ([math.inf], "$[0]: inf has no JSON form"),
        (b"x", "$: builtins.bytes has no JSON form"),
        ({"s": {1}}, "$.s: builtins.set has no JSON form"),
        ([msgspec.UNSET], "has no JSON form"),
        (2**64, "$: a whole number beyond 64 bits"),
        ({"a": "\ud800"}, r"$.a: '\ud800' is not valid Unicode"),
        ({"\ud800": 1}, "is not valid Unicode"),
    ],
)
def test_what_has_no_json_form_is_named_with_its_path(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plain(value)
    assert said in str(caught.value)


def test_a_path_is_put_in_words_only_where_something_is_wrong() -> None:
    """Under a long key, long lists would take as long as both together."""

    class Key(str):
        words = 0

        def __format__(self, how: str) -> str:
            Key.words += 1
            return "k"

    assert plain({Key("k"): [{Key("k"): 1}] * 100}) == {"k": [{"k": 1}] * 100}
    assert Key.words == 0
    with pytest.raises(InvalidInput, match=r"^\$\.k\[0\]\.k: nan has no JSON form"):
        plain({Key("k"): [{Key("k"): math.nan}]})
    assert Key.words == 2


def test_nesting_without_end_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput, match="nested more than 200 deep"):
        plain(loop)

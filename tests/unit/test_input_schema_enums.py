"""What is told of an enum in advance: its values, where it finds its members by nothing else."""

from enum import Enum, EnumMeta, StrEnum
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from .test_input_schema import problem, takes


class AnyCase(Enum):
    SMALL = "small"
    LARGE = "large"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls(value.lower()) if isinstance(value, str) and value != value.lower() else None


class Base(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> Any:
        return next((each for each in cls if each.name == value), None)


class ByName(Base):
    LARGE = "l"


class Listing(Enum):
    """Each has other values than its own, that are looked up where its own are."""

    def __new__(cls, value: str, *others: str) -> "Listing":
        made = object.__new__(cls)
        made._value_ = value
        cls._value2member_map_ |= dict.fromkeys(others, made)
        return made

    LARGE = "large", "l", "L"


class Calling(EnumMeta):
    def __call__(cls, value: Any, *more: Any, **fields: Any) -> Any:
        return super().__call__(str(value).strip(), *more, **fields)


class Trimmed(Enum, metaclass=Calling):
    LARGE = "large"


class Remade(StrEnum):
    LARGE = "large"


Remade.__new__ = lambda cls, value: cls.LARGE  # type: ignore[method-assign, assignment]


class Labelled(Enum):
    """A value and a text for people: members are found by the value alone."""

    def __new__(cls, value: str, label: str) -> "Labelled":
        made = object.__new__(cls)
        made._value_ = value
        return made

    SMALL = "small", "less than a metre"
    LARGE = "large", "a metre and more"


def of_size(kind: Any) -> type[BaseModel]:
    return create_model("Sized", size=(kind, ...))


@pytest.mark.parametrize(
    ("kind", "size"),
    [(AnyCase, "LARGE"), (ByName, "LARGE"), (Listing, "L"), (Trimmed, " large"), (Remade, "any")],
)
def test_an_enum_that_finds_its_members_in_its_own_way_is_left_open(kind: Any, size: str) -> None:
    assert takes(of_size(kind), {"size": size})
    assert problem(of_size(kind), {"size": size}) is None
    assert problem(of_size(list[kind]), {"size": [size]}) is None


@pytest.mark.parametrize("kind", [Labelled, StrEnum("Size", {"S": "small", "L": "large"})])
def test_one_that_finds_them_by_their_values_is_told(kind: Any) -> None:
    said = "$.input.size: 'LARGE' is not one of ['small', 'large']"
    assert not takes(of_size(kind), {"size": "LARGE"})
    assert problem(of_size(kind), {"size": "LARGE"}) == said

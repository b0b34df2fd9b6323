"""Labels, and what a step desires of them.

A *label* is a key → string or number on a worker. A *desired label* is a condition
on one of them: value, comparator, required or weighted. Everything is checked where
it is given, with an error that names key and value; what passes here needs no
checking further in. The semantics are in ``docs/matching.md``.
"""

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from .durations import parse_duration
from .errors import InvalidInput, InvalidLabel
from .quoting import quoted

__all__ = [
    "DEFAULT_WEIGHT",
    "MAX_CONDITIONS",
    "MAX_ELEMENTS",
    "MAX_EXACT_INT",
    "MAX_KEY_LENGTH",
    "MAX_LABELS",
    "MAX_PATIENCE",
    "MAX_STRING_LENGTH",
    "MAX_WEIGHT",
    "Condition",
    "LabelValue",
    "Labels",
    "Requirement",
    "WorkerLabelComparator",
    "check_key",
    "check_labels",
    "check_value",
    "conditions_to_desired",
    "merge_desired",
    "parse_desired",
]

LabelValue = str | int | float
Labels = Mapping[str, LabelValue]

MAX_KEY_LENGTH = 128
"""Characters in a label's key."""
MAX_STRING_LENGTH = 1024
"""Characters in a label's string value."""
MAX_LABELS = 64
"""Labels on one worker."""
MAX_EXACT_INT = 2**53
"""The largest whole number that a float64 column holds exactly, as all JSON readers do."""
DEFAULT_WEIGHT = 100
MAX_WEIGHT = 1_000_000
MAX_CONDITIONS = 64
"""Conditions in one requirement."""
MAX_PATIENCE = 3600.0
"""Seconds of ``prefer_for``."""
MAX_ELEMENTS = 1024
"""Elements in the list of an IN or NOT_IN condition."""


class WorkerLabelComparator(StrEnum):
    """How a worker's label (on the left) is compared with the desired value (on the right)."""

    EQUAL = "EQUAL"
    NOT_EQUAL = "NOT_EQUAL"
    GREATER_THAN = "GREATER_THAN"
    GREATER_THAN_OR_EQUAL = "GREATER_THAN_OR_EQUAL"
    LESS_THAN = "LESS_THAN"
    LESS_THAN_OR_EQUAL = "LESS_THAN_OR_EQUAL"
    IN = "IN"
    NOT_IN = "NOT_IN"
    EXISTS = "EXISTS"
    NOT_EXISTS = "NOT_EXISTS"

    @property
    def takes_list(self) -> bool:
        """Whether the desired value is a list (IN, NOT_IN)."""
        return self in (WorkerLabelComparator.IN, WorkerLabelComparator.NOT_IN)

    @property
    def takes_nothing(self) -> bool:
        """Whether there is no desired value (EXISTS, NOT_EXISTS)."""
        return self in (WorkerLabelComparator.EXISTS, WorkerLabelComparator.NOT_EXISTS)


class Condition(msgspec.Struct, frozen=True, order=True):
    """One desired label, checked and with its defaults filled in.

    ``value`` is a string or number, a tuple of them for IN and NOT_IN, and None for
    EXISTS and NOT_EXISTS. ``weight`` is 0 where ``required`` is true: it means nothing there.
    ``prefer_for``: seconds that a step waits for a worker that meets it and is merely busy.
    """

    key: str
    comparator: WorkerLabelComparator
    value: LabelValue | tuple[LabelValue, ...] | None
    required: bool
    weight: int
    prefer_for: float = 0.0


class Requirement(msgspec.Struct, frozen=True):
    """A step's action with all its desired labels, normalised.

    Equal requirements are equal values, whatever order their conditions were written
    in; the requirement itself is the *signature* that pending steps and the placement
    index are kept by. With ``worker`` only that one is eligible: a sticky step is pinned to it.
    """

    action: str
    conditions: tuple[Condition, ...]
    worker: str | None = None

    @classmethod
    def of(cls, action: str, conditions: Iterable[Condition]) -> "Requirement":
        """Normalise: the order in which conditions were written does not matter."""
        return cls(action, tuple(sorted(conditions, key=_condition_order)))


def _condition_order(condition: Condition) -> tuple[str, str, str, bool, int]:
    # repr tells 1 from "1" and gives strings, numbers, tuples and None one order
    return (
        condition.key,
        condition.comparator,
        repr(condition.value),
        condition.required,
        condition.weight,
    )


def check_key(key: object, place: str = "label") -> str:
    """Return ``key`` if it can be a label's key.

    Raises:
        InvalidLabel: it is not a string of 1 to 128 characters, all valid Unicode.
    """
    if not isinstance(key, str):
        raise InvalidLabel(f"{place}: the key {key!r} must be a string, not {_kind(key)}")
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidLabel(
            f"{place}: the key {_short(key)} must have 1 to {MAX_KEY_LENGTH} characters, "
            f"it has {len(key)}"
        )
    if not _is_text(key):
        raise InvalidLabel(f"{place}: the key {_short(key)} is not valid Unicode text")
    return key


def check_value(value: object, place: str) -> LabelValue:
    """Return ``value`` if it can be a label's value.

    Raises:
        InvalidLabel: it is a bool, None, NaN, an infinity, a whole number beyond 2^53,
            a string of more than 1,024 characters, or of any other type.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidLabel(
            f"{place}: {_short(value)} must be a string or a number, not {_kind(value)}"
        )
    if isinstance(value, str):
        if len(value) > MAX_STRING_LENGTH:
            raise InvalidLabel(
                f"{place}: the string {_short(value)} has {len(value)} characters, "
                f"at most {MAX_STRING_LENGTH} are allowed"
            )
        if not _is_text(value):
            raise InvalidLabel(f"{place}: {_short(value)} is not valid Unicode text")
        return str.__str__(value)  # plain: a subclass could not be packed
    if isinstance(value, int):
        if abs(value) > MAX_EXACT_INT:
            raise InvalidLabel(f"{place}: the whole number {value} must be within ±2^53")
        return int(value)
    if not math.isfinite(value):
        raise InvalidLabel(f"{place}: {value!r} must be a finite number")
    return float(value)


def check_labels(labels: object, place: str = "labels") -> dict[str, LabelValue]:
    """Return a checked copy of a worker's labels.

    Raises:
        InvalidLabel: ``labels`` is not a mapping, has more than 64 entries, or holds a bad
            key or value; the text names it as ``<place>.<key>``.
    """
    if not isinstance(labels, Mapping):
        raise InvalidLabel(f"{place}: must be a map of key to value, not {_kind(labels)}")
    if len(labels) > MAX_LABELS:
        raise InvalidLabel(
            f"{place}: a worker has at most {MAX_LABELS} labels, these are {len(labels)}"
        )
    return {
        check_key(key, place): check_value(value, f"{place}.{key}") for key, value in labels.items()
    }


def parse_desired(
    desired: object, place: str = "desired_worker_labels", *, most: int = MAX_CONDITIONS
) -> dict[str, tuple[Condition, ...]]:
    """Check a step's desired labels and fill in their defaults, by key.

    ``desired`` maps a key to a bare value (``"x"``), a condition
    (``{"value": 256, "comparator": "GREATER_THAN", "required": True}``) or a list of
    conditions that must all count (a range, say). ``comparator`` defaults to EQUAL;
    ``required`` to true, or to false where a ``weight`` or ``prefer_for`` is given; ``weight``
    to 100, ``prefer_for`` (a duration) to nothing.
    ``most``: conditions it may hold in all.

    Raises:
        InvalidLabel: something in it is wrong; the text names the place, such as
            ``desired_worker_labels.memory.comparator``.
    """
    if not isinstance(desired, Mapping):
        raise InvalidLabel(f"{place}: must be a map of key to desired label, not {_kind(desired)}")
    parsed = {
        check_key(key, place): _parse_key(key, wish, f"{place}.{key}")
        for key, wish in desired.items()
    }
    count = sum(map(len, parsed.values()))
    if count > most:
        raise InvalidLabel(f"{place}: at most {most} conditions, these are {count}")
    return parsed


def merge_desired(
    base: Mapping[str, tuple[Condition, ...]], over: Mapping[str, tuple[Condition, ...]]
) -> dict[str, tuple[Condition, ...]]:
    """A trigger's desired labels over a step's: a key in ``over`` replaces all of that key."""
    return {**base, **over}


def conditions_to_desired(conditions: Iterable[Condition]) -> dict[str, Any]:
    """The written-out form of conditions, which ``parse_desired`` reads back to the same."""
    desired: dict[str, list[dict[str, Any]]] = {}
    for condition in conditions:
        wish: dict[str, Any] = {"comparator": condition.comparator.value}
        if condition.comparator.takes_list:
            wish["value"] = list(condition.value)  # type: ignore[arg-type]
        elif not condition.comparator.takes_nothing:
            wish["value"] = condition.value
        wish["required"] = condition.required
        if not condition.required:
            wish["weight"] = condition.weight
        if condition.prefer_for:
            wish["prefer_for"] = condition.prefer_for
        desired.setdefault(condition.key, []).append(wish)
    return {key: wishes[0] if len(wishes) == 1 else wishes for key, wishes in desired.items()}


def _parse_key(key: str, wish: object, place: str) -> tuple[Condition, ...]:
    if isinstance(wish, list | tuple):
        if not wish:
            raise InvalidLabel(f"{place}: the list of conditions is empty")
        for index, item in enumerate(wish):
            if not isinstance(item, Mapping):
                raise InvalidLabel(
                    f"{place}[{index}]: a list here holds conditions such as "
                    '{"value": …, "comparator": …}; for a list of values say '
                    '{"value": […], "comparator": "IN"}'
                )
        return tuple(_parse_one(key, item, f"{place}[{index}]") for index, item in enumerate(wish))
    if isinstance(wish, Mapping):
        return (_parse_one(key, wish, place),)
    return (_parse_one(key, {"value": wish}, place),)


_FIELDS = ("value", "comparator", "required", "weight", "prefer_for")


def _parse_one(key: str, wish: Mapping[Any, Any], place: str) -> Condition:
    for field in wish:
        if field not in _FIELDS:
            raise InvalidLabel(
                f"{place}.{field}: unknown field; a desired label has {', '.join(_FIELDS)}"
            )
    comparator = _parse_comparator(wish.get("comparator"), f"{place}.comparator")
    weight = wish.get("weight")
    if weight is not None:
        _check_weight(weight, f"{place}.weight")
    patience = _parse_patience(wish.get("prefer_for"), f"{place}.prefer_for")
    required = wish.get("required")
    if required is None:
        required = weight is None and not patience
    elif not isinstance(required, bool):
        raise InvalidLabel(
            f"{place}.required: {_short(required)} must be true or false, not {_kind(required)}"
        )
    if required and patience:
        raise InvalidLabel(
            f"{place}.prefer_for: means nothing on a required label: it always waits"
        )
    value = _parse_value(wish, comparator, f"{place}.value")
    points = 0 if required else DEFAULT_WEIGHT if weight is None else weight
    return Condition(key, comparator, value, required, points, patience)


def _parse_patience(given: object, place: str) -> float:
    if given is None:
        return 0.0
    try:
        seconds = parse_duration(given, place)  # type: ignore[arg-type]
    except InvalidInput as exc:
        raise InvalidLabel(str(exc)) from exc
    if seconds > MAX_PATIENCE:
        raise InvalidLabel(
            f"{place}: {_short(given)} is over {MAX_PATIENCE:g} s, the most there is"
        )
    return seconds


def _parse_comparator(given: object, place: str) -> WorkerLabelComparator:
    if given is None:
        return WorkerLabelComparator.EQUAL
    try:
        return WorkerLabelComparator(str(given))
    except ValueError:
        known = ", ".join(WorkerLabelComparator)
        raise InvalidLabel(f"{place}: {_short(given)} must be one of {known}") from None


def _check_weight(weight: object, place: str) -> None:
    whole = isinstance(weight, int) and not isinstance(weight, bool)
    if not whole or not 1 <= weight <= MAX_WEIGHT:  # type: ignore[operator]
        raise InvalidLabel(
            f"{place}: {_short(weight)} must be a whole number from 1 to {MAX_WEIGHT:,}"
        )


def _parse_value(
    wish: Mapping[Any, Any], comparator: WorkerLabelComparator, place: str
) -> LabelValue | tuple[LabelValue, ...] | None:
    value = wish.get("value")
    if comparator.takes_nothing:
        if value is not None:
            raise InvalidLabel(f"{place}: {comparator} takes no value, {_short(value)} was given")
        return None
    if "value" not in wish:
        raise InvalidLabel(f"{place}: is missing; {comparator} needs one")
    if not comparator.takes_list:
        return check_value(value, place)
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_ELEMENTS:
        raise InvalidLabel(
            f"{place}: {comparator} takes a list of 1 to {MAX_ELEMENTS} strings or numbers, "
            f"{_short(value)} was given"
        )
    return tuple(check_value(item, f"{place}[{index}]") for index, item in enumerate(value))


def _is_text(text: str) -> bool:
    """Whether it can be encoded: Python's strings may hold half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _short(value: object) -> str:
    return quoted(value, 60)

"""Expressions on a run's input, in JMESPath (https://jmespath.org): ``customer.id``."""

from collections.abc import Iterator, Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

from .definitions import FromInput
from .errors import InvalidInput
from .labels import check_key, check_value
from .pool_labels import check_not_reserved

__all__ = ["check_expression", "check_sets_labels", "evaluate"]

MAX_LENGTH = 512
"""Characters of an expression."""


def check_expression(expression: object, place: str) -> str:
    """Return ``expression`` if it is one.

    Raises:
        InvalidInput: it is not, has more than 512 characters, calls a function that there is not,
            or one with too many or too few arguments; the text names ``place``.
    """
    if not isinstance(expression, str) or not 1 <= len(expression) <= MAX_LENGTH:
        raise InvalidInput(
            f"{place}: {expression!r} must be a JMESPath expression on the input, such as "
            f"'customer.id', of at most {MAX_LENGTH} characters"
        )
    try:
        parsed = jmespath.compile(expression).parsed
    except (JMESPathError, RecursionError) as exc:
        first, *_ = str(exc).splitlines() or ["it cannot be read"]
        first = first.removesuffix(", for expression:").rstrip(":")  # which is said already
        raise InvalidInput(f"{place}: {expression!r} is no JMESPath expression: {first}") from exc
    for function, count in _calls_in(parsed):
        problem = _call_problem(function, count)
        if problem is not None:
            raise InvalidInput(f"{place}: {expression!r}: {problem}")
    return expression


def _calls_in(parsed: Any) -> Iterator[tuple[str, int]]:
    """The functions that are called in it, each with how many arguments it is given."""
    left = [parsed]
    while left:
        node = left.pop(0)
        if isinstance(node, dict):  # others are the bounds of a slice
            left += node["children"]
            if node["type"] == "function_expression":
                yield node["value"], len(node["children"])


def _call_problem(function: str, count: int) -> str | None:
    """What is wrong with a call, which JMESPath itself says only where it evaluates it."""
    known = Functions.FUNCTION_TABLE.get(function)
    if known is None:
        names = ", ".join(f"{name}()" for name in sorted(Functions.FUNCTION_TABLE))
        return f"there is no function {function}(); there are {names}"
    signature = known["signature"]
    least, is_open = len(signature), bool(signature and signature[-1].get("variadic"))
    if count == least or (is_open and count > least):
        return None
    takes = f"{'at least ' if is_open else ''}{least} argument{'' if least == 1 else 's'}"
    return f"{function}() takes {takes}, and here has {count}"


def evaluate(expression: str, input: Mapping[str, Any]) -> Any:
    """Its value on a run's input; None where the input has nothing of the kind, where the
    expression fails on it, and where the value is large."""
    try:
        value = jmespath.search(expression, input)
    except Exception:  # JMESPath's functions and slices raise what Python does
        return None
    return value if _is_small(value) else None


def _is_small(value: Any) -> bool:
    """Whether it is made of few parts; a part that stands in it twice counts twice."""
    left, parts = 1_000, [value]
    while parts and left > 0:
        left -= 1
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, list):
            parts += part
        elif not isinstance(part, str | int | float | None):
            return False
    return not parts


def check_sets_labels(given: Mapping[str, Any], place: str) -> None:
    """Check the labels that a step says it sets.

    Raises:
        InvalidLabel: a key or value can be no label's; the text names the place.
        InvalidInput: an expression is none.
    """
    for key, value in given.items():
        check_not_reserved([check_key(key, place)], place)
        if isinstance(value, FromInput):
            check_expression(value.from_input, f"{place}.{key}: from_input")
        else:
            check_value(value, f"{place}.{key}")

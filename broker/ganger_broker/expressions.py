"""Expressions on a run's input, in JMESPath (https://jmespath.org): ``customer.id``."""

from collections.abc import Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

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
        InvalidInput: it is not, or has more than 512 characters; the text names ``place``.
    """
    if not isinstance(expression, str) or not 1 <= len(expression) <= MAX_LENGTH:
        raise InvalidInput(
            f"{place}: {expression!r} must be a JMESPath expression on the input, such as "
            f"'customer.id', of at most {MAX_LENGTH} characters"
        )
    try:
        jmespath.compile(expression)
    except (JMESPathError, RecursionError) as exc:
        first, *_ = str(exc).splitlines() or ["it cannot be read"]
        raise InvalidInput(f"{place}: {expression!r} is no JMESPath expression: {first}") from exc
    return expression


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

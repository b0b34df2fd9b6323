"""How much one input is looked at: in steps that are counted, so that equal inputs have equal
fates on every dispatcher."""

from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from typing import Any

from jsonschema.exceptions import ValidationError

__all__ = ["MOST_STEPS", "Check", "Effort", "TooMuch", "bounded", "spend"]

MOST_STEPS = 20_000
"""Of 10 to 30 µs each: a fraction of a second for the worst input, less than a third of a lease."""

_CHARACTERS = 100
"""Of a message that are a step: it says the value, which may be large."""
_BY_SIZE = frozenset({"items", "contains", "properties", "propertyNames", "patternProperties"})
_BY_SIZE |= {"additionalProperties"}
"""Keywords that go through what is in the value."""

_left: ContextVar[list[int]] = ContextVar("steps left")

Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class TooMuch(Exception):
    """The steps for this input are used up."""


class Effort:
    """While it is open, ``spend`` counts; after so many steps it raises ``TooMuch``."""

    def __init__(self, steps: int = MOST_STEPS) -> None:
        self._steps = steps
        self._token: Token[list[int]]

    def __enter__(self) -> None:
        self._token = _left.set([self._steps])

    def __exit__(self, *_: object) -> None:
        _left.reset(self._token)


def spend(steps: int) -> None:
    """So many steps more.

    Raises:
        TooMuch: they are more than are left.
    """
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise TooMuch


def bounded(check: Check, name: str = "") -> Check:
    """A keyword's check that spends steps: for itself, for what it goes through, and for each
    error that it passes on."""
    by_size = name in _BY_SIZE

    def spending(
        validator: Any, rule: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        spend(1 + len(instance) if by_size and isinstance(instance, dict | list) else 1)
        for error in check(validator, rule, instance, schema) or ():
            spend(1 + len(error.message) // _CHARACTERS)
            yield error

    return spending

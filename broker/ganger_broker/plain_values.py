"""What steps return and runs are given, as plain values that JSON and MessagePack can say.

The worker checks what a step returns, the client what it triggers with, and the dispatcher
what comes from anywhere: so what Redis keeps as JSON is what a worker is sent.
"""

import math
from collections.abc import Mapping
from typing import Any

from .errors import InvalidInput
from .model_values import dumped, is_model

__all__ = ["plain"]

MAX_DEPTH = 200
"""Nested containers; all readers of our messages take that many."""

_SMALLEST_INT = -(2**63)
_LARGEST_INT = 2**64 - 1


def plain(value: Any, place: str = "$", depth: int = 0) -> Any:
    """A copy of ``value`` made of dict, list, str, int, float, bool and None only.

    Tuples become lists, subclasses of str, int and float their plain value, and pydantic
    models what they can be read again from.

    Raises:
        InvalidInput: something in it is none of these, a map's key is not a string, a number
            is not finite or beyond 64 bits, a string is not valid Unicode, or a secret would
            be sent as stars; the text names the path.
    """
    return _plain(value, (None, place), depth)


_Path = tuple[Any, str | int]
"""A key or an index, after the path to what it is in: put into words only where that is needed."""


def _plain(value: Any, path: _Path, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str or isinstance(value, str):
        return _text(str.__str__(value), path)
    if kind is int or isinstance(value, int):
        return _whole(int(value), path)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(
                f"{_place(path)}: {float(value)!r} has no JSON form; use null (None)"
            )
        return float(value)
    if depth >= MAX_DEPTH:
        raise InvalidInput(f"{_place(path)[:60]}…: is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {
            _key(key, path): _plain(item, (path, key), depth + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, (path, at), depth + 1) for at, item in enumerate(value)]
    if is_model(value):
        return _plain(dumped(value, _place(path)), path, depth)
    raise InvalidInput(
        f"{_place(path)}: {kind.__module__}.{kind.__qualname__} has no JSON form; use map, list, "
        "string, number, bool, None or a pydantic model"
    )


def _place(path: _Path) -> str:
    """A path in words, such as ``$.input.images[3]``."""
    before, step = path
    steps: list[str] = []
    while before is not None:
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
        before, step = before
    return "".join([str(step), *reversed(steps)])


def _key(key: Any, path: _Path) -> str:
    if not isinstance(key, str):
        raise InvalidInput(
            f"{_place(path)}: the key {key!r} must be a string, not {type(key).__name__}"
        )
    return _text(str.__str__(key), path)


def _text(text: str, path: _Path) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{_place(path)}: {text[:60]!r} is not valid Unicode text") from None
    return text


def _whole(number: int, path: _Path) -> int:
    if not _SMALLEST_INT <= number <= _LARGEST_INT:
        raise InvalidInput(f"{_place(path)}: a whole number beyond 64 bits; use a string")
    return number

"""Keys given twice in one JSON object: of their two values nobody can tell which one is meant."""

from collections import Counter
from json import JSONDecoder
from typing import Any

__all__ = ["repeated_key"]


def repeated_key(text: str) -> str | None:
    """Where a key is given twice in JSON that can be read, such as ``.workers[1].labels.memory``.

    None where none is. Every other reader keeps the last value and says nothing.

    Raises:
        RecursionError: it is nested too deeply to be looked at.
    """
    found: list[_Repeated] = []

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        given = dict(pairs)
        if len(given) == len(pairs):
            return given
        counted = Counter(name for name, _ in pairs)
        found.append(_Repeated(given, next(name for name in counted if counted[name] > 1)))
        return found[-1]

    # numbers are not looked at, and an int of many digits would be refused
    whole = JSONDecoder(object_pairs_hook=read, parse_int=float, strict=False).decode(text)
    return _place(whole) if found else None


class _Repeated(dict[str, Any]):
    """An object in which ``key`` is given more than once."""

    def __init__(self, given: dict[str, Any], key: str) -> None:
        super().__init__(given)
        self.key = key


def _place(value: Any) -> str | None:
    """Of the first that there is, from the outside in."""
    if isinstance(value, _Repeated):
        return f".{value.key}"
    if isinstance(value, dict):
        for key, item in value.items():
            if (found := _place(item)) is not None:
                return f".{key}{found}"
    elif isinstance(value, list):
        for at, item in enumerate(value):
            if (found := _place(item)) is not None:
                return f"[{at}]{found}"
    return None

"""What the key of an event may be, and a pattern for keys."""

import re
from fnmatch import fnmatchcase
from string import ascii_letters, digits, punctuation

from .errors import InvalidInput
from .fields import EVENT_KEY_PATTERN, MAX_EVENT_KEY

__all__ = ["check_event_key", "check_event_pattern"]

_RIGHT = f"1 to {MAX_EVENT_KEY} bytes in UTF-8, all of it printable, no space and none of * ? [ ]"
_PART = re.compile(r"\[!?+]?+[^]]*+]|.", re.DOTALL)
"""Of a pattern: a character, or several in brackets, as ``fnmatch`` reads it."""


def check_event_key(key: object, place: str) -> None:
    """See that it is an event's key.

    Raises:
        InvalidInput: it is not; the text begins with ``place``.
    """
    if not _can_be_key(key):
        raise InvalidInput(f"{place}: {key!r} must have {_RIGHT}")


def check_event_pattern(pattern: str, place: str) -> None:
    """See that there are keys that it matches.

    Raises:
        InvalidInput: there are none; the text begins with ``place``.
    """
    parts = [part for part in _PART.findall(pattern) if part != "*"]
    problem = next(filter(None, map(_part_problem, parts)), None)
    least = sum(len(part.encode()) if len(part) == 1 else 1 for part in parts if not problem)
    if least > MAX_EVENT_KEY:
        problem = f"it stands for {least} bytes or more"
    if problem is not None:
        raise InvalidInput(f"{place}: {pattern!r} can match no key: {problem}; a key has {_RIGHT}")


def _part_problem(part: str) -> str | None:
    """Why no key has this part of a pattern in it."""
    if part == "[":
        return "its '[' has no ']'"
    if len(part) == 1:
        return None if part == "?" or _can_be_key(part) else f"{part!r} is in no key"
    some = {*part, *ascii_letters, *digits, *punctuation}
    if any(_can_be_key(each) and fnmatchcase(each, part) for each in some):
        return None
    return f"no key has one of {part!r}"


def _can_be_key(key: object) -> bool:
    if not isinstance(key, str) or not re.fullmatch(EVENT_KEY_PATTERN, key):
        return False
    return len(key.encode(errors="surrogatepass")) <= MAX_EVENT_KEY and key.isprintable()

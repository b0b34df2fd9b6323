"""What an adapter takes with ``--set``: declared once, told to people, checked all at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ganger_broker.errors import InvalidInput

__all__ = ["DNS_LABEL", "IMAGE", "YES_OR_NO", "Option", "read_options", "told"]

DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
IMAGE = r"[^\s,-][^\s,]*"
"""One image; whoever gives two with a comma between them may think that it takes both."""
YES_OR_NO = "yes|no"


@dataclass(frozen=True)
class Option:
    """One of them. ``default`` None: it has to be given; empty: it may be left out."""

    what: str
    pattern: str
    right: str
    """What would be right, after the words "must be"."""
    default: str | None = ""


def told(options: Mapping[str, Option]) -> dict[str, str]:
    """What each is, for people."""
    return {name: f"{option.what}{_fallback(option)}" for name, option in options.items()}


def _fallback(option: Option) -> str:
    if option.default is None:
        return " (needed)"
    return f" (default: {option.default})" if option.default else ""


def read_options(options: Mapping[str, Option], given: Mapping[str, str]) -> dict[str, str]:
    """The value of every option.

    Raises:
        InvalidInput: some are wrong or missing; the text names each and says what is right.
    """
    wrong, values = [], {}
    for name, option in options.items():
        value = given.get(name)
        if value is None and option.default is None:
            wrong.append(f"--set {name}=…: is needed: {option.what}")
        elif value is not None and not re.fullmatch(option.pattern, value):
            wrong.append(f"--set {name}: {value!r} must be {option.right}")
        else:
            values[name] = value if value is not None else option.default or ""
    if wrong:
        raise InvalidInput("; ".join(wrong))
    return values

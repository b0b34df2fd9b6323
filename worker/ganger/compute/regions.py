"""The regions that there are: those of a table, and those that a deployment adds."""

from functools import cache
from importlib.resources import files
from typing import NamedTuple

from ganger_broker.errors import InvalidInput

from .nearest import nearest

__all__ = ["Region", "add_region", "check_region", "regions"]

_NAMED_MOST = 3
"""Regions that are suggested with their cities; of more there are the codes only."""


class Region(NamedTuple):
    """A place where machines are."""

    code: str
    city: str
    country: str
    """ISO 3166-1 alpha-2."""


@cache
def _known() -> dict[str, Region]:
    lines = files(__package__).joinpath("regions.csv").read_text("utf-8").splitlines()
    return {code: Region(code, city, country) for code, city, country in map(_fields, lines[1:])}


def _fields(line: str) -> list[str]:
    return line.split(",")


def regions() -> dict[str, Region]:
    """All regions by their codes."""
    return dict(_known())


def add_region(code: str, city: str, country: str) -> Region:
    """Add a region of your own: a data centre, say. Adding the same one again is fine.

    Raises:
        InvalidInput: the code cannot be one, or is another region's.
    """
    if not (isinstance(code, str) and code.isascii() and code.isalnum() and code == code.lower()):
        raise InvalidInput(f"region: code: {code!r} must be lower case letters and digits")
    for field, text in (("city", city), ("country", country)):
        if not isinstance(text, str) or not text:
            raise InvalidInput(f"region {code!r}: {field}: {text!r} must be a text")
    if len(code) > 32:
        raise InvalidInput(f"region: code: {code!r} must have at most 32 characters")
    region = Region(code, city, country)
    known = _known().setdefault(code, region)
    if known != region:
        raise InvalidInput(f"region: code: {code!r} is {known.city}, {known.country} already")
    return region


def check_region(code: object) -> str:
    """Return ``code`` if it is a region's.

    Raises:
        ValueError: it is not; the text suggests the nearest.
    """
    known = _known()
    if isinstance(code, str) and code in known:
        return code
    raise ValueError(f"{code!r} is no region{_nearest(code)}")


def _nearest(code: object) -> str:
    if not isinstance(code, str):
        return ", but must be a code such as 'fra'"
    known = _known()
    codes = nearest(code, known)
    if not codes:
        return "; see ganger.compute.regions()"
    if len(codes) > _NAMED_MOST:
        return f"; did you mean one of {', '.join(codes)}?"
    named = [f"{near!r} ({known[near].city})" for near in codes]
    return f"; did you mean {' or '.join(named)}?"

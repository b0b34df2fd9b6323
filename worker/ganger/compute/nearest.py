"""Which region is meant by what is none: a place that is known, or a region misspelt."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Protocol

__all__ = ["nearest"]

_ALIKE = 0.8
"""Likeness, of 1, that a name has to have: 'munich' is 'mumbai' to two thirds."""
_NAME = 4
"""Characters from which on a word may be a name; what is shorter is a code."""


class _Region(Protocol):
    @property
    def code(self) -> str: ...
    @property
    def city(self) -> str: ...
    @property
    def country(self) -> str: ...


def nearest(given: str, known: Mapping[str, _Region]) -> list[str]:
    """The codes of the regions that are nearest to a place, or whose codes or names are much
    alike; none rather than one that is far away.

    A place goes before what is only alike: 'san' is San Diego, and no 'sin' that is misspelt.
    """
    word, names = _plain(given), _names(known.values())
    found = names.get(word, [])
    if len(word) == 2:  # a country's, or the beginning of a code
        found = [*found, *(code for code in known if code.startswith(word))]
    if not found:
        found = [code for code in known if _is_one_off(word, code)]
    if not found and len(word) >= _NAME:
        whole = [name for name in names if len(name) >= _NAME]
        alike = get_close_matches(word, whole, 1, _ALIKE)
        found = [code for name in alike for code in names[name]]
    return list(dict.fromkeys(found))


def _is_one_off(word: str, code: str) -> bool:
    """Whether one letter is another, is missing or is one too many, or two that stand together
    have changed places. One letter alone is no misspelt code."""
    if min(len(word), len(code)) < 2:
        return False
    same = _same_from_the_start(word, code)
    word, code = word[same:][::-1], code[same:][::-1]
    same = _same_from_the_start(word, code)
    word, code = word[same:], code[same:]
    return max(len(word), len(code)) < 2 or (len(word) == 2 and word == code[::-1])


def _same_from_the_start(one: str, other: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _names(regions: Iterable[_Region]) -> dict[str, list[str]]:
    """Words that stand for regions; a region's own come first."""
    regions = list(regions)
    names: dict[str, list[str]] = {}
    for region in regions:
        names[_plain(region.code)] = [region.code]
        names.setdefault(_plain(region.city), []).append(region.code)
    for code, name, near in _places():
        there = [region.code for region in regions if near in (region.code, region.country)]
        for word in (code, _plain(name)):
            names.setdefault(word, there)
    return names


@cache
def _places() -> list[tuple[str, str, str]]:
    """Places, each with the region that is nearest, or the country whose regions are."""
    lines = files(__package__).joinpath("places.csv").read_text("utf-8").splitlines()
    return [(code, name, near) for code, name, near in (line.split(",") for line in lines[1:])]


def _plain(text: str) -> str:
    """In lower case, without accents, with spaces between words."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[\s_-]+", " ", bare).strip()

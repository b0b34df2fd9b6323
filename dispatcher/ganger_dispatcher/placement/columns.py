"""The fleet's labels as columns: per key a type tag, a float64 and an interned string code."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ganger_broker.labels import LabelValue

__all__ = ["MISSING", "NUMBER", "STRING", "Cell", "Column", "StringTable"]

MISSING, NUMBER, STRING = 0, 1, 2
"""Type tags. A column starts as zeros: nobody has the key."""

NAN = float("nan")

Mask = npt.NDArray[Any]  # of bool


class StringTable:
    """Distinct strings ↔ codes, counted, with an order by code point.

    Codes are reused when no cell holds their string any more, so labels that take ever
    new values do not grow it.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._counts: list[int] = []
        self._unused: list[int] = []
        self._sorted: list[str] | None = None
        self._ranks: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def intern(self, text: str) -> int:
        """The code of ``text``, held once more."""
        code = self._codes.get(text)
        if code is None:
            code = self._unused.pop() if self._unused else len(self._counts)
            if code == len(self._counts):
                self._counts.append(0)
            self._codes[text] = code
            self._sorted = None
        self._counts[code] += 1
        return code

    def release(self, text: str) -> None:
        """``text`` is held once less."""
        code = self._codes[text]
        self._counts[code] -= 1
        if not self._counts[code]:
            del self._codes[text]
            self._unused.append(code)
            self._sorted = None

    def find(self, text: str) -> int:
        """The code of ``text``, or -1 where no cell holds it."""
        return self._codes.get(text, -1)

    def ranks(self) -> npt.NDArray[np.int64]:
        """Code → place in the order by code point, odd, so that ``rank`` fits in between."""
        self._sort()
        return self._ranks

    def rank(self, text: str) -> int:
        """The place of any string among ``ranks()``: even where no cell holds it."""
        order = self._sort()
        place = bisect_left(order, text)
        held = place < len(order) and order[place] == text
        return 2 * place + held

    def _sort(self) -> list[str]:
        if self._sorted is None:
            self._sorted = sorted(self._codes)
            self._ranks = np.zeros(len(self._counts), np.int64)
            codes = [self._codes[text] for text in self._sorted]
            self._ranks[codes] = np.arange(1, 2 * len(codes), 2)
        return self._sorted


class Column:
    """One label key over all rows of the fleet.

    ``Cell`` answers the same questions for one worker; the comparators are written once
    and take either.
    """

    def __init__(self, capacity: int, strings: StringTable) -> None:
        self.tags: npt.NDArray[np.uint8] = np.zeros(capacity, np.uint8)
        self.numbers: npt.NDArray[np.float64] = np.zeros(capacity, np.float64)
        self.codes: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.strings = strings

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        more = capacity - len(self.tags)
        self.tags = np.concatenate([self.tags, np.zeros(more, np.uint8)])
        self.numbers = np.concatenate([self.numbers, np.zeros(more, np.float64)])
        self.codes = np.concatenate([self.codes, np.zeros(more, np.int32)])

    def set(self, row: int, old: LabelValue | None, new: LabelValue | None) -> None:
        """Replace a row's value; None is no label."""
        if isinstance(new, str):
            self.codes[row] = self.strings.intern(new)
            self.tags[row] = STRING
        elif new is None:
            self.tags[row] = MISSING
        else:
            self.numbers[row] = new
            self.tags[row] = NUMBER
        if isinstance(old, str):
            self.strings.release(old)

    def present(self) -> Mask:
        """Who has the key."""
        return np.not_equal(self.tags, MISSING)

    def absent(self) -> Mask:
        """Who lacks the key."""
        return np.equal(self.tags, MISSING)

    def compare(self, operation: Callable[[Any, Any], Any], value: LabelValue) -> Mask:
        """Whose value is of ``value``'s type and meets ``operation(label, value)``."""
        if not isinstance(value, str):
            met: Mask = operation(self.numbers, float(value))
            return self._tagged(NUMBER) & met
        ranks = self.strings.ranks()
        if not len(ranks):
            return np.zeros(len(self.tags), np.bool_)
        met = operation(ranks, self.strings.rank(value))
        return self._tagged(STRING) & met[self.codes]

    def any_of(self, values: tuple[LabelValue, ...]) -> Mask:
        """Whose value is equal to one of ``values``, of the same type."""
        numbers = [float(value) for value in values if not isinstance(value, str)]
        codes = [self.strings.find(value) for value in values if isinstance(value, str)]
        met = np.zeros(len(self.tags), np.bool_)
        if numbers:
            met |= self._tagged(NUMBER) & np.isin(self.numbers, numbers)
        if codes:
            met |= self._tagged(STRING) & np.isin(self.codes, codes)
        return met

    def comparable(self, values: tuple[LabelValue, ...]) -> Mask:
        """Whose value is of the type of at least one of ``values``."""
        return np.isin(self.tags, [STRING if isinstance(v, str) else NUMBER for v in values])

    def _tagged(self, tag: int) -> Mask:
        return np.equal(self.tags, tag)


class Cell:
    """One worker's value under one key: a ``Column`` of a single row."""

    __slots__ = ("value",)

    def __init__(self, value: LabelValue | None) -> None:
        self.value = value

    def present(self) -> bool:
        """Whether it has the key."""
        return self.value is not None

    def absent(self) -> bool:
        """Whether it lacks the key."""
        return self.value is None

    def compare(self, operation: Callable[[Any, Any], Any], value: LabelValue) -> bool:
        """Whether the value is of ``value``'s type and meets ``operation(label, value)``."""
        own = self.value
        if own is None or isinstance(own, str) is not isinstance(value, str):
            return False
        return operation(own, value)  # type: ignore[no-any-return]

    def any_of(self, values: tuple[LabelValue, ...]) -> bool:
        """Whether the value is equal to one of ``values``, of the same type."""
        return self.value in values

    def comparable(self, values: tuple[LabelValue, ...]) -> bool:
        """Whether the value is of the type of at least one of ``values``."""
        own = self.value
        if own is None:
            return False
        return any(isinstance(value, str) is isinstance(own, str) for value in values)

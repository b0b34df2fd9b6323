"""The placement index: the best free worker for a signature without scanning the workers.

What ranks workers falls in two parts. The *score* depends on the labels and on the
signature; the *key* (load, idleness) changes with every step but is the same for all
signatures. So workers that score alike under every active signature form one *class*,
ordered by key in one heap. A slot taken or freed touches that one heap, however many
signatures there are; a placement compares the best keys of the classes that the
signature can use, in one vectorised step. Its cost goes with the number of classes,
which goes with the variety of the labels and not with the number of workers.

A label change moves the worker to another class, looking only at the signatures that
mention the key. Heaps are kept lazily: an entry counts only while it is the key its
row has now, in the class its row is in now.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from ganger_broker.labels import Requirement

from .fleet import NOT_FREE, Fleet
from .scorer import INELIGIBLE

__all__ = ["PlacementIndex"]

_ROW_BITS = 24
"""Of a heap's entry, below the key: 16 million workers."""
_ROW_MASK = (1 << _ROW_BITS) - 1

_SLACK = 64
"""Outdated entries a heap may hold beyond one a member before it is built anew."""

Scores = tuple[int, ...]


class _Class:
    """Workers that score alike under every active signature."""

    __slots__ = ("count", "heap", "number", "scores")

    def __init__(self, number: int, scores: Scores) -> None:
        self.number = number
        self.scores = scores
        self.count = 0
        self.heap: list[int] = []


_NOBODY = _Class(-1, ())
"""The class of rows that hold no worker."""


class _Signature:
    """An active signature: its classes, best score first."""

    __slots__ = ("classes", "ends", "fresh", "place", "requirement", "scores")

    def __init__(self, requirement: Requirement, place: int) -> None:
        self.requirement = requirement
        self.place = place
        self.scores: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.classes: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        # per place in `classes`: where the run of classes with its score ends
        self.ends: list[int] = []
        self.fresh: list[tuple[int, int]] = []

    def clear(self) -> None:
        """There are no classes."""
        self.scores, self.classes = np.zeros(0, np.int64), np.zeros(0, np.intp)
        self.fresh.clear()

    def add(self, score: int, number: int) -> None:
        """A class whose workers are eligible."""
        self.fresh.append((score, number))

    def merge(self) -> None:
        """Put classes that were added in their place, best score first."""
        scores, numbers = zip(*self.fresh, strict=True)
        scored = np.concatenate([self.scores, np.array(scores, np.int64)])
        classes = np.concatenate([self.classes, np.array(numbers, np.intp)])
        order = np.argsort(-scored, kind="stable")
        self.scores, self.classes = scored[order], classes[order]
        self.ends = np.searchsorted(-self.scores, -self.scores, side="right").tolist()
        self.fresh.clear()


class PlacementIndex:
    """Classes of workers under the active signatures. See the module's text.

    It is told of every change *after* the fleet has it.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._signatures: dict[Requirement, _Signature] = {}
        self._by_key: dict[str, list[_Signature]] = {}
        self._reset()

    def _reset(self) -> None:
        self._classes: list[_Class] = []
        self._class_of_scores: dict[Scores, _Class] = {}
        self._class_of_row: list[_Class] = []
        self._best: npt.NDArray[np.int64] = np.full(64, NOT_FREE, np.int64)
        self._best_view = self._best.data

    def __contains__(self, requirement: Requirement) -> bool:
        return requirement in self._signatures

    def __len__(self) -> int:
        return len(self._signatures)

    @property
    def signatures(self) -> Iterable[Requirement]:
        """The active signatures."""
        return self._signatures.keys()

    @property
    def class_count(self) -> int:
        """Classes there are, empty ones included."""
        return len(self._classes)

    # ── signatures ────────────────────────────────────────────────────────────────────

    def activate(self, requirement: Requirement) -> None:
        """Keep an index for this signature: one vectorised scan, then classes are split by it."""
        signature = _Signature(requirement, len(self._signatures))
        self._signatures[requirement] = signature
        for key in {condition.key for condition in requirement.conditions}:
            self._by_key.setdefault(key, []).append(signature)
        self._class_of_scores = {}
        for class_ in self._classes:
            class_.scores += (INELIGIBLE,)
        for number, parts in self._parts(self._fleet.scores(requirement)).items():
            class_ = self._classes[number]
            score, rows = parts[0]
            class_.scores = (*class_.scores[:-1], score)
            if score != INELIGIBLE:
                signature.add(score, number)
            for other, moving in parts[1:]:
                self._fill(self._new_class((*class_.scores[:-1], other)), moving)
            if len(parts) > 1:
                self._fill(class_, rows)
        self._class_of_scores = {class_.scores: class_ for class_ in self._classes}

    def _parts(
        self, scores: npt.NDArray[np.int64]
    ) -> dict[int, list[tuple[int, npt.NDArray[np.intp]]]]:
        """Per class number, its rows by their score."""
        rows = np.fromiter(self._fleet.row_of.values(), np.intp, len(self._fleet))
        held = self._class_of_row
        numbers = np.array([held[row].number for row in rows.tolist()], np.int64)
        values, score = np.unique(scores[rows], return_inverse=True)
        pairs, pair = np.unique(numbers * len(values) + score, return_inverse=True)
        groups = np.split(rows[np.argsort(pair, kind="stable")], np.cumsum(np.bincount(pair))[:-1])
        parts: dict[int, list[tuple[int, npt.NDArray[np.intp]]]] = {}
        for code, group in zip(pairs.tolist() if len(rows) else [], groups, strict=False):
            number, which = divmod(code, len(values))
            parts.setdefault(number, []).append((int(values[which]), group))
        return parts

    def _fill(self, class_: _Class, rows: npt.NDArray[np.intp]) -> None:
        """Make these rows the members of a class."""
        class_.count = len(rows)
        for row in rows.tolist():
            self._class_of_row[row] = class_
        keys = self._fleet.keys[rows]
        free = keys != NOT_FREE
        entries = zip(keys[free].tolist(), rows[free].tolist(), strict=True)
        class_.heap = [key << _ROW_BITS | row for key, row in entries]
        heapify(class_.heap)
        self._settle(class_)

    def deactivate(self, requirements: Iterable[Requirement]) -> None:
        """Forget signatures. Classes that only they told apart stay apart until ``_compact``."""
        gone = {self._signatures.pop(requirement).place for requirement in requirements}
        self._by_key = {}
        for place, signature in enumerate(self._signatures.values()):
            signature.place = place
            for key in {condition.key for condition in signature.requirement.conditions}:
                self._by_key.setdefault(key, []).append(signature)
        for class_ in self._classes:
            class_.scores = tuple(s for place, s in enumerate(class_.scores) if place not in gone)
        self._class_of_scores = {class_.scores: class_ for class_ in self._classes}

    def _compact(self) -> None:
        """Merge classes that are alike and drop empty ones."""
        members: dict[Scores, list[int]] = {}
        for row, class_ in enumerate(self._class_of_row):
            if class_ is not _NOBODY:
                members.setdefault(class_.scores, []).append(row)
        rows = len(self._class_of_row)
        self._reset()
        self._class_of_row = [_NOBODY] * rows
        for signature in self._signatures.values():
            signature.clear()
        for scores, group in members.items():
            self._fill(self._new_class(scores), np.array(group, np.intp))

    # ── changes of a worker ───────────────────────────────────────────────────────────

    def join(self, row: int) -> None:
        """A worker has come, in this row."""
        while len(self._class_of_row) <= row:
            self._class_of_row.append(_NOBODY)
        score = self._fleet.score
        self._enter(row, tuple(score(row, requirement) for requirement in self._signatures))

    def leave(self, row: int) -> None:
        """The worker of this row has gone."""
        class_ = self._class_of_row[row]
        self._class_of_row[row] = _NOBODY
        class_.count -= 1
        self._settle(class_)

    def labels_changed(self, row: int, keys: set[str]) -> None:
        """The worker's values under these keys are others now."""
        touched = {}
        for key in keys:
            for signature in self._by_key.get(key, ()):
                touched[signature.place] = signature
        class_ = self._class_of_row[row]
        scores = list(class_.scores)
        for place, signature in touched.items():
            scores[place] = self._fleet.score(row, signature.requirement)
        after = tuple(scores)
        if after != class_.scores:
            self.leave(row)
            self._enter(row, after)

    def key_changed(self, row: int) -> None:
        """The worker's key is another now: a slot taken or freed, opened or closed."""
        class_ = self._class_of_row[row]
        key = self._fleet.key[row]
        if key != NOT_FREE:
            heappush(class_.heap, key << _ROW_BITS | row)
        self._settle(class_)

    def _enter(self, row: int, scores: Scores) -> None:
        class_ = self._class_of_scores.get(scores)
        if class_ is None:
            if len(self._classes) > 2 * len(self._fleet) + 1024:
                self._compact()  # most are empty by now
            class_ = self._new_class(scores)
        self._class_of_row[row] = class_
        class_.count += 1
        self.key_changed(row)

    def _new_class(self, scores: Scores) -> _Class:
        class_ = _Class(len(self._classes), scores)
        self._classes.append(class_)
        self._class_of_scores[scores] = class_
        if class_.number == len(self._best):
            self._best = np.concatenate([self._best, np.full_like(self._best, NOT_FREE)])
            self._best_view = self._best.data
        for signature, score in zip(self._signatures.values(), scores, strict=True):
            if score != INELIGIBLE:
                signature.add(score, class_.number)
        return class_

    def _settle(self, class_: _Class) -> None:
        """Drop outdated entries from the heap's top and note the best key."""
        heap, keys, class_of_row = class_.heap, self._fleet.key, self._class_of_row
        if len(heap) > 2 * class_.count + _SLACK:
            self._rebuild_heap(class_)
            heap = class_.heap
        while heap:
            top = heap[0]
            row = top & _ROW_MASK
            key = top >> _ROW_BITS
            if keys[row] == key and class_of_row[row] is class_:
                self._best_view[class_.number] = key
                return
            heappop(heap)
        self._best_view[class_.number] = NOT_FREE

    def _rebuild_heap(self, class_: _Class) -> None:
        keys, class_of_row = self._fleet.key, self._class_of_row
        class_.heap = [
            entry
            for entry in set(class_.heap)
            if keys[entry & _ROW_MASK] == entry >> _ROW_BITS
            and class_of_row[entry & _ROW_MASK] is class_
        ]
        heapify(class_.heap)

    # ── asking ────────────────────────────────────────────────────────────────────────

    def best(self, requirement: Requirement) -> int | None:
        """The row of the best-ranked free worker for an active signature."""
        signature = self._signatures[requirement]
        if signature.fresh:
            signature.merge()
        classes = signature.classes
        if not len(classes):
            return None
        keys = self._best[classes]
        free = keys != NOT_FREE
        first = int(free.argmax())
        if not free[first]:
            return None
        # classes of the same score stand together: the best key among them wins
        end = signature.ends[first]
        choice = first + int(keys[first:end].argmin())
        row: int = self._classes[classes[choice]].heap[0] & _ROW_MASK
        return row

    def score(self, row: int, requirement: Requirement) -> int:
        """A worker's score under an active signature, as kept."""
        class_ = self._class_of_row[row]
        return class_.scores[self._signatures[requirement].place]

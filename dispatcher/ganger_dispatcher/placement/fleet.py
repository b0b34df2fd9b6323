"""The fleet as rows: a cache of what Redis holds of the workers, made for matching.

Each worker has a row. Label columns exist for the keys that requirements mention (made
on first use), so keys that nobody desires cost nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ganger_broker.labels import Condition, LabelValue, Requirement

from .columns import Column, StringTable
from .comparators import met
from .scorer import INELIGIBLE, score_column, score_worker

__all__ = ["NOT_FREE", "Fleet"]

NOT_FREE = np.iinfo(np.int64).max
"""Key of a row that takes no step now: full, draining, paused, or nobody's."""

_GIVEN_BITS = 39
"""Of a key, below the load: 5.5e11 placements in the life of one leader."""
_LOAD_BITS = 24
"""Tells apart any two loads of at most 4,096 slots: they differ by more than 2^-24."""
_NEVER_GIVEN = 1 << (_GIVEN_BITS - 1)
"""Workers never given a step come before all others, by order of arrival."""


class Fleet:
    """Labels, actions, slots and load of all workers, by row.

    ``keys`` (int64, by row) is the order among workers of equal score, lowest first:
    load, then longest not given a step; or ``NOT_FREE``. Keys of free rows are distinct.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.row_of: dict[str, int] = {}
        self.ids: list[str | None] = []
        self.labels: list[dict[str, LabelValue]] = []
        self.label_keys: dict[str, int] = {}
        """How many workers have a label of each key; only keys of some."""
        self.strings = StringTable()
        self._columns: dict[str, Column] = {}
        self._unused: list[int] = []
        self._actions: list[frozenset[str]] = []
        self._action_sets: dict[frozenset[str], int] = {}
        self._arrived = 0
        self._given_steps = 0
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self._keys = np.full(capacity, NOT_FREE, np.int64)
        self._slots = np.ones(capacity, np.int32)
        self._used = np.zeros(capacity, np.int32)
        self._given = np.zeros(capacity, np.int64)
        self._action_set = np.full(capacity, -1, np.int32)
        self._open = np.zeros(capacity, np.bool_)
        self._view()

    def _arrays(self) -> list[npt.NDArray[Any]]:
        return [
            self._keys,
            self._slots,
            self._used,
            self._given,
            self._action_set,
            self._open,
        ]

    def _view(self) -> None:
        # memoryviews read and write single numbers several times faster than NumPy does
        self.key = self._keys.data
        self.slots = self._slots.data
        self.used = self._used.data
        self.given = self._given.data
        self.action_set = self._action_set.data

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def size(self) -> int:
        """Rows in use or used once; arrays below are this long."""
        return len(self.ids)

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """The keys of all rows."""
        return self._keys[: self.size]

    # ── joining and leaving ───────────────────────────────────────────────────────────

    def join(
        self,
        worker: str,
        labels: Mapping[str, LabelValue],
        actions: Iterable[str],
        slots: int,
        used: int = 0,
        *,
        is_open: bool = True,
        given: int | None = None,
    ) -> int:
        """Add a worker; its row. ``given`` is its place in turn, where it had one.

        Among workers that were never given a step, the first to join is the first in turn.
        """
        row = self._unused.pop() if self._unused else self._append_row()
        self.row_of[worker] = row
        self.ids[row] = worker
        self.labels[row] = dict(labels)
        for key in labels:
            self._count_key(key, 1)
        for key, column in self._columns.items():
            if key in labels:
                column.set(row, None, labels[key])
        self.action_set[row] = self._intern_actions(frozenset(actions))
        self.slots[row], self.used[row] = slots, used
        self._arrived += 1
        self.given[row] = self._arrived if given is None else given
        self._open[row] = is_open
        self.refresh(row)
        return row

    def leave(self, worker: str) -> int:
        """Remove a worker; the row it had."""
        row = self.row_of.pop(worker)
        for key, value in self.labels[row].items():
            self._count_key(key, -1)
            if key in self._columns:
                self._columns[key].set(row, value, None)
        self.ids[row] = None
        self.labels[row] = {}
        self.action_set[row] = -1
        self._open[row] = False
        self.key[row] = NOT_FREE
        self._unused.append(row)
        return row

    def _append_row(self) -> int:
        row = len(self.ids)
        if row == len(self._keys):
            self._grow(2 * row)
        self.ids.append(None)
        self.labels.append({})
        return row

    def _grow(self, capacity: int) -> None:
        held = self._arrays()
        self._allocate(capacity)
        for old, new in zip(held, self._arrays(), strict=True):
            new[: len(old)] = old
        for column in self._columns.values():
            column.grow(capacity)

    def _intern_actions(self, actions: frozenset[str]) -> int:
        number = self._action_sets.setdefault(actions, len(self._actions))
        if number == len(self._actions):
            self._actions.append(actions)
        return number

    # ── changes ───────────────────────────────────────────────────────────────────────

    def change_labels(
        self, row: int, upsert: Mapping[str, LabelValue], delete: Iterable[str]
    ) -> set[str]:
        """Set and delete labels at once; the keys whose value is another now."""
        labels = self.labels[row]
        wanted: dict[str, LabelValue | None] = dict.fromkeys(delete)
        wanted.update(upsert)
        changed = set()
        for key, new in wanted.items():
            old = labels.get(key)
            if old == new and type(old) is type(new):
                continue
            column = self._columns.get(key)
            if column is not None:
                column.set(row, old, new)
            if new is None:
                del labels[key]
            else:
                labels[key] = new
            if old is None or new is None:
                self._count_key(key, -1 if new is None else 1)
            changed.add(key)
        return changed

    def _count_key(self, key: str, more: int) -> None:
        holders = self.label_keys.get(key, 0) + more
        if holders:
            self.label_keys[key] = holders
        else:
            del self.label_keys[key]

    def set_open(self, row: int, is_open: bool) -> None:
        """Whether the worker takes steps; draining and paused ones do not."""
        self._open[row] = is_open
        self.refresh(row)

    @property
    def open_rows(self) -> npt.NDArray[np.bool_]:
        """Which rows are of workers that take steps."""
        rows: npt.NDArray[np.bool_] = self._open[: self.size]
        return rows

    def is_open(self, row: int) -> bool:
        """Whether the worker takes steps."""
        return bool(self._open[row])

    def take(self, row: int) -> None:
        """A step goes to this worker: one more slot in use, and it was given a step now."""
        self.used[row] += 1
        self._given_steps += 1
        self.given[row] = _NEVER_GIVEN + self._given_steps
        self.refresh(row)

    def take_back(self, row: int) -> None:
        """A step that gave its slot up goes on; more may then be in use than there are."""
        self.used[row] += 1
        self.refresh(row)

    def release(self, row: int) -> None:
        """One of the worker's slots is free again."""
        self.used[row] -= 1
        self.refresh(row)

    def refresh(self, row: int) -> None:
        """Compute the row's key anew."""
        used, slots = self.used[row], self.slots[row]
        if used < slots and self._open[row]:
            load = (used << _LOAD_BITS) // slots
            self.key[row] = load << _GIVEN_BITS | self.given[row]
        else:
            self.key[row] = NOT_FREE

    # ── asking ────────────────────────────────────────────────────────────────────────

    def actions(self, row: int) -> frozenset[str]:
        """The actions the worker has registered."""
        return self._actions[self.action_set[row]]

    def column(self, key: str) -> Column:
        """The column of a label key; made, and from then on kept, where there is none yet."""
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = Column(len(self._keys), self.strings)
            for row, labels in enumerate(self.labels):
                if key in labels:
                    column.set(row, None, labels[key])
        return column

    def forget_columns(self, wanted: set[str]) -> None:
        """Drop the columns of all keys but these."""
        for key in self._columns.keys() - wanted:
            column = self._columns.pop(key)
            for row, labels in enumerate(self.labels):
                if key in labels:
                    column.set(row, labels[key], None)

    @property
    def column_keys(self) -> set[str]:
        """The keys that have a column."""
        return set(self._columns)

    def score(self, row: int, requirement: Requirement) -> int:
        """One worker's score (see ``placement.scorer``)."""
        if requirement.action not in self.actions(row):
            return INELIGIBLE
        if requirement.worker not in (None, self.ids[row]):
            return INELIGIBLE
        return score_worker(requirement.conditions, self.labels[row])

    def scores(self, requirement: Requirement) -> npt.NDArray[np.int64]:
        """The scores of all rows, in one vectorised pass."""
        registered = self.registered(requirement.action)
        if requirement.worker is not None:
            only = np.zeros_like(registered)
            row = self.row_of.get(requirement.worker)
            if row is not None:
                only[row] = registered[row]
            registered = only
        return score_column(requirement.conditions, self.column, registered)

    def registered(self, action: str) -> npt.NDArray[np.bool_]:
        """Which rows have registered the action."""
        has = np.array([action in actions for actions in self._actions] + [False])
        mask: npt.NDArray[np.bool_] = has[self._action_set[: self.size]]  # -1 is the last: False
        return mask

    def masks(self, conditions: Iterable[Condition]) -> list[npt.NDArray[np.bool_]]:
        """Per condition, which rows meet it."""
        return [met(condition, self.column(condition.key))[: self.size] for condition in conditions]

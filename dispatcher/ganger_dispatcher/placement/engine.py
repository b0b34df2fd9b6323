"""Placement: which worker gets a step, and which pending step a worker gets."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np

from ganger_broker.labels import LabelValue, Requirement

from .backlog import Backlog, PendingStep
from .expected import Expected
from .fleet import NOT_FREE, Fleet
from .index import PlacementIndex
from .scorer import INELIGIBLE

__all__ = ["Placement"]

MOST_ACTIVE = 256
"""Signatures the index keeps; others are matched by a full vectorised scan."""
USES_TO_ACTIVATE = 3
"""Forming the index costs several scans: it pays only for signatures that come again."""
MOST_REMEMBERED = 4096
"""Signatures whose uses are counted before they are active."""
MOST_COLUMNS = 1024
"""Label columns kept; beyond it those that no active signature mentions go."""
IDLE_PLACEMENTS = 10_000
"""An active signature gives way only when it was not asked for in this many placements;
so a population larger than MOST_ACTIVE does not make the index thrash."""


class Placement:
    """The fleet, the index and the backlog as one.

    Workers and step runs go by id. Every method that changes a worker leaves the index
    up to date; ``next_for`` then says which pending step, if any, it should get.
    """

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.index = PlacementIndex(self.fleet)
        self.backlog = Backlog()
        self._expected = Expected()
        self._paused: set[str] = set()
        self._uses: OrderedDict[Requirement, int] = OrderedDict()
        self._asked = 0
        self._last_asked: dict[Requirement, int] = {}
        # by row: the version of the backlog in which no pending signature was for it
        self._nothing_for: list[int] = []

    # ── changes of workers ────────────────────────────────────────────────────────────

    def join(
        self,
        worker: str,
        labels: Mapping[str, LabelValue],
        actions: Iterable[str],
        slots: int,
        used: int = 0,
        *,
        is_open: bool = True,
    ) -> None:
        """A worker has come."""
        row = self.fleet.join(
            worker, self._with_expected(worker, labels), actions, slots, used, is_open=is_open
        )
        self._look_again_at(row)
        self.index.join(row)

    def rejoin(
        self,
        worker: str,
        labels: Mapping[str, LabelValue],
        actions: Iterable[str],
        *,
        is_open: bool = True,
    ) -> None:
        """A worker that is here says anew what it is; its slots and its turn stay."""
        self._paused.discard(worker)
        row = self.fleet.row_of[worker]
        slots, used, given = self.fleet.slots[row], self.fleet.used[row], self.fleet.given[row]
        self.index.leave(self.fleet.leave(worker))
        labels = self._with_expected(worker, labels)
        row = self.fleet.join(worker, labels, actions, slots, used, is_open=is_open, given=given)
        self._look_again_at(row)
        self.index.join(row)

    def leave(self, worker: str) -> None:
        """A worker has gone."""
        self._paused.discard(worker)
        self._expected.set(worker, {})
        self.index.leave(self.fleet.leave(worker))

    def change_labels(
        self, worker: str, upsert: Mapping[str, LabelValue], delete: Iterable[str] = ()
    ) -> None:
        """Labels set and deleted, all at once."""
        delete = list(delete)
        self._change_labels(worker, upsert, delete)
        if self._expected.keys:
            self._follow(worker, [*upsert, *delete])

    def _change_labels(
        self, worker: str, upsert: Mapping[str, LabelValue], delete: Iterable[str]
    ) -> None:
        row = self.fleet.row_of[worker]
        changed = self.fleet.change_labels(row, upsert, delete)
        if changed:
            self._look_again_at(row)
            self.index.labels_changed(row, changed)

    # ── labels that are coming ────────────────────────────────────────────────────────

    def anticipate(self, keys: Iterable[str]) -> bool:
        """Some step sets labels of these keys: from now on preferences count them as they come.
        Whether this was not known: then ``expecting`` says otherwise than before."""
        new = self._expected.anticipate(keys)
        if new:
            for worker in list(self.fleet.row_of):
                self._follow(worker, new)
        return bool(new)

    def expect(self, worker: str, coming: Mapping[str, LabelValue]) -> None:
        """These labels, and no others any more, are coming to the worker."""
        self.anticipate(coming)
        self._follow(worker, self._expected.set(worker, coming))

    def expecting(self, requirement: Requirement) -> Requirement:
        """The requirement as it is asked here: its preferences count what is coming."""
        return self._expected.translate(requirement)

    def _follow(self, worker: str, keys: Iterable[str]) -> None:
        labels = self.fleet.labels[self.fleet.row_of[worker]]
        self._change_labels(worker, *self._expected.changes(worker, labels, keys))

    def _with_expected(
        self, worker: str, labels: Mapping[str, LabelValue]
    ) -> Mapping[str, LabelValue]:
        if not self._expected.keys:
            return labels
        expected, _ = self._expected.changes(worker, labels, self._expected.keys)
        return {**labels, **expected}

    # ── slots ─────────────────────────────────────────────────────────────────────────

    def set_open(self, worker: str, is_open: bool) -> None:
        """Whether the worker takes steps: draining and paused ones do not."""
        self._paused.discard(worker)
        row = self.fleet.row_of[worker]
        self.fleet.set_open(row, is_open)
        self.index.key_changed(row)

    def pause(self, worker: str) -> None:
        """The worker takes no steps but those that are pinned to it, until ``set_open``."""
        self.set_open(worker, False)
        self._paused.add(worker)

    def take(self, worker: str) -> None:
        """A slot of the worker is in use."""
        row = self.fleet.row_of[worker]
        self.fleet.take(row)
        self.index.key_changed(row)

    def take_back(self, worker: str) -> None:
        """A step of the worker that gave its slot up goes on."""
        row = self.fleet.row_of[worker]
        self.fleet.take_back(row)
        self.index.key_changed(row)

    def release(self, worker: str) -> None:
        """A slot of the worker is free again."""
        row = self.fleet.row_of[worker]
        self.fleet.release(row)
        self.index.key_changed(row)

    # ── asking ────────────────────────────────────────────────────────────────────────

    def choose(self, requirement: Requirement, prefer: str | None = None) -> str | None:
        """The best-ranked eligible worker with a free slot, or None.

        ``prefer``: this worker, if it is eligible and free, whatever its rank.
        """
        first = requirement.worker or prefer
        if first is not None and self.can_take(first, requirement):
            return first
        if requirement.worker is not None:
            return None  # and a signature of its own: not for the index
        self._asked += 1
        if requirement in self.index or self._activate(requirement):
            self._last_asked[requirement] = self._asked
            row = self.index.best(requirement)
        else:
            row = self.scan(requirement)
            if len(self.fleet.column_keys) > MOST_COLUMNS:
                self.forget_unused()
        return None if row is None else self.fleet.ids[row]

    def can_take(self, worker: str, requirement: Requirement) -> bool:
        """Whether the worker is eligible, and has a free slot."""
        row = self.fleet.row_of.get(worker)
        if row is None or not self._is_free(row, pinned=requirement.worker == worker):
            return False
        return self._score(row, requirement) != INELIGIBLE

    def _is_free(self, row: int, *, pinned: bool) -> bool:
        """Whether the row's worker has a free slot for a step, or for one pinned to it."""
        if self.fleet.key[row] != NOT_FREE:
            return True
        has_slot = pinned and self.fleet.used[row] < self.fleet.slots[row]
        return has_slot and self.fleet.ids[row] in self._paused

    def is_open_to(self, worker: str, requirement: Requirement) -> bool:
        """Whether the worker takes steps, or those that are pinned to it and this is one."""
        if requirement.worker == worker and worker in self._paused:
            return True
        return self.fleet.is_open(self.fleet.row_of[worker])

    def anyone(self, requirement: Requirement) -> bool:
        """Whether a worker is eligible, if only it were free; by one scan of the fleet."""
        if requirement.worker in self._paused:
            return self.score(requirement.worker, requirement) != INELIGIBLE
        return bool((self.fleet.scores(requirement)[self.fleet.open_rows] != INELIGIBLE).any())

    def scan(self, requirement: Requirement) -> int | None:
        """What ``index.best`` finds, by one vectorised pass over all workers; also of a pinned
        requirement, which has one worker to look at."""
        pinned = requirement.worker
        if pinned is not None:
            return self.fleet.row_of[pinned] if self.can_take(pinned, requirement) else None
        keys = self.fleet.keys
        scores = np.where(keys == NOT_FREE, INELIGIBLE, self.fleet.scores(requirement))
        highest = scores.max(initial=INELIGIBLE)
        if highest == INELIGIBLE:
            return None
        return int(np.where(scores == highest, keys, NOT_FREE).argmin())

    def next_for(self, worker: str) -> PendingStep | None:
        """The pending step this worker should get now: highest priority, then oldest.

        A pending step is one that no worker could take, so after a change of one worker
        that worker is the only candidate: its rank need not be compared with others'.
        """
        row = self.fleet.row_of[worker]
        if not len(self.backlog):
            return None
        if self.fleet.key[row] == NOT_FREE:
            return self._next_pinned(worker, row) if self._paused else None
        if self._nothing_for[row] == self.backlog.version:
            return None
        actions = self.fleet.actions(row)
        if not self.backlog.may_open_to(actions, self.fleet.label_keys.keys(), worker):
            self._nothing_for[row] = self.backlog.version
            return None
        best: PendingStep | None = None
        for requirement in self.backlog.open_to(actions, self.fleet.labels[row], worker):
            first = self.backlog.first(requirement)
            if (best is None or first < best) and self._score(row, requirement) != INELIGIBLE:
                best = first
        if best is None:
            self._nothing_for[row] = self.backlog.version
        return best

    def _next_pinned(self, worker: str, row: int) -> PendingStep | None:
        """Of those pinned to a worker that takes no others."""
        if not self._is_free(row, pinned=True):
            return None
        return min(
            (
                self.backlog.first(requirement)
                for requirement in self.backlog.pins_of(worker)
                if self._score(row, requirement) != INELIGIBLE
            ),
            default=None,
        )

    def _look_again_at(self, row: int) -> None:
        """The row's worker is another, or has other labels: nothing is known of it."""
        if row == len(self._nothing_for):
            self._nothing_for.append(-1)
        self._nothing_for[row] = -1

    def score(self, worker: str, requirement: Requirement) -> int:
        """A worker's score (see ``placement.scorer``)."""
        return self._score(self.fleet.row_of[worker], requirement)

    def _score(self, row: int, requirement: Requirement) -> int:
        if requirement in self.index:
            return self.index.score(row, requirement)
        return self.fleet.score(row, requirement)

    def _activate(self, requirement: Requirement) -> bool:
        """Count a use; put the signature in the index when it has come often enough."""
        uses = self._uses.pop(requirement, 0) + 1
        if uses < USES_TO_ACTIVATE:
            self._remember(requirement, uses)
            return False
        idle = self._idle() if len(self.index) >= MOST_ACTIVE else ()
        if idle is None:
            self._remember(requirement, uses)
            return False
        if idle:
            self.index.deactivate(idle)
            for gone in idle:
                del self._last_asked[gone]
        self.index.activate(requirement)
        return True

    def forget_unused(self) -> None:
        """Drop label columns that no active signature mentions."""
        wanted = {c.key for signature in self.index.signatures for c in signature.conditions}
        self.fleet.forget_columns(wanted)

    def _remember(self, requirement: Requirement, uses: int) -> None:
        self._uses[requirement] = uses
        if len(self._uses) > MOST_REMEMBERED:
            self._uses.popitem(last=False)

    def _idle(self) -> list[Requirement] | None:
        """Active signatures nobody asked for lately; None where all are in use."""
        horizon = self._asked - IDLE_PLACEMENTS
        idle = [signature for signature, asked in self._last_asked.items() if asked < horizon]
        return idle or None

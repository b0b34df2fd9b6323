"""Why a step goes where it goes, or why it waits: every condition, for every worker.

The engine ranks and chooses; this only spells out what it went by, in the vocabulary
of ``docs/matching.md``.
"""

from enum import StrEnum
from typing import Any, Literal

import msgspec

from ganger_broker.labels import Condition, Labels, LabelValue, Requirement

from .placement import Placement
from .placement.columns import Cell
from .placement.comparators import met

__all__ = ["Code", "Explanation", "Reason", "Verdict", "WorkerExplanation", "explain", "verdict"]


class Code(StrEnum):
    """What came of one condition on one worker."""

    MET = "met"
    MISSING = "missing"
    """The worker lacks the key."""
    MISMATCH = "mismatch"
    TYPE_MISMATCH = "type_mismatch"
    """A string against a number, or the other way round."""


class Reason(msgspec.Struct):
    """One condition, held against one worker."""

    key: str
    comparator: str
    desired: Any
    actual: LabelValue | None
    required: bool
    met: bool
    code: Code

    @property
    def is_action(self) -> bool:
        """Whether it is of the step's action, which no label's condition can look like."""
        return (self.key, self.comparator) == ("action", "EXISTS") and self.desired is not None


class WorkerExplanation(msgspec.Struct):
    """One worker, held against the whole requirement."""

    id: str
    eligible: bool
    highest_weight: int
    total_weight: int
    reasons: list[Reason]


class Explanation(msgspec.Struct):
    """``selected`` gets the step; ``workers`` in rank order, then the nearest misses."""

    selected: str | None
    workers: list[WorkerExplanation]


Verdict = Literal["now", "not now", "never with this fleet"]


def explain(placement: Placement, requirement: Requirement) -> Explanation:
    """Hold all workers of a placement against a requirement."""
    fleet = placement.fleet
    chosen = placement.scan(requirement)
    rows = sorted(fleet.row_of.values(), key=lambda row: _rank(placement, row, requirement))
    return Explanation(
        selected=None if chosen is None else fleet.ids[chosen],
        workers=[_explain_worker(placement, row, requirement) for row in rows],
    )


def verdict(explanation: Explanation) -> Verdict:
    """*not now*: workers that meet the requirement are full, draining or paused; *never with
    this fleet*: nobody meets it."""
    if explanation.selected is not None:
        return "now"
    for worker in explanation.workers:
        if all(reason.met for reason in worker.reasons if reason.required):
            return "not now"
    return "never with this fleet"


def _rank(placement: Placement, row: int, requirement: Requirement) -> tuple[Any, ...]:
    fleet = placement.fleet
    worker = fleet.ids[row] or ""
    reasons = _reasons(requirement, worker, fleet.labels[row], fleet.actions(row))
    unmet = sum(reason.required and not reason.met for reason in reasons)
    highest, total = _weights(requirement, reasons)
    load = fleet.used[row] / fleet.slots[row]
    is_closed = not placement.is_open_to(worker, requirement)
    return unmet, is_closed, -highest, -total, load, fleet.given[row]


def _explain_worker(placement: Placement, row: int, requirement: Requirement) -> WorkerExplanation:
    fleet = placement.fleet
    worker = fleet.ids[row] or ""
    reasons = _reasons(requirement, worker, fleet.labels[row], fleet.actions(row))
    highest, total = _weights(requirement, reasons)
    suits = all(reason.met for reason in reasons if reason.required)
    is_open = placement.is_open_to(worker, requirement)
    return WorkerExplanation(worker, suits and is_open, highest, total, reasons)


def _weights(requirement: Requirement, reasons: list[Reason]) -> tuple[int, int]:
    offset = len(reasons) - len(requirement.conditions)
    points = [
        condition.weight
        for condition, reason in zip(requirement.conditions, reasons[offset:], strict=True)
        if reason.met and not condition.required
    ]
    return max(points, default=0), sum(points)


def _reasons(
    requirement: Requirement, worker: str | None, labels: Labels, actions: frozenset[str]
) -> list[Reason]:
    reasons = [_reason(condition, labels) for condition in requirement.conditions]
    if requirement.action not in actions:
        action = Reason("action", "EXISTS", requirement.action, None, True, False, Code.MISSING)
        reasons.insert(0, action)
    if requirement.worker is not None:
        is_it = worker == requirement.worker
        code = Code.MET if is_it else Code.MISMATCH
        reasons.insert(
            0, Reason("ganger.worker", "EQUAL", requirement.worker, worker, True, is_it, code)
        )
    return reasons


def _reason(condition: Condition, labels: Labels) -> Reason:
    actual = labels.get(condition.key)
    is_met = bool(met(condition, Cell(actual)))
    desired = list(condition.value) if isinstance(condition.value, tuple) else condition.value
    return Reason(
        condition.key,
        condition.comparator.value,
        desired,
        actual,
        condition.required,
        is_met,
        Code.MET if is_met else _code(condition, actual),
    )


def _code(condition: Condition, actual: LabelValue | None) -> Code:
    if actual is None:
        return Code.MISSING
    desired = condition.value
    if desired is None:
        return Code.MISMATCH  # NOT_EXISTS, and it exists
    values = desired if isinstance(desired, tuple) else (desired,)
    comparable = any(isinstance(value, str) is isinstance(actual, str) for value in values)
    return Code.MISMATCH if comparable else Code.TYPE_MISMATCH

"""Matching and placement as docs/matching.md says it, in the plainest Python there is.

Shares nothing with the engine but the parsed conditions. Slow on purpose.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count

from ganger_broker.labels import Condition, LabelValue, Requirement


@dataclass
class OracleWorker:
    id: str
    labels: dict[str, LabelValue]
    actions: frozenset[str]
    slots: int
    used: int
    is_open: bool
    idle_since: int  # when it was last given a step; before that, when it came
    is_paused: bool = False


@dataclass
class Pending:
    step_run: str
    requirement: Requirement
    priority: int
    since: float
    sequence: int


def is_number(value: object) -> bool:
    return isinstance(value, int | float)


def same_type(left: LabelValue, right: LabelValue) -> bool:
    return is_number(left) == is_number(right)


def meets(labels: dict[str, LabelValue], condition: Condition) -> bool:
    if condition.comparator == "EXISTS":
        return condition.key in labels
    if condition.comparator == "NOT_EXISTS":
        return condition.key not in labels
    if condition.key not in labels:
        return False
    label = labels[condition.key]
    wanted = condition.value
    if condition.comparator in ("IN", "NOT_IN"):
        alike = [element for element in wanted if same_type(label, element)]
        if condition.comparator == "IN":
            return any(label == element for element in alike)
        return bool(alike) and all(label != element for element in alike)
    if not same_type(label, wanted):
        return False
    match condition.comparator:
        case "EQUAL":
            return label == wanted
        case "NOT_EQUAL":
            return label != wanted
        case "GREATER_THAN":
            return label > wanted
        case "GREATER_THAN_OR_EQUAL":
            return label >= wanted
        case "LESS_THAN":
            return label < wanted
        case "LESS_THAN_OR_EQUAL":
            return label <= wanted
    raise AssertionError(condition.comparator)


def eligible(worker: OracleWorker, requirement: Requirement) -> bool:
    return (
        (worker.is_open or (worker.is_paused and requirement.worker == worker.id))
        and requirement.action in worker.actions
        and requirement.worker in (None, worker.id)
        and all(meets(worker.labels, c) for c in requirement.conditions if c.required)
    )


def rank(worker: OracleWorker, requirement: Requirement) -> tuple[int, int, Fraction, int]:
    """Lower is better."""
    met = [c.weight for c in requirement.conditions if not c.required and meets(worker.labels, c)]
    load = Fraction(worker.used, worker.slots)
    return (-max(met, default=0), -sum(met), load, worker.idle_since)


@dataclass
class Oracle:
    workers: dict[str, OracleWorker] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    clock: count = field(default_factory=lambda: count(1_000_000))
    arrivals: count = field(default_factory=lambda: count(1))
    sequence: count = field(default_factory=lambda: count(1))

    def choose(self, requirement: Requirement, prefer: str | None = None) -> str | None:
        able = [w for w in self.workers.values() if eligible(w, requirement) and w.used < w.slots]
        if any(w.id == prefer for w in able):
            return prefer
        return min(able, key=lambda w: rank(w, requirement)).id if able else None

    def next_for(self, worker_id: str) -> str | None:
        worker = self.workers[worker_id]
        if worker.used >= worker.slots:
            return None
        able = [p for p in self.pending.values() if eligible(worker, p.requirement)]
        first = min(able, key=lambda p: (-p.priority, p.since, p.sequence), default=None)
        return first.step_run if first else None

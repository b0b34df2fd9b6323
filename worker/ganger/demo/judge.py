"""Was every step placed where the rules say? Judged from the feed, apart from the engine.

The feed tells labels, placements and freed slots in the order in which the dispatcher
decided. The judge keeps its own picture of the fleet by it and applies
``docs/matching.md`` in plain Python.
"""

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ganger_broker.labels import Condition, LabelValue, parse_desired

from .fleet import FLEET, WISHES

__all__ = ["Judge", "Placed"]

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "EQUAL": operator.eq,
    "GREATER_THAN": operator.gt,
    "LESS_THAN": operator.lt,
}
"""Those the demo uses."""


class Placed(NamedTuple):
    """One placement, and what is to be said of it."""

    step_run: str
    worker: str
    why: str
    waited_ms: int
    misplaced: bool


class Judge:
    """Reads the feed entry by entry."""

    def __init__(self) -> None:
        self.labels: dict[str, dict[str, LabelValue]] = {}
        self.used: dict[str, int] = dict.fromkeys(FLEET, 0)
        self.pending: list[str] = []
        self.placed: list[Placed] = []
        self.relabelled: list[tuple[str, dict[str, LabelValue]]] = []

    def read(self, entry: Mapping[str, str]) -> Placed | None:
        """Take one entry; the placement, where it tells of one."""
        match entry["kind"]:
            case "worker_joined":
                self.labels[entry["worker"]] = json.loads(entry["labels"])
            case "labels":
                upsert = json.loads(entry["upsert"])
                self.labels[entry["worker"]].update(upsert)
                self.relabelled.append((entry["worker"], upsert))
            case "pending":
                self.pending.append(entry["step_run"])
            case "released":
                self.used[entry["worker"]] -= 1
            case "placed":
                return self._placed(entry)
        return None

    def _placed(self, entry: Mapping[str, str]) -> Placed:
        worker, step_run = entry["worker"], entry["attempt"].rpartition("/")[0]
        wish = parse_desired(WISHES[step_run.partition("/")[2]])
        conditions = [condition for group in wish.values() for condition in group]
        ranks = {
            name: self._rank(name, conditions)
            for name in FLEET
            if self.used[name] < FLEET[name].slots and self._eligible(name, conditions)
        }
        misplaced = worker not in ranks or ranks[worker] != max(ranks.values())
        placed = Placed(
            step_run, worker, self._why(worker, conditions), int(entry["waited_ms"]), misplaced
        )
        self.used[worker] += 1
        if step_run in self.pending:
            self.pending.remove(step_run)
        self.placed.append(placed)
        return placed

    def _eligible(self, worker: str, conditions: list[Condition]) -> bool:
        return all(self._meets(worker, c) for c in conditions if c.required)

    def _rank(self, worker: str, conditions: list[Condition]) -> tuple[int, int, float]:
        """Higher is better: highest weight met, their sum, then the lowest load."""
        met = [c.weight for c in conditions if not c.required and self._meets(worker, c)]
        load = self.used[worker] / FLEET[worker].slots
        return max(met, default=0), sum(met), -load

    def _meets(self, worker: str, condition: Condition) -> bool:
        label, wanted = self.labels[worker].get(condition.key), condition.value
        if label is None or isinstance(label, str) is not isinstance(wanted, str):
            return False
        return _COMPARE[condition.comparator](label, wanted)

    def _why(self, worker: str, conditions: list[Condition]) -> str:
        said = []
        for condition in conditions:
            label = self.labels[worker].get(condition.key, "no label")
            if condition.required:
                said.append(f"{condition.key}={label} required")
            elif self._meets(worker, condition):
                said.append(f"{condition.key}={label} +{condition.weight}")
            else:
                said.append(f"{condition.key}={label}, not {condition.value}")
        return "; ".join(said) or "anywhere"

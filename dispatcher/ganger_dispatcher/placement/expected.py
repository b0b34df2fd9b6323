"""Labels that are coming: what a worker will have when the steps it was given have set it.

A preference counts a label that is coming like one that is there, so that requests for a
model go where it is being loaded. Requirements never do: they hold when a step is placed.

Such labels are labels like any other, under keys of their own. Only keys that some step
says it sets have one.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from ganger_broker.labels import Condition, LabelValue, Requirement

__all__ = ["Expected", "expected_key"]

_MARK = "\udcff"
"""No label's key has it: it is no valid Unicode."""
_MOST_TRANSLATED = 4096

Changes = tuple[dict[str, LabelValue], list[str]]
"""Labels to set, and keys to delete."""


def expected_key(key: str) -> str:
    """The key under which the value that is expected of ``key`` is kept."""
    return _MARK + key


class Expected:
    """What is expected of each worker, and requirements that go by it."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._coming: dict[str, Mapping[str, LabelValue]] = {}
        self._translated: dict[Requirement, Requirement] = {}

    def anticipate(self, keys: Iterable[str]) -> set[str]:
        """Keep what is expected of these keys as well; those that are new."""
        new = set(keys) - self.keys
        self.keys |= new
        if new:
            self._translated.clear()
        return new

    def changes(
        self, worker: str, labels: Mapping[str, LabelValue], keys: Iterable[str]
    ) -> Changes:
        """What has to change where these keys did; ``labels`` are the worker's."""
        coming = self._coming.get(worker, {})
        upsert: dict[str, LabelValue] = {}
        delete: list[str] = []
        for key in self.keys.intersection(keys):
            value = coming.get(key, labels.get(key))
            if value is None:
                delete.append(expected_key(key))
            else:
                upsert[expected_key(key)] = value
        return upsert, delete

    def set(self, worker: str, coming: Mapping[str, LabelValue]) -> set[str]:
        """All labels that are coming to this worker now; the keys that may be others."""
        before = self._coming.pop(worker, {})
        if coming:
            self._coming[worker] = dict(coming)
        return {*before, *coming}

    def translate(self, requirement: Requirement) -> Requirement:
        """The requirement with its preferences going by what is expected."""
        if not self.keys:
            return requirement
        found = self._translated.get(requirement)
        if found is None:
            if len(self._translated) >= _MOST_TRANSLATED:
                self._translated.clear()
            conditions = [self._condition(condition) for condition in requirement.conditions]
            found = Requirement.of(requirement.action, conditions)
            found = replace(found, worker=requirement.worker)
            self._translated[requirement] = found
        return found

    def _condition(self, condition: Condition) -> Condition:
        if condition.required or condition.key not in self.keys:
            return condition
        return replace(condition, key=expected_key(condition.key))

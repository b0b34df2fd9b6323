"""Labels that say which machine a worker is: Ganger sets them, users may only desire them."""

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidLabel
from .labels import Condition, Labels, LabelValue, WorkerLabelComparator

__all__ = [
    "CPUS",
    "CPU_KIND",
    "MEMORY_MB",
    "POOL",
    "REGION",
    "RESERVED",
    "check_not_reserved",
    "desired_in_pool",
    "in_pool",
    "pool_of",
    "pool_of_worker",
]

RESERVED = "ganger."
"""What the keys of labels begin with that users cannot set."""
POOL = "ganger.pool"
REGION = "ganger.region"
CPU_KIND = "ganger.cpu_kind"
CPUS = "ganger.cpus"
MEMORY_MB = "ganger.memory_mb"


def check_not_reserved(keys: Iterable[str], place: str = "labels") -> None:
    """Refuse keys that only Ganger sets.

    Raises:
        InvalidLabel: one is reserved; the text names it.
    """
    for key in keys:
        if key.startswith(RESERVED):
            raise InvalidLabel(
                f"{place}: the key {key!r} begins with {RESERVED!r}, which is kept for labels "
                "that Ganger sets; choose another"
            )


def in_pool(pool: str) -> Condition:
    """What a step requires that runs on this pool's workers."""
    return Condition(POOL, WorkerLabelComparator.EQUAL, pool, required=True, weight=0)


def pool_of(conditions: Iterable[Condition]) -> str | None:
    """The pool that these conditions require, as ``in_pool`` does."""
    for condition in conditions:
        if condition.key == POOL and condition == in_pool(str(condition.value)):
            return str(condition.value)
    return None


def desired_in_pool(desired: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """Desired labels as they are written, and the pool beside what they say of it."""
    said = desired.get(POOL, [])
    wishes = said if isinstance(said, list) else [said]
    wishes = [wish if isinstance(wish, dict) else {"value": wish} for wish in wishes]
    return {**desired, POOL: [*wishes, {"value": pool}]}


def pool_of_worker(labels: Labels | Mapping[str, LabelValue]) -> str | None:
    """The pool of a worker with these labels; None where it is in none."""
    pool = labels.get(POOL)
    return pool if isinstance(pool, str) else None

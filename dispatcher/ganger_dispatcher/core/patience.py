"""Preferences with patience: a step waits a while for a worker that is merely busy.

A condition with ``prefer_for`` counts as required for so long, as long as some live worker
meets it. After that, or where nobody does, it is a preference like any other.
"""

from functools import lru_cache

from msgspec.structs import replace

from ganger_broker.labels import Condition, Requirement

__all__ = ["plain", "stages"]

_REMEMBERED = 4096


@lru_cache(_REMEMBERED)
def plain(requirement: Requirement) -> Requirement:
    """Without its patience: the signature that it shares with steps that have none."""
    if not any(condition.prefer_for for condition in requirement.conditions):
        return requirement
    conditions = [replace(condition, prefer_for=0.0) for condition in requirement.conditions]
    return replace(Requirement.of(requirement.action, conditions), worker=requirement.worker)


@lru_cache(_REMEMBERED)
def stages(requirement: Requirement) -> tuple[tuple[int, Requirement], ...]:
    """(until, requirement) of each stage before the last, ``until`` in ms since it is pending.

    In the first stage all conditions with patience are required; with each one whose time is
    over the next stage requires one less.
    """
    times = sorted({c.prefer_for for c in requirement.conditions if c.prefer_for})
    return tuple((round(time * 1000), _strict(requirement, time)) for time in times)


def _strict(requirement: Requirement, time: float) -> Requirement:
    conditions = [_as_required(c) if c.prefer_for >= time else c for c in requirement.conditions]
    return plain(replace(Requirement.of(requirement.action, conditions), worker=requirement.worker))


def _as_required(condition: Condition) -> Condition:
    return replace(condition, required=True, weight=0, prefer_for=0.0)

"""Pools: the workers that steps of one ``Compute`` share."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2s

from pydantic import ValidationError

from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.labels import LabelValue
from ganger_broker.pool_labels import CPU_KIND, CPUS, MEMORY_MB, POOL, REGION

from .configs import Compute

__all__ = ["Pool", "Pools", "checked_compute", "place_labels"]

_MOST_REGIONS = 24
"""Characters of regions that a pool's name spells out; more are in it as their digest."""


@dataclass(frozen=True)
class Pool:
    """Workers of one ``Compute``, and the actions that they take."""

    name: str
    compute: Compute
    actions: tuple[str, ...]


class Pools:
    """The names of an app's pools, given in the order in which they are declared.

    A name says what the machine is and where, ``shared-2cpu-1024mb-fra-iad``, and not how many
    there are, so that a pool stays the same one when it is scaled. Where two of an app differ
    in nothing else, the second's name ends in ``-2``.
    """

    def __init__(self) -> None:
        self._computes: dict[str, Compute] = {}

    def name_of(self, compute: Compute) -> str:
        """The name of this ``Compute``'s pool, the same whenever it is asked for."""
        base = name = _base_name(compute)
        number = 1
        while self._computes.setdefault(name, compute) != compute:
            number += 1
            name = f"{base}-{number}"
        return name

    def __getitem__(self, name: str) -> Compute:
        return self._computes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._computes


def _base_name(compute: Compute) -> str:
    where = "-".join(compute.regions)
    if len(where) > _MOST_REGIONS:
        where = blake2s(where.encode(), digest_size=4).hexdigest()
    return f"{compute.cpu_kind}-{compute.cpus}cpu-{compute.memory_mb}mb-{where}"


def checked_compute(given: object, place: str) -> Compute | None:
    """Return ``given`` if it is a ``Compute``, or None.

    Raises:
        InvalidWorkflow: it is neither, or one that was made without being checked.
    """
    if given is None:
        return None
    if isinstance(given, Compute):
        try:
            return given.model_copy()
        except ValidationError as exc:
            wrong = "; ".join(f"{error['loc'][0]}: {error['msg']}" for error in exc.errors())
            raise InvalidWorkflow(f"{place}: compute: {wrong}") from exc
    raise InvalidWorkflow(f"{place}: compute: {given!r} must be a Compute(…)")


def place_labels(
    pools: Mapping[str, Pool], pool: str | Compute, region: str | None
) -> dict[str, LabelValue]:
    """The labels of a worker of this pool in this region; without one in the pool's only one.

    Raises:
        InvalidInput: there is no such pool, or it is not in that region.
    """
    found = next((each for each in pools.values() if pool in (each.name, each.compute)), None)
    if found is None:
        known = ", ".join(sorted(pools)) or "none: no step has compute=…"
        raise InvalidInput(f"pool: there is no pool {pool!r}; there are {known}")
    compute = found.compute
    where = ", ".join(compute.regions)
    if region is None:
        if len(compute.regions) > 1:
            raise InvalidInput(f"region: pool {found.name!r} is in {where}; say which")
        region = compute.regions[0]
    elif region not in compute.regions:
        raise InvalidInput(f"region: {region!r} is no region of pool {found.name!r}, but {where}")
    return {
        POOL: found.name,
        REGION: region,
        CPU_KIND: compute.cpu_kind.value,
        CPUS: compute.cpus,
        MEMORY_MB: compute.memory_mb,
    }

"""Plans: how many replicas each pool has, in which regions, and what that changes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b
from math import comb

from ganger_broker.errors import InvalidInput

from .configs import MAX_REPLICAS
from .pools import Pool

__all__ = [
    "Changes",
    "Plan",
    "PoolPlan",
    "Replica",
    "chance_of_empty_region",
    "changes",
    "make_plan",
    "region_of",
    "replicas_to_fill",
]

SELDOM = Fraction(1, 100)
"""Chance of a region without a replica that is small enough to live with."""


@dataclass(frozen=True, order=True)
class Replica:
    """One machine of a pool. ``number`` counts from 1; what is scaled down goes from the top."""

    pool: str
    number: int
    region: str

    def worker_id(self, deployment: str) -> str:
        """The id of its worker."""
        return f"{deployment}.{self.pool}.{self.number}"


def region_of(seed: str, pool: str, number: int, regions: tuple[str, ...]) -> str:
    """The region that a replica draws: each as likely as the other, whatever others drew.

    It is a function of these and nothing else, so a replica stays where it is however the
    pool is scaled. (Of 2^64 draws the regions' shares differ by one at most.)
    """
    drawn = blake2b(f"{seed}\0{pool}\0{number}".encode(), digest_size=8).digest()
    return regions[int.from_bytes(drawn) % len(regions)]


def chance_of_empty_region(replicas: int, regions: int) -> float:
    """The chance that some region of so many draws no replica.

    By inclusion and exclusion over the regions that stay empty, in whole fractions: the terms
    nearly cancel each other out.
    """
    return float(_chance(replicas, regions))


def _chance(replicas: int, regions: int) -> Fraction:
    chance = Fraction(0)
    for empty in range(1, regions + 1):
        missed = Fraction(regions - empty, regions) ** replicas
        chance += (-1) ** (empty + 1) * comb(regions, empty) * missed
    return chance


def replicas_to_fill(regions: int) -> int:
    """The least number of replicas that leaves a region empty in less than 1 of 100 draws."""
    low, high = 1, 1
    while _chance(high, regions) >= SELDOM:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _chance(middle, regions) < SELDOM else (middle + 1, high)
    return low


@dataclass(frozen=True)
class PoolPlan:
    """A pool and its replicas."""

    pool: Pool
    replicas: tuple[Replica, ...]

    @property
    def per_region(self) -> dict[str, int]:
        """Replicas in each region of the pool, also where there is none."""
        drawn = Counter(replica.region for replica in self.replicas)
        return {region: drawn[region] for region in self.pool.compute.regions}

    @property
    def cpus(self) -> int:
        """Of all replicas."""
        return len(self.replicas) * self.pool.compute.cpus

    @property
    def memory_mb(self) -> int:
        """Of all replicas."""
        return len(self.replicas) * self.pool.compute.memory_mb

    @cached_property
    def chance_of_empty_region(self) -> float:
        """The chance that some region gets none, before it is drawn."""
        return chance_of_empty_region(len(self.replicas), len(self.pool.compute.regions))

    @cached_property
    def replicas_to_fill(self) -> int:
        """How many replicas bring that chance under 1 %."""
        return replicas_to_fill(len(self.pool.compute.regions))


@dataclass(frozen=True)
class Plan:
    """What is to run of a deployment. ``unpooled``: actions of steps without compute, which
    workers of no pool take."""

    deployment: str
    seed: str
    pools: tuple[PoolPlan, ...]
    unpooled: tuple[str, ...] = ()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Those of all pools."""
        return tuple(replica for pool in self.pools for replica in pool.replicas)


def make_plan(
    deployment: str,
    seed: str,
    pools: Mapping[str, Pool],
    scale: Mapping[str, int] | None = None,
    unpooled: Iterable[str] = (),
) -> Plan:
    """The plan of these pools. ``scale``: pools that have another number of replicas than
    their ``Compute`` says.

    Raises:
        InvalidInput: ``scale`` names no pool, or a number that there cannot be.
    """
    scale = {} if scale is None else scale
    for name, count in scale.items():
        if name not in pools:
            known = ", ".join(sorted(pools)) or "none"
            raise InvalidInput(f"scale: there is no pool {name!r}; there are {known}")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_REPLICAS:
            raise InvalidInput(
                f"scale: {name}: {count!r} must be a whole number from 0 to {MAX_REPLICAS:,}"
            )
    planned = []
    for name in sorted(pools):
        compute = pools[name].compute
        count = scale.get(name, compute.num_replicas)
        numbers = range(1, count + 1)
        drawn = (Replica(name, n, region_of(seed, name, n, compute.regions)) for n in numbers)
        planned.append(PoolPlan(pools[name], tuple(drawn)))
    return Plan(deployment, seed, tuple(planned), tuple(sorted(unpooled)))


@dataclass(frozen=True)
class Changes:
    """What a plan changes of what runs."""

    create: tuple[Replica, ...]
    keep: tuple[Replica, ...]
    remove: tuple[Replica, ...]


def changes(plan: Plan, running: Iterable[Replica]) -> Changes:
    """What is to be created, kept and removed."""
    wanted, there = set(plan.replicas), set(running)
    return Changes(
        tuple(sorted(wanted - there)), tuple(sorted(wanted & there)), tuple(sorted(there - wanted))
    )

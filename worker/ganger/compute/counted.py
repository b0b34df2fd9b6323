"""Replicas of what knows how many there are of a pool in a region, and not which."""

from collections.abc import Iterator, Mapping
from itertools import count, islice

from .planning import Plan, Replica, region_of

__all__ = ["counted"]


def counted(plan: Plan, counts: Mapping[tuple[str, str], int]) -> list[Replica]:
    """As many replicas of each pool and region as were counted: those that the plan has there
    first, lowest first, then those that would be there next, were the pool scaled up."""
    return [
        Replica(pool, number, region)
        for (pool, region), there in sorted(counts.items())
        for number in islice(_numbers(plan, pool, region), there)
    ]


def _numbers(plan: Plan, pool: str, region: str) -> Iterator[int]:
    """Numbers that draw this region, without end; any, where the plan has no such place."""
    known = {each.pool.name: each.pool.compute.regions for each in plan.pools}
    regions = known.get(pool, ())
    for number in count(1):
        if region not in regions or region_of(plan.seed, pool, number, regions) == region:
            yield number

"""What is unwise about a plan, in words that say what to change."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

from ganger_broker.deployments import Deployment

from .configs import CpuKind, memory_range
from .planning import Plan, PoolPlan
from .store import WorkerUse

__all__ = ["Advice", "AdviceCode", "advice", "shared_pools"]

IDLE = 0.2
"""Part of a pool's processors below which they count as idle."""
NEARLY_FULL = 0.85
"""Part of a replica's memory above which it is near its limit."""
_MEMORY_STEP = 256
"""MB that memory is proposed in."""


class AdviceCode(StrEnum):
    """What may be unwise about a pool."""

    NO_REPLICAS = "no_replicas"
    SINGLE_REPLICA = "single_replica"
    SINGLE_REGION = "single_region"
    EMPTY_REGION = "empty_region"
    IDLE_CPUS = "idle_cpus"
    NEAR_MEMORY_LIMIT = "near_memory_limit"
    SHARED_NAME = "shared_name"
    NO_WORKERS = "no_workers"
    """Of steps in no pool: the deployment has nobody for them."""


class Advice(NamedTuple):
    """One thing to change."""

    pool: str | None
    code: AdviceCode
    text: str

    def __str__(self) -> str:
        return f"{self.pool + ': ' if self.pool else ''}{self.text}"


def advice(
    plan: Plan,
    uses: Iterable[WorkerUse] = (),
    deployments: Mapping[str, Deployment] = MappingProxyType({}),
    *,
    follows: bool = False,
) -> list[Advice]:
    """What to change about a plan; ``uses``: what its live workers use of their machines,
    ``deployments``: all that are known. ``follows``: the load says how many replicas there are."""
    uses = list(uses)
    found: list[Advice] = []
    for pool in plan.pools:
        found += _of_size(pool, follows=follows)
        found += _of_use(pool, [use for use in uses if use.pool == pool.pool.name])
    found += shared_pools(plan, deployments)
    if plan.unpooled:
        text = (
            f"{', '.join(plan.unpooled)}: in no pool; run workers for them yourself (ganger "
            "worker), or give them compute=Compute(…)"
        )
        found.append(Advice(None, AdviceCode.NO_WORKERS, text))
    return found


def shared_pools(plan: Plan, deployments: Mapping[str, Deployment]) -> list[Advice]:
    """Pools that other deployments have under the same name."""
    found = []
    for name in (pool.pool.name for pool in plan.pools):
        others = sorted(
            other.name
            for other in deployments.values()
            if other.name != plan.deployment and name in other.pools
        )
        if others:
            text = (
                f"{', '.join(others)} has a pool of this name too: what they have to do and the "
                "replicas that it wants are counted together; give one another GANGER_PREFIX, or "
                "a Compute that differs, in memory_mb say"
            )
            found.append(Advice(name, AdviceCode.SHARED_NAME, text))
    return found


def _of_size(planned: PoolPlan, *, follows: bool) -> Iterable[Advice]:
    name, compute, count = planned.pool.name, planned.pool.compute, len(planned.replicas)
    regions = ", ".join(compute.regions)
    if count == 0:
        more = f"up --scale {name}=1" if follows else "scale it, or raise num_replicas"
        text = f"it has no replicas, so its steps wait; {more}"
        yield Advice(name, AdviceCode.NO_REPLICAS, text)
        return
    if count == 1:
        more = "--autoscale 2:N keeps two" if follows else "num_replicas=2 or more"
        text = f"it has 1 replica: while that restarts, its steps wait; {more}"
        yield Advice(name, AdviceCode.SINGLE_REPLICA, text)
    if len(compute.regions) == 1:
        text = f"it is in {regions} only: while that is away, its steps wait; name a second region"
        yield Advice(name, AdviceCode.SINGLE_REGION, text)
    elif empty := [region for region, there in planned.per_region.items() if not there]:
        text = (
            f"no replica drew {', '.join(empty)}; replicas are distributed at random, and "
            f"{planned.replicas_to_fill} of them leave a region empty in less than 1 of 100 draws"
        )
        yield Advice(name, AdviceCode.EMPTY_REGION, text)


def _of_use(planned: PoolPlan, uses: list[WorkerUse]) -> Iterable[Advice]:
    name, compute = planned.pool.name, planned.pool.compute
    busy = [use.cpus for use in uses if use.cpus is not None]
    if busy and compute.cpu_kind is CpuKind.PERFORMANCE:
        used, there = sum(busy), len(busy) * compute.cpus
        if used < IDLE * there:
            text = (
                f"its workers use {used:.1f} of {there} performance cpus now; if that is usual, "
                "shared cpus or fewer of them will do"
            )
            yield Advice(name, AdviceCode.IDLE_CPUS, text)
    full = max(uses, key=lambda use: use.memory_mb or 0.0, default=None)
    if full is not None and (full.memory_mb or 0.0) > NEARLY_FULL * compute.memory_mb:
        more = ceil((full.memory_mb or 0.0) / NEARLY_FULL / _MEMORY_STEP) * _MEMORY_STEP
        most = memory_range(compute.cpu_kind, compute.cpus)[1]
        text = (
            f"{full.worker} uses {full.memory_mb:,.0f} of its {compute.memory_mb:,} MB, and is "
            f"stopped at its limit; memory_mb={more} or more"
            + (
                ""
                if more <= most
                else f", which takes more than {compute.cpus} cpu{'s' if compute.cpus > 1 else ''}"
            )
        )
        yield Advice(name, AdviceCode.NEAR_MEMORY_LIMIT, text)

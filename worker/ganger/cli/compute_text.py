"""How plans and replicas are printed: tables for people, JSON for programs."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganger.compute.advice import Advice
from ganger.compute.deploying import plan_of
from ganger.compute.planning import Changes, Plan, PoolPlan, Replica
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import (
    Deployment,
    PoolLoad,
    ReplicaRecord,
    ReplicaState,
    SupervisorRecord,
)
from ganger_broker.terminal import visible

__all__ = [
    "SILENT",
    "begins_with",
    "loads_json",
    "plan_json",
    "print_plan",
    "print_replicas",
    "replica_json",
    "slots_kept",
]

SILENT = 10.0
"""Seconds after which a supervisor that says nothing counts as gone."""


# ── plans ─────────────────────────────────────────────────────────────────────────────


def plan_json(
    deployment: Deployment, plan: Plan, change: Changes | None, found: Sequence[Advice]
) -> dict[str, Any]:
    """A plan, what it changes (None where that is not known) and what is unwise about it."""
    pools = [_pool_json(deployment, pool) for pool in plan.pools]
    return {
        "deployment": deployment.name,
        "target": deployment.target,
        "on": deployment.on,
        "seed": plan.seed,
        "pools": pools,
        "replicas": len(plan.replicas),
        "cpus": sum(pool["cpus"] for pool in pools),
        "memory_mb": sum(pool["memory_mb"] for pool in pools),
        "changes": None if change is None else _changes_json(deployment, change),
        "warnings": [advice._asdict() for advice in found],
        "unpooled": list(plan.unpooled),
    }


def _pool_json(deployment: Deployment, planned: PoolPlan) -> dict[str, Any]:
    compute = planned.pool.compute
    return {
        "pool": planned.pool.name,
        "compute": {
            "cpu_kind": compute.cpu_kind.value,
            "cpus": compute.cpus,
            "memory_mb": compute.memory_mb,
            "num_replicas": compute.num_replicas,
            "regions": list(compute.regions),
        },
        "actions": list(planned.pool.actions),
        "replicas": [_place_json(deployment, replica) for replica in planned.replicas],
        "per_region": planned.per_region,
        "cpus": planned.cpus,
        "memory_mb": planned.memory_mb,
        "chance_of_empty_region": planned.chance_of_empty_region,
        "replicas_to_fill": planned.replicas_to_fill,
    }


def _place_json(deployment: Deployment, replica: Replica) -> dict[str, Any]:
    return {
        "worker": replica.worker_id(deployment.name),
        "number": replica.number,
        "region": replica.region,
    }


def _changes_json(deployment: Deployment, change: Changes) -> dict[str, Any]:
    return {
        what: [{"pool": r.pool, **_place_json(deployment, r)} for r in getattr(change, what)]
        for what in ("create", "keep", "remove")
    }


def print_plan(
    deployment: Deployment, plan: Plan, change: Changes | None, found: Sequence[Advice]
) -> None:
    """Print a plan as a table, what it changes, and what is unwise about it."""
    title = f"{deployment.name}: pools of {deployment.target}, on {deployment.on}"
    table = Table(title=visible(title), show_lines=True)
    for column in ("pool", "takes", "replicas", "in all", "a region empty"):
        table.add_column(column, overflow="fold")
    for planned in plan.pools:
        _add(
            table,
            planned.pool.name,
            "\n".join(planned.pool.actions),
            "\n".join(f"{region} {count}" for region, count in planned.per_region.items()),
            f"{len(planned.replicas)}\n{_count(planned.cpus, 'cpu')}\n{planned.memory_mb:,} MB",
            _chance_text(planned),
        )
    console = Console()
    console.print(table)
    cpus = sum(pool.cpus for pool in plan.pools)
    memory = sum(pool.memory_mb for pool in plan.pools)
    there = f"{_count(len(plan.replicas), 'replica')}, {_count(cpus, 'cpu')}"
    _print(console, f"{there}, {memory:,} MB; seed {plan.seed!r}")
    if change is not None:
        _print_changes(console, deployment, change)
    for advice in found:
        _print(console, f"! {advice}")


def _chance_text(planned: PoolPlan) -> str:
    if len(planned.pool.compute.regions) == 1:
        return ""
    chance = f"{planned.chance_of_empty_region:.1%} by chance"
    if planned.chance_of_empty_region < 0.01:
        return chance
    return f"{chance}\nunder 1 % from {planned.replicas_to_fill} replicas on"


def _print_changes(console: Console, deployment: Deployment, change: Changes) -> None:
    counts = f"create {len(change.create)}, keep {len(change.keep)}, remove {len(change.remove)}"
    _print(console, f"changes: {counts}")
    for sign, replicas in (("+", change.create), ("-", change.remove)):
        for replica in replicas:
            _print(console, f"  {sign} {replica.worker_id(deployment.name)} in {replica.region}")


# ── what runs ─────────────────────────────────────────────────────────────────────────


def replica_json(
    deployment: Deployment,
    supervisor: SupervisorRecord | None,
    records: Mapping[str, ReplicaRecord],
) -> dict[str, Any]:
    """A deployment and its replicas."""
    fields: dict[str, Any] = msgspec.to_builtins(deployment)
    wanted = {replica.worker_id(deployment.name) for replica in plan_of(deployment).replicas}
    return {
        **fields,
        "wanted": len(wanted),
        "supervisor": msgspec.to_builtins(supervisor),
        "replicas": [msgspec.to_builtins(records[worker]) for worker in sorted(records)],
    }


class _Own(NamedTuple):
    """What the workers of a deployment itself have, of a pool that others may have too."""

    workers: int
    slots: int
    used: int


_NAMES_WORKERS = ("local", "fly")
"""What gives workers the ids of their replicas; elsewhere it cannot be said whose they are."""


def _own(deployment: Deployment, pool: str, uses: Sequence[WorkerUse] | None) -> _Own | None:
    if uses is None or deployment.on not in _NAMES_WORKERS:
        return None
    own = [use for use in uses if use.worker.rpartition(".")[0] == f"{deployment.name}.{pool}"]
    return _Own(len(own), sum(use.slots for use in own), sum(use.used for use in own))


def loads_json(
    deployment: Deployment, loads: Mapping[str, PoolLoad], uses: Sequence[WorkerUse] | None
) -> dict[str, Any]:
    """Each pool of a deployment, with what the dispatcher says of all workers of that name, and
    of its own where that is known."""
    owned = {name: _own(deployment, name, uses) for name in deployment.pools}
    return {
        name: {
            **msgspec.to_builtins(record),
            "load": msgspec.to_builtins(loads[name]) if name in loads else None,
            "own": own._asdict() if (own := owned[name]) is not None else None,
        }
        for name, record in deployment.pools.items()
    }


def print_replicas(
    deployment: Deployment,
    supervisor: SupervisorRecord | None,
    records: Mapping[str, ReplicaRecord],
    loads: Mapping[str, PoolLoad],
    uses: Sequence[WorkerUse] | None,
) -> None:
    """Print a deployment: who keeps it, its pools and its replicas."""
    console = Console()
    state = "being taken down" if deployment.leaving else f"on {deployment.on}"
    bounds = deployment.autoscale
    if bounds is not None and not deployment.leaving:
        state += f"; each pool follows its load, from {bounds.least} to {bounds.most} replicas"
    _print(console, f"{deployment.name}: {deployment.target}, {state}")
    if deployment.on == "local":
        _print(console, _supervisor_text(supervisor))
    for planned in plan_of(deployment).pools:
        pool = planned.pool.name
        said = [_count(len(planned.replicas), "replica")]
        draining = [r.state for r in records.values() if r.pool == pool].count(
            ReplicaState.DRAINING
        )
        if draining:
            said[0] += f" and {draining} draining"
        load, own = loads.get(pool), _own(deployment, pool, uses)
        slots = own or load
        if slots is not None:
            said.append(f"{slots.used} of {_count(slots.slots, 'slot')} in use")
        if load is not None:
            waiting = f"{_count(load.pending, 'step')} waiting"
            said.append(f"for the pool {waiting}, {_count(load.wanted, 'replica')} wanted")
        _print(console, f"  {pool}: {'; '.join(said)}")
    for pool, staying in _replaced(deployment, records).items():
        own = _own(deployment, pool, uses)
        slots_used = "" if own is None else f"; {own.used} of {_count(own.slots, 'slot')} in use"
        what = f"{_count(staying, 'replica')}{slots_used}"
        _print(console, f"  {pool}: {what}; until each pool above has a replica that runs")
    if records:
        _print_records(console, sorted(records.values(), key=lambda each: (each.pool, each.number)))


def _replaced(deployment: Deployment, records: Mapping[str, ReplicaRecord]) -> "Counter[str]":
    """Pools that are no more, and how many replicas of each do not drain."""
    return Counter(
        record.pool
        for record in sorted(records.values(), key=lambda each: each.pool)
        if record.pool not in deployment.pools and record.state is not ReplicaState.STOPPING
    )


def _print_records(console: Console, records: Sequence[ReplicaRecord]) -> None:
    """Each in a line, which is as long as it has to be: what one copies is in one piece. How they
    ended last, which is for reading, is below."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("replica", "region", "state", "pid", "MB", "restarts"):
        table.add_column(column, no_wrap=True)
    for record in records:
        memory = "" if record.memory_mb is None else f"{record.memory_mb:,.0f}"
        _add(
            table,
            _replica(record),
            record.region,
            record.state.value,
            str(record.pid or ""),
            memory,
            str(record.restarts),
        )
    console.width = max(console.width, table.__rich_measure__(console, console.options).minimum)
    console.print(table, soft_wrap=True)
    for record in records:
        if record.ended:
            _print(console, f"{_replica(record)} ended last: {record.ended}")


def _replica(record: ReplicaRecord) -> str:
    return f"{record.pool}.{record.number}"


def slots_kept(before: Deployment | None, made: Deployment) -> list[str]:
    """A word to those who give another number of slots to replicas that run."""
    if before is None or before.slots == made.slots or made.on != "local":
        return []
    return [
        f"replicas that run keep the {_count(before.slots, 'slot')} that they were started with; "
        f"to have {made.slots}, take the deployment down and put it up again, or end them one by "
        "one"
    ]


def begins_with(made: Deployment, scale: Sequence[str] | None) -> list[str]:
    """A word to those who say how many replicas there are to be of what follows its load."""
    if not scale or made.autoscale is None:
        return []
    return [
        f"--scale: {made.name} follows its load, so this is only what its pools begin with; with "
        "--autoscale off it stays"
    ]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _supervisor_text(supervisor: SupervisorRecord | None) -> str:
    again = "; `ganger compute up` starts another, which picks its replicas up"
    if supervisor is None:
        return f"  no supervisor{again}"
    silent = time.time() - supervisor.seen_at / 1000
    if silent > SILENT:
        return f"  its supervisor has been silent for {silent:,.0f} s{again}"
    return f"  kept by process {supervisor.pid} on {supervisor.host}"


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(visible(cell)) for cell in cells))


def _print(console: Console, text: str) -> None:
    console.print(Text(visible(text)), soft_wrap=True)

"""How plans and replicas are printed: tables for people, JSON for programs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganger.compute.advice import Advice
from ganger.compute.deploying import plan_of
from ganger.compute.planning import Changes, Plan, PoolPlan, Replica
from ganger_broker.deployments import Deployment, PoolLoad, ReplicaRecord, SupervisorRecord

__all__ = ["SILENT", "loads_json", "plan_json", "print_plan", "print_replicas", "replica_json"]

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
    table = Table(title=title, show_lines=True)
    for column in ("pool", "takes", "replicas", "in all", "a region empty"):
        table.add_column(column, overflow="fold")
    for planned in plan.pools:
        _add(
            table,
            planned.pool.name,
            "\n".join(planned.pool.actions),
            "\n".join(f"{region} {count}" for region, count in planned.per_region.items()),
            f"{len(planned.replicas)}\n{planned.cpus:,} cpus\n{planned.memory_mb:,} MB",
            _chance_text(planned),
        )
    console = Console()
    console.print(table)
    cpus = sum(pool.cpus for pool in plan.pools)
    memory = sum(pool.memory_mb for pool in plan.pools)
    count = len(plan.replicas)
    _print(console, f"{count} replicas, {cpus:,} cpus, {memory:,} MB; seed {plan.seed!r}")
    if change is not None:
        _print_changes(console, deployment, change)
    for advice in found:
        _print(console, f"! {advice.pool + ': ' if advice.pool else ''}{advice.text}")


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


def loads_json(deployment: Deployment, loads: Mapping[str, PoolLoad]) -> dict[str, Any]:
    """Each pool of a deployment, with what the dispatcher says of it."""
    return {
        name: {
            **msgspec.to_builtins(record),
            "load": msgspec.to_builtins(loads[name]) if name in loads else None,
        }
        for name, record in deployment.pools.items()
    }


def print_replicas(
    deployment: Deployment,
    supervisor: SupervisorRecord | None,
    records: Mapping[str, ReplicaRecord],
    loads: Mapping[str, PoolLoad],
) -> None:
    """Print a deployment: who keeps it, its pools and its replicas."""
    console = Console()
    state = "being taken down" if deployment.leaving else f"on {deployment.on}"
    _print(console, f"{deployment.name}: {deployment.target}, {state}")
    if deployment.on == "local":
        _print(console, _supervisor_text(supervisor))
    for planned in plan_of(deployment).pools:
        load = loads.get(planned.pool.name)
        said = (
            f"; {load.used} of {load.slots} slots in use, {load.pending} steps waiting, "
            f"{load.wanted} replicas wanted"
            if load is not None
            else ""
        )
        _print(console, f"  {planned.pool.name}: {len(planned.replicas)} replicas{said}")
    if not records:
        return
    table = Table(show_lines=False)
    table.add_column("replica", no_wrap=True)
    for column in ("region", "state", "pid", "MB", "restarts", "ended last"):
        table.add_column(column, overflow="fold")
    for record in sorted(records.values(), key=lambda record: (record.pool, record.number)):
        memory = "" if record.memory_mb is None else f"{record.memory_mb:,.0f}"
        _add(
            table,
            f"{record.pool}.{record.number}",
            record.region,
            record.state.value,
            str(record.pid or ""),
            memory,
            str(record.restarts),
            record.ended or "",
        )
    console.print(table)


def _supervisor_text(supervisor: SupervisorRecord | None) -> str:
    again = "; `ganger compute up` starts another, which picks its replicas up"
    if supervisor is None:
        return f"  no supervisor{again}"
    silent = time.time() - supervisor.seen_at / 1000
    if silent > SILENT:
        return f"  its supervisor has been silent for {silent:,.0f} s{again}"
    return f"  kept by process {supervisor.pid} on {supervisor.host}"


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)

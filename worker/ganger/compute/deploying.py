"""From an app to its deployment, and from a deployment to its plan."""

import re
from collections.abc import Mapping

from msgspec.structs import replace

from ganger.app import Ganger
from ganger.workflow import declaration_of
from ganger_broker.definitions import action_of
from ganger_broker.deployments import DEPLOYMENT_PATTERN, Autoscale, Deployment, PoolRecord
from ganger_broker.errors import InvalidInput, InvalidWorkflow

from .configs import Compute, CpuKind
from .planning import Plan, make_plan
from .pools import Pool

__all__ = ["awake", "check_deployment_name", "deployment_of", "name_from", "plan_of", "scaled"]


def name_from(target: str) -> str:
    """The name of a deployment that was given none: its module's."""
    module = target.partition(":")[0].rpartition(".")[2]
    return re.sub(r"[^a-z0-9]+", "-", module.lower()).strip("-")[:32].strip("-") or "app"


def check_deployment_name(name: str) -> str:
    """Return ``name`` if it can be a deployment's.

    Raises:
        InvalidInput: it cannot.
    """
    if re.fullmatch(DEPLOYMENT_PATTERN, name):
        return name
    raise InvalidInput(
        f"deployment: {name!r} must be 1 to 32 lower case letters, digits and - between them"
    )


def deployment_of(
    app: Ganger,
    target: str,
    *,
    name: str,
    on: str,
    now: int,
    slots: int,
    folder: str,
    before: Deployment | None = None,
    seed: str | None = None,
    scale: Mapping[str, int] | None = None,
    autoscale: Autoscale | None = None,
    options: Mapping[str, str] | None = None,
) -> Deployment:
    """The deployment of an app's pools under this name.

    Of what is deployed ``before``, the seed stays, and so does the number of replicas that a
    pool was scaled to, unless its ``Compute`` says another number since, or it was its load that
    left it with none and nobody follows that any more.

    Raises:
        InvalidWorkflow: no step of it has compute.
        InvalidInput: name or scale are wrong.
    """
    check_deployment_name(name)
    pools = {name: _record(pool) for name, pool in app.pools.items()}
    versions = {
        name: declaration_of(flow).definition.version for name, flow in app.workflows.items()
    }
    if not pools:
        raise InvalidWorkflow(f"{target}: no step has compute; give one compute=Compute(…)")
    if seed is None:
        seed = name if before is None else before.seed
    made = Deployment(
        name,
        target,
        on,
        seed,
        slots,
        now if before is None else before.created_at,
        pools,
        _unpooled(app),
        folder,
        {**_kept_scale(before, pools, autoscale), **(scale or {})},
        autoscale,
        dict(options or {}),
        asked_at=now,
        versions=versions,
    )
    plan_of(made)  # what is wrong is said here
    return made


def _kept_scale(
    before: Deployment | None, pools: Mapping[str, PoolRecord], autoscale: Autoscale | None
) -> dict[str, int]:
    """What pools were scaled to and still are."""
    if before is None:
        return {}
    is_over = before.autoscale is not None and autoscale is None
    return {
        pool: count
        for pool, count in before.scale.items()
        if pool in pools
        and before.pools[pool].num_replicas == pools[pool].num_replicas
        and (count or not is_over)
    }


def _record(pool: Pool) -> PoolRecord:
    compute = pool.compute
    return PoolRecord(
        compute.cpu_kind.value,
        compute.cpus,
        compute.memory_mb,
        compute.num_replicas,
        list(compute.regions),
        list(pool.actions),
    )


def _unpooled(app: Ganger) -> list[str]:
    definitions = [declaration_of(workflow).definition for workflow in app.workflows.values()]
    return [
        action_of(definition.name, step.name)
        for definition in definitions
        for step in definition.every_step()
        if step.pool is None
    ]


def plan_of(deployment: Deployment) -> Plan:
    """The plan of what is deployed, or to be; of nothing where it is being taken down.

    Raises:
        InvalidInput: a pool is scaled that there is not, or to what it cannot be.
    """
    pools = {name: _pool(name, record) for name, record in deployment.pools.items()}
    plan = make_plan(deployment.name, deployment.seed, pools, deployment.scale, deployment.unpooled)
    return Plan(plan.deployment, plan.seed, ()) if deployment.leaving else plan


def _pool(name: str, record: PoolRecord) -> Pool:
    # checked where it was written: a region may be one that only the app has added
    compute = Compute.model_construct(
        cpu_kind=CpuKind(record.cpu_kind),
        cpus=record.cpus,
        memory_mb=record.memory_mb,
        num_replicas=record.num_replicas,
        regions=tuple(record.regions),
    )
    return Pool(name, compute, tuple(record.actions))


def scaled(deployment: Deployment, scale: Mapping[str, int]) -> Deployment:
    """The deployment with these numbers of replicas.

    Raises:
        InvalidInput: there is no such pool, or it cannot be so many.
    """
    made = replace(deployment, scale={**deployment.scale, **scale})
    plan_of(made)
    return made


def awake(deployment: Deployment) -> Deployment:
    """The deployment with a replica at least of each pool, where it follows its load on this
    machine: nothing calls for the first one of a pool whose workflows nobody has registered."""
    bounds = deployment.autoscale
    if bounds is None or deployment.on != "local":
        return deployment
    asleep = [each.pool.name for each in plan_of(deployment).pools if not each.replicas]
    return scaled(deployment, dict.fromkeys(asleep, max(1, bounds.least)))

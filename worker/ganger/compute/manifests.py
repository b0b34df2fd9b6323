"""Kubernetes manifests of a plan, as values: what ``kubernetes`` prints and applies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ganger_broker.deployments import Deployment
from ganger_broker.pool_labels import CPU_KIND, CPUS, MEMORY_MB, POOL, REGION
from ganger_broker.settings import Settings

from .configs import Compute, CpuKind
from .container import (
    BROKER_URL,
    PROGRAM,
    arguments,
    environment,
    is_not_stuck,
    is_well,
    seconds_to_stop,
)
from .names import short_name
from .planning import Plan, PoolPlan, make_plan

__all__ = ["INSTANCE", "MANAGED_BY", "Cluster", "Manifest", "manifests"]

Manifest = dict[str, Any]

INSTANCE = "app.kubernetes.io/instance"
MANAGED_BY = "app.kubernetes.io/managed-by"

SPREAD_OVER = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
SHARED_BY = 4
"""Replicas whose cpus may be one and the same: a shared one asks for a quarter of its limit."""
AWAY_AT_ONCE = "25%"
"""Of a pool's replicas, rounded up, so that a pool of one does not keep a node from its end."""


@dataclass(frozen=True)
class Cluster:
    """How things are called where it is deployed, and what is wanted of it."""

    image: str
    namespace: str = ""
    secret: str = "ganger"  # noqa: S105  # the name of one
    kind: str = "Deployment"
    region_label: str = "topology.kubernetes.io/region"
    region_values: Mapping[str, str] = field(default_factory=dict)
    """What ``region_label`` says of our regions, where it is not their code."""
    performance_nodes: Mapping[str, str] = field(default_factory=dict)
    """Labels that the nodes of performance pools have."""
    service_account: str = ""
    pull_secret: str = ""
    user: str = ""
    metrics_url: str = ""
    """Of the Prometheus that KEDA asks; empty: nothing scales by itself."""


def manifests(
    deployment: Deployment, plan: Plan, settings: Settings, cluster: Cluster
) -> dict[str, list[Manifest]]:
    """Those of each pool and region, and the budget of each pool, by names of files.

    A region without replicas has none, nor has a pool that is scaled to nothing.
    """
    made = {}
    for planned in plan.pools:
        pool = planned.pool.name
        if not planned.replicas:
            continue
        for place in _places(deployment, plan, planned, scaled=bool(cluster.metrics_url)):
            made[place.name] = list(_of_place(deployment, place, settings, cluster))
        budget = short_name(deployment.name, pool)
        made[f"{budget}-budget"] = [_budget(deployment, pool, budget, cluster)]
    return made


# ── pools and regions ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Place:
    """A pool in a region: ``replicas`` by plan, from ``least`` to ``most`` by load, of ``of``
    that the whole pool may have."""

    name: str
    pool: str
    region: str
    compute: Compute
    replicas: int
    least: int
    most: int
    of: int


def _places(
    deployment: Deployment, plan: Plan, planned: PoolPlan, *, scaled: bool
) -> Iterator[_Place]:
    """The regions where replicas are, or may come to be.

    The bounds of a pool's replicas draw their regions as the replicas themselves do, so those
    of its regions add up to the pool's. Without ``--autoscale`` they are 1 and the plan's.
    """
    pool, count = planned.pool, len(planned.replicas)
    bounds = deployment.autoscale
    low, high = (bounds.least, bounds.most) if bounds is not None else (1, count)

    def drawn(replicas: int) -> dict[str, int]:
        scale = {pool.name: replicas}
        return make_plan(plan.deployment, plan.seed, {pool.name: pool}, scale).pools[0].per_region

    least, most = drawn(low), drawn(high)
    for region, replicas in planned.per_region.items():
        if most[region] if scaled else replicas:
            name = short_name(deployment.name, pool.name, region)
            numbers = (replicas, least[region], most[region], high)
            yield _Place(name, pool.name, region, pool.compute, *numbers)


def _of_place(
    deployment: Deployment, place: _Place, settings: Settings, cluster: Cluster
) -> Iterator[Manifest]:
    yield _workload(deployment, place, settings, cluster)
    if cluster.metrics_url:
        yield _scaled_object(deployment, place, cluster)


def _metadata(
    deployment: Deployment, name: str, cluster: Cluster, labels: Mapping[str, str]
) -> Manifest:
    own = {
        "app.kubernetes.io/name": "ganger-worker",
        INSTANCE: deployment.name,
        "app.kubernetes.io/component": "worker",
        MANAGED_BY: "ganger",
    }
    where = {"namespace": cluster.namespace} if cluster.namespace else {}
    return {"name": name, **where, "labels": {**own, **labels}}


def _selected(deployment: Deployment, pool: str) -> dict[str, str]:
    return {INSTANCE: deployment.name, POOL: pool}


def _budget(deployment: Deployment, pool: str, name: str, cluster: Cluster) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(deployment, name, cluster, {POOL: pool}),
        "spec": {
            "maxUnavailable": AWAY_AT_ONCE,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _selected(deployment, pool)},
        },
    }


# ── workers ───────────────────────────────────────────────────────────────────────────────


def _workload(
    deployment: Deployment, place: _Place, settings: Settings, cluster: Cluster
) -> Manifest:
    labels = _labels(place)
    selector = {"matchLabels": {**_selected(deployment, place.pool), REGION: place.region}}
    metadata = _metadata(deployment, place.name, cluster, labels)
    # What scales it says how many there are: a number here would set it back at each apply.
    spec: Manifest = {} if cluster.metrics_url else {"replicas": place.replicas}
    if cluster.kind == "StatefulSet":
        spec |= {"serviceName": place.name, "podManagementPolicy": "Parallel"}
    return {
        "apiVersion": "apps/v1",
        "kind": cluster.kind,
        "metadata": metadata,
        "spec": {
            **spec,
            "selector": selector,
            "template": {
                "metadata": {"labels": metadata["labels"]},
                "spec": _pod(deployment, place, settings, cluster, selector),
            },
        },
    }


def _labels(place: _Place) -> dict[str, str]:
    return {
        POOL: place.pool,
        REGION: place.region,
        CPU_KIND: place.compute.cpu_kind.value,
        CPUS: str(place.compute.cpus),
        MEMORY_MB: str(place.compute.memory_mb),
    }


def _pod(
    deployment: Deployment,
    place: _Place,
    settings: Settings,
    cluster: Cluster,
    selector: Manifest,
) -> Manifest:
    pod: Manifest = {
        "terminationGracePeriodSeconds": seconds_to_stop(settings),
        # A Service of the name ganger-… would give it variables that look like settings.
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(cluster.service_account),
        "securityContext": _pod_security(cluster),
        "affinity": {"nodeAffinity": _in_region(place, cluster)},
        "topologySpreadConstraints": [_spread(key, selector) for key in SPREAD_OVER],
        "containers": [_container(deployment, place, settings, cluster)],
    }
    if cluster.service_account:
        pod["serviceAccountName"] = cluster.service_account
    if cluster.pull_secret:
        pod["imagePullSecrets"] = [{"name": cluster.pull_secret}]
    if cluster.performance_nodes and place.compute.cpu_kind is CpuKind.PERFORMANCE:
        pod["nodeSelector"] = dict(cluster.performance_nodes)
    return pod


def _pod_security(cluster: Cluster) -> Manifest:
    user = {"runAsUser": int(cluster.user)} if cluster.user else {}
    return {"runAsNonRoot": True, **user, "seccompProfile": {"type": "RuntimeDefault"}}


def _in_region(place: _Place, cluster: Cluster) -> Manifest:
    value = cluster.region_values.get(place.region, place.region)
    wanted = {"key": cluster.region_label, "operator": "In", "values": [value]}
    terms = [{"matchExpressions": [wanted]}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _spread(key: str, selector: Manifest) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector,
    }


def _container(
    deployment: Deployment, place: _Place, settings: Settings, cluster: Cluster
) -> Manifest:
    """The worker has its pod's name as its id, so that either finds the other."""
    pod_name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    reference = {"secretKeyRef": {"name": cluster.secret, "key": BROKER_URL}}
    plain = [{"name": name, "value": value} for name, value in environment(settings).items()]
    return {
        "name": "worker",
        "image": cluster.image,
        "command": [PROGRAM],
        "args": [*arguments(deployment, place.pool, place.region), "--id", "$(POD_NAME)"],
        "env": [pod_name, {"name": BROKER_URL, "valueFrom": reference}, *plain],
        "resources": _resources(place.compute),
        "readinessProbe": _probe(is_well(settings), period=5),
        "livenessProbe": _probe(is_not_stuck(settings), period=20),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probe(test: str, *, period: int) -> Manifest:
    return {
        "exec": {"command": ["sh", "-c", test]},
        "periodSeconds": period,
        "timeoutSeconds": 5,
    }


def _resources(compute: Compute) -> Manifest:
    """Performance: what is asked for is the limit, so the pod's quality of service is
    Guaranteed, and its cpus can be its own. Memory is never promised twice."""
    limits = {"cpu": str(compute.cpus), "memory": f"{compute.memory_mb}Mi"}
    requests = dict(limits)
    if compute.cpu_kind is CpuKind.SHARED:
        requests["cpu"] = f"{compute.cpus * 1_000 // SHARED_BY}m"
    return {"requests": requests, "limits": limits}


# ── scaling by load ───────────────────────────────────────────────────────────────────────


def _scaled_object(deployment: Deployment, place: _Place, cluster: Cluster) -> Manifest:
    """KEDA's. Steps that wait bring replicas, also the first; what the dispatcher wants keeps
    those that the running steps need. Each region has its share of both.

    A metric that is not there is an error, not a nought: a dispatcher that is away must not
    end a pool. After three the region has what the plan says.
    """
    planned = max(place.least, min(place.replicas, place.most))
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _metadata(deployment, place.name, cluster, _labels(place)),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": cluster.kind, "name": place.name},
            "minReplicaCount": place.least,
            "maxReplicaCount": place.most,
            "fallback": {"failureThreshold": 3, "replicas": planned},
            "triggers": [
                _trigger("pending", "ganger_pool_pending", deployment.slots, place, cluster),
                _trigger("wanted", "ganger_pool_wanted_replicas", 1, place, cluster),
            ],
        },
    }


def _trigger(name: str, metric: str, threshold: int, place: _Place, cluster: Cluster) -> Manifest:
    """``max``: of the dispatchers, those that stand by say 0 or nothing."""
    share = "" if place.most == place.of else f" * {place.most} / {place.of}"
    return {
        "type": "prometheus",
        "name": name,
        "metadata": {
            "serverAddress": cluster.metrics_url,
            "query": f'max({metric}{{pool="{place.pool}"}}){share}',
            "threshold": str(threshold),
            "ignoreNullValues": "false",
        },
    }

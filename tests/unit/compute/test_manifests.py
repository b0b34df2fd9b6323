"""Kubernetes manifests: valid, selectable, and as the machine that ``Compute`` says."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from ganger import InvalidInput
from ganger.compute.configs import Compute
from ganger.compute.kubernetes import Kubernetes
from ganger.compute.names import short_name
from ganger.compute.planning import Plan
from ganger_broker.deployments import Autoscale

from .cases import IMAGE, KEDA, LARGE, SMALL, deployment, plan_of, rendered, settings

SMALL_POOL = "shared-2cpu-1024mb-fra-iad-sin"
LARGE_POOL = "performance-4cpu-8192mb-fra"
VERSIONS = ["1.29", "1.33", "1.37"]
"""Of Kubernetes: an old one, one between, and the newest that schemas are there of."""
REGIONS = ["fra", "iad", "sin", "ams", "arn", "atl", "bog", "bom"]
MANIFESTS = ["deployments.yaml", "stateful.yaml", "scaled.yaml"]


def made(plan: Plan, given: dict[str, str] | None = None, **changed: Any) -> list[Any]:
    """The manifests of a plan, as kubectl would read them."""
    adapter = Kubernetes(settings(), IMAGE | (given or {}))
    texts = adapter.render(deployment(**changed), plan).values()
    return list(yaml.safe_load_all("".join(texts)))


def of_kind(kind: str, manifests: list[Any]) -> list[Any]:
    return [each for each in manifests if each["kind"] == kind]


def pod(manifest: Any) -> Any:
    return manifest["spec"]["template"]["spec"]


# ── validity ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_they_fit_the_published_schemas(name: str, version: str) -> None:
    manifests = list(yaml.safe_load_all(rendered()[name]))
    ours = [each for each in manifests if not each["apiVersion"].startswith("keda.sh/")]
    assert len(ours) > 2
    for each in ours:
        assert kubernetes_validate.validate(each, version, strict=True) == version


def test_the_schemas_would_find_a_wrong_field() -> None:
    manifest = made(plan_of(LARGE))[0]
    pod(manifest)["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


def test_names_and_labels_have_room_for_what_kubernetes_adds() -> None:
    many = Compute(cpu_kind="performance", cpus=64, memory_mb=524288, regions=REGIONS)
    manifests = made(
        plan_of(many, scale={plan_of(many).pools[0].pool.name: 40}),
        KEDA,
        name="the-longest-name-that-there-is-32",
    )
    names = [each["metadata"]["name"] for each in of_kind("Deployment", manifests)]
    assert len(set(names)) == len(REGIONS)
    for each in manifests:
        assert len(f"keda-hpa-{each['metadata']['name']}") <= 63
        assert not each["metadata"]["name"].endswith("-")
        assert all(len(value) <= 63 for value in each["metadata"]["labels"].values())


def test_a_name_is_shortened_only_where_it_has_to_be() -> None:
    assert short_name("a", "b") == "a-b"
    assert short_name("a" * 25, "b" * 26) == "a" * 25 + "-" + "b" * 26
    long = [short_name("a" * 25, "b" * 27), short_name("a" * 25 + "-b", "b" * 25)]
    assert [len(name) for name in long] == [52, 52]
    assert long[0] != long[1]


# ── machines ──────────────────────────────────────────────────────────────────────────────


def test_a_pool_and_region_has_a_workload_with_its_replicas() -> None:
    plan = plan_of(SMALL, LARGE)
    there = {
        (each["metadata"]["labels"]["ganger.pool"], each["metadata"]["labels"]["ganger.region"]): (
            each["spec"]["replicas"]
        )
        for each in of_kind("Deployment", made(plan))
    }
    assert there == {
        (planned.pool.name, region): replicas
        for planned in plan.pools
        for region, replicas in planned.per_region.items()
    }


def test_a_region_without_replicas_has_nothing_nor_has_a_pool_scaled_to_nothing() -> None:
    one = plan_of(SMALL, LARGE, scale={SMALL_POOL: 1, LARGE_POOL: 0})
    kinds = [(each["kind"], each["metadata"]["labels"]["ganger.pool"]) for each in made(one)]
    assert kinds == [("Deployment", SMALL_POOL), ("PodDisruptionBudget", SMALL_POOL)]
    assert made(plan_of(LARGE, scale={LARGE_POOL: 0}), KEDA) == []


def test_performance_is_guaranteed_and_shared_shares_cpus_but_no_memory() -> None:
    manifests = {
        each["metadata"]["labels"]["ganger.cpu_kind"]: pod(each)["containers"][0]["resources"]
        for each in of_kind("Deployment", made(plan_of(SMALL, LARGE)))
    }
    assert manifests["performance"]["requests"] == manifests["performance"]["limits"]
    assert manifests["performance"]["limits"] == {"cpu": "4", "memory": "8192Mi"}
    assert manifests["shared"]["limits"] == {"cpu": "2", "memory": "1024Mi"}
    assert manifests["shared"]["requests"] == {"cpu": "500m", "memory": "1024Mi"}


def test_pods_go_to_nodes_of_their_region_however_the_cluster_calls_it() -> None:
    def wanted(given: dict[str, str]) -> Any:
        [workload] = of_kind("Deployment", made(plan_of(LARGE), given))
        affinity = pod(workload)["affinity"]["nodeAffinity"]
        [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return term["matchExpressions"]

    key = "topology.kubernetes.io/region"
    assert wanted({}) == [{"key": key, "operator": "In", "values": ["fra"]}]
    named = {"regions": "fra=eu-central-1", "region_label": "example.com/place"}
    assert wanted(named) == [
        {"key": "example.com/place", "operator": "In", "values": ["eu-central-1"]}
    ]


def test_only_performance_pools_go_to_their_nodes() -> None:
    manifests = made(plan_of(SMALL, LARGE), {"performance_nodes": "node-type=compute"})
    chosen = {
        each["metadata"]["labels"]["ganger.pool"]: pod(each).get("nodeSelector")
        for each in of_kind("Deployment", manifests)
    }
    assert chosen == {SMALL_POOL: None, LARGE_POOL: {"node-type": "compute"}}


def test_the_broker_is_given_by_reference_and_never_by_value() -> None:
    adapter = Kubernetes(settings(broker_url="amqp://me:secret@host/"), IMAGE | {"secret": "mq"})
    text = "".join(adapter.render(deployment(), plan_of(LARGE)).values())
    assert "secret@" not in text
    [workload] = of_kind("Deployment", list(yaml.safe_load_all(text)))
    variables = {each["name"]: each for each in pod(workload)["containers"][0]["env"]}
    assert variables["GANGER_BROKER_URL"]["valueFrom"] == {
        "secretKeyRef": {"name": "mq", "key": "GANGER_BROKER_URL"}
    }
    assert "GANGER_REDIS_URL" not in variables


def test_a_pod_keeps_the_restricted_standard() -> None:
    for each in of_kind("Deployment", made(plan_of(SMALL, LARGE))):
        own = pod(each)["securityContext"]
        assert own == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        [container] = pod(each)["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod(each)["automountServiceAccountToken"] is False


def test_a_pod_has_longer_to_end_than_its_worker_drains() -> None:
    adapter = Kubernetes(settings(drain_grace=600.0), IMAGE)
    [workload, _] = yaml.safe_load_all(
        "".join(adapter.render(deployment(), plan_of(LARGE)).values())
    )
    variables = {each["name"]: each for each in pod(workload)["containers"][0]["env"]}
    assert variables["GANGER_DRAIN_GRACE"]["value"] == "600"
    assert pod(workload)["terminationGracePeriodSeconds"] == 615


def test_workloads_select_their_own_pods_and_budgets_those_of_the_pool() -> None:
    manifests = made(plan_of(SMALL, LARGE))
    workloads = of_kind("Deployment", manifests)
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in workloads]

    def selected(manifest: Any) -> list[Any]:
        wanted = manifest["spec"]["selector"]["matchLabels"].items()
        return [labels for labels in pods if wanted <= labels.items()]

    for workload, labels in zip(workloads, pods, strict=True):
        assert selected(workload) == [labels]
    budgets = of_kind("PodDisruptionBudget", manifests)
    assert {len(selected(each)) for each in budgets} == {1, 3}
    assert sum(len(selected(each)) for each in budgets) == len(pods)


def test_a_stateful_set_names_its_service_and_starts_its_pods_at_once() -> None:
    [workload] = of_kind("StatefulSet", made(plan_of(LARGE), {"kind": "StatefulSet"}))
    assert workload["spec"]["serviceName"] == workload["metadata"]["name"]
    assert workload["spec"]["podManagementPolicy"] == "Parallel"
    assert pod(workload)["containers"][0]["args"][-2:] == ["--id", "$(POD_NAME)"]


# ── scaling by load ───────────────────────────────────────────────────────────────────────

KEDA_SPEC = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "fallback", "triggers"}
PROMETHEUS = {"serverAddress", "query", "threshold", "ignoreNullValues"}


def test_keda_scales_each_workload_and_its_number_is_left_out() -> None:
    manifests = made(plan_of(SMALL), KEDA | {"kind": "StatefulSet"})
    workloads = of_kind("StatefulSet", manifests)
    scalers = of_kind("ScaledObject", manifests)
    assert len(workloads) == len(scalers) == 3
    for workload, scaler in zip(workloads, scalers, strict=True):
        assert "replicas" not in workload["spec"]
        assert scaler["apiVersion"] == "keda.sh/v1alpha1"
        assert set(scaler["spec"]) == KEDA_SPEC
        assert scaler["spec"]["scaleTargetRef"] == {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "name": workload["metadata"]["name"],
        }


def test_keda_asks_for_what_waits_and_for_what_is_wanted() -> None:
    [scaler] = of_kind("ScaledObject", made(plan_of(LARGE), KEDA, slots=8))
    pending, wanted = scaler["spec"]["triggers"]
    assert [set(each["metadata"]) for each in (pending, wanted)] == [PROMETHEUS, PROMETHEUS]
    assert pending["type"] == "prometheus"
    assert pending["metadata"]["serverAddress"] == "http://prometheus.monitoring:9090"
    assert pending["metadata"]["query"] == f'max(ganger_pool_pending{{pool="{LARGE_POOL}"}})'
    assert pending["metadata"]["threshold"] == "8"
    assert wanted["metadata"]["query"] == f'max(ganger_pool_wanted_replicas{{pool="{LARGE_POOL}"}})'
    assert wanted["metadata"]["threshold"] == "1"
    texts = [value for each in (pending, wanted) for value in each["metadata"].values()]
    assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [(None, 1, 5), (Autoscale(0, 9), 0, 9), (Autoscale(4, 4), 4, 4), (Autoscale(7, 9), 7, 9)],
)
def test_the_regions_bounds_add_up_to_the_pools(
    bounds: Autoscale | None, low: int, high: int
) -> None:
    specs = [
        each["spec"]
        for each in of_kind("ScaledObject", made(plan_of(SMALL), KEDA, autoscale=bounds))
    ]
    assert sum(spec["minReplicaCount"] for spec in specs) == low
    assert sum(spec["maxReplicaCount"] for spec in specs) == high
    for spec in specs:
        assert spec["maxReplicaCount"] > 0
        assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
        share = f" * {spec['maxReplicaCount']} / {high}"
        assert all(each["metadata"]["query"].endswith(share) for each in spec["triggers"])


def test_without_keda_nothing_can_follow_the_load() -> None:
    with pytest.raises(InvalidInput, match="--autoscale: on kubernetes it is KEDA that scales"):
        made(plan_of(SMALL), autoscale=Autoscale(1, 9))


# ── options ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--set image=…: is needed: the image that has ganger and your app"),
        ({"image": "--privileged"}, "--set image: '--privileged' must be an image"),
        (IMAGE | {"namespace": "My"}, "--set namespace: 'My' must be lower case letters"),
        (IMAGE | {"kind": "DaemonSet"}, "'DaemonSet' must be Deployment or StatefulSet"),
        (IMAGE | {"keda": "true"}, "--set keda: 'true' must be yes or no"),
        (IMAGE | {"keda": "yes"}, "--set metrics_url=…: is needed with keda=yes"),
        (IMAGE | {"metrics_url": "http://p:9090"}, "it is for KEDA; add --set keda=yes"),
        (IMAGE | KEDA | {"metrics_url": "p:9090"}, "must be the URL of a Prometheus, such as"),
        (IMAGE | {"regions": "fra"}, "'fra' must be like fra=eu-central-1"),
        (IMAGE | {"performance_nodes": "fast"}, "'fast' must be KEY=VALUE, a label of nodes"),
        (IMAGE | {"region_label": "a b"}, "--set region_label: 'a b' must be the key of a label"),
        (IMAGE | {"user": "0"}, "--set user: '0' must be a number over 0"),
    ],
)
def test_an_option_that_is_wrong_is_named(given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Kubernetes(settings(), given)
    assert said in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        Kubernetes(settings(), {"kind": "x", "secret": "-"})
    assert [text.split(":")[0] for text in str(caught.value).split("; ")] == [
        "--set image=…",
        "--set secret",
        "--set kind",
    ]


def test_a_region_that_there_is_none_of_is_no_key() -> None:
    with pytest.raises(InvalidInput, match="--set regions: 'frankfurt' is no region; did you mean"):
        made(plan_of(LARGE), {"regions": "frankfurt=eu-central-1"})

"""``--on kubernetes`` and kubectl: what it is asked, in which order, and what it answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganger.compute.adapter import DeployFailed, make_adapter
from ganger.compute.kubernetes import Kubernetes
from ganger.compute.planning import Plan, Replica
from ganger_broker.deployments import PoolRecord
from ganger_broker.errors import InvalidInput

from .cases import IMAGE, KEDA, LARGE, SMALL, deployment, plan_of, settings
from .fakes import FakeProgram

SMALL_POOL = "shared-2cpu-1024mb-fra-iad-sin"
LARGE_POOL = "performance-4cpu-8192mb-fra"
SELECTED = "--selector app.kubernetes.io/managed-by=ganger,app.kubernetes.io/instance=etl"
OURS = "deployments.apps,statefulsets.apps,poddisruptionbudgets.policy"
HAS_KEDA = "get --raw /apis/keda.sh/v1alpha1"
NO_KEDA = "Error from server (NotFound): the server could not find the requested resource"


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    return FakeProgram("kubectl", tmp_path, monkeypatch)


def adapter(**given: str) -> Kubernetes:
    return Kubernetes(settings(), IMAGE | given)


def item(kind: str, pool: str, region: str, replicas: int | None) -> dict[str, Any]:
    labels = {"ganger.pool": pool, "ganger.region": region}
    status = {} if replicas is None else {"replicas": replicas}
    name = f"etl-{pool}-{region}"
    return {"kind": kind, "metadata": {"name": name, "labels": labels}, "status": status}


def items(*found: dict[str, Any]) -> str:
    return json.dumps({"kind": "List", "items": found})


# ── what runs ─────────────────────────────────────────────────────────────────────────────


def test_what_runs_is_the_plans_own_replicas(kubectl: FakeProgram) -> None:
    plan = plan_of(SMALL, LARGE)
    small, large = plan.pools[1], plan.pools[0]
    found = [
        item("Deployment", small.pool.name, region, replicas)
        for region, replicas in small.per_region.items()
    ]
    kubectl.answers("get", items(*found, item("StatefulSet", large.pool.name, "fra", None)))
    assert adapter(namespace="work").running(deployment(), plan) == sorted(
        small.replicas, key=lambda replica: (replica.region, replica.number)
    )
    assert kubectl.commands == [
        f"--namespace work get deployments.apps,statefulsets.apps {SELECTED} -o json"
    ]


def test_what_is_left_of_old_pools_runs_too(kubectl: FakeProgram) -> None:
    kubectl.answers("get", items(item("Deployment", "old", "ams", 1)))
    assert adapter().running(deployment(), plan_of(LARGE)) == [Replica("old", 1, "ams")]


def test_a_cluster_that_does_not_answer_is_not_an_empty_one(kubectl: FakeProgram) -> None:
    kubectl.answers("get", err="The connection to the server was refused", status=1)
    assert adapter().running(deployment(), plan_of(LARGE)) is None


def test_without_kubectl_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert adapter().running(deployment(), plan_of(LARGE)) is None


# ── applying ──────────────────────────────────────────────────────────────────────────────


def applied(kubectl: FakeProgram, made: Kubernetes, plan: Plan) -> list[Any]:
    """What it applied, as kubectl would read it."""
    list(made.apply(deployment(), plan))
    [asked] = [each for each in kubectl.asked if "apply" in each["arguments"]]
    return list(yaml.safe_load_all(asked["given"]))


def test_what_is_applied_is_what_is_rendered(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, err=NO_KEDA, status=1)
    kubectl.answers("get", items())
    kubectl.answers("apply", "deployment.apps/a created\n", "Warning: of the cluster\n")
    made, plan = adapter(context="prod", namespace="work"), plan_of(SMALL, LARGE)
    said = list(made.apply(deployment(), plan))
    assert said == ["deployment.apps/a created", "Warning: of the cluster"]
    assert kubectl.commands == [
        f"--context prod --namespace work {HAS_KEDA}",
        f"--context prod --namespace work get {OURS} {SELECTED} -o json",
        "--context prod --namespace work apply -f -",
    ]
    assert kubectl.asked[-1]["given"] == "".join(made.render(deployment(), plan).values())


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([], []),
        ([item("Deployment", LARGE_POOL, "fra", 0)], [f"there is Deployment etl-{LARGE_POOL}-fra"]),
    ],
)
def test_what_is_there_though_it_failed_is_said(
    kubectl: FakeProgram, there: list[Any], said: list[str]
) -> None:
    kubectl.answers(HAS_KEDA, err=NO_KEDA, status=1)
    lines = adapter().apply(deployment(), plan_of(LARGE))
    kubectl.answers("apply", err="namespaces not found", status=1)
    kubectl.answers("get", items(*there))
    told: list[str] = []
    with pytest.raises(DeployFailed, match="namespaces not found"):
        told.extend(lines)
    assert told == said


def test_what_the_plan_has_no_more_is_deleted_after(kubectl: FakeProgram) -> None:
    stays = item("Deployment", LARGE_POOL, "fra", 1)
    kubectl.answers(HAS_KEDA, "{}")
    kubectl.answers(
        "get",
        items(
            item("ScaledObject", LARGE_POOL, "fra", None),
            stays,
            item("StatefulSet", LARGE_POOL, "fra", 1),
            item("PodDisruptionBudget", "old", "ams", None),
        ),
    )
    kubectl.answers("delete", "deleted\n")
    names = [each["metadata"]["name"] for each in applied(kubectl, adapter(), plan_of(LARGE))]
    assert stays["metadata"]["name"] in names
    assert kubectl.commands[-3:] == [
        f"delete scaledobjects.keda.sh/etl-{LARGE_POOL}-fra",
        "apply -f -",
        f"delete statefulsets.apps/etl-{LARGE_POOL}-fra poddisruptionbudgets.policy/etl-old-ams",
    ]


def test_a_plan_of_nothing_deletes_all_and_applies_nothing(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, err=NO_KEDA, status=1)
    kubectl.answers("get", items(item("Deployment", LARGE_POOL, "fra", 1)))
    list(adapter().apply(deployment(), plan_of(LARGE, scale={LARGE_POOL: 0})))
    assert kubectl.commands[-1] == f"delete deployments.apps/etl-{LARGE_POOL}-fra"
    assert not any("apply" in command for command in kubectl.commands)


def test_keda_has_to_be_there_before_anything_is_applied(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, err=NO_KEDA, status=1)
    with pytest.raises(DeployFailed, match="keda=yes: this cluster has no KEDA; install it"):
        list(adapter(**KEDA).apply(deployment(), plan_of(LARGE)))
    assert kubectl.commands == [HAS_KEDA]


def test_with_keda_its_objects_are_looked_for_too(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, "{}")
    kubectl.answers("get", items())
    kinds = [each["kind"] for each in applied(kubectl, adapter(**KEDA), plan_of(LARGE))]
    assert kinds == ["Deployment", "ScaledObject", "PodDisruptionBudget"]
    assert f"get scaledobjects.keda.sh,{OURS}" in kubectl.commands[1]


@pytest.mark.parametrize("verb", [HAS_KEDA, "-o json", "apply"])
def test_what_kubectl_refuses_is_said_in_its_words(kubectl: FakeProgram, verb: str) -> None:
    kubectl.answers(verb, err="Error from server (Forbidden): not you\n", status=1)
    kubectl.answers("get", items())
    with pytest.raises(DeployFailed) as caught:
        list(adapter().apply(deployment(), plan_of(LARGE)))
    assert str(caught.value) == "kubectl: Error from server (Forbidden): not you"


def test_an_answer_that_is_no_list_is_shown(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, "{}")
    kubectl.answers("get", "<html>")
    with pytest.raises(DeployFailed, match="what it printed is no list: '<html>'"):
        list(adapter().apply(deployment(), plan_of(LARGE)))


def test_without_kubectl_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployFailed, match="no kubectl on the PATH; without --apply the manifests"):
        list(adapter().apply(deployment(), plan_of(LARGE)))


# ── removing ──────────────────────────────────────────────────────────────────────────────


def test_removing_waits_until_the_pods_are_gone(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, "{}")
    kubectl.answers("delete", "deployment.apps/a deleted\n")
    said = list(adapter(namespace="work").remove(deployment()))
    assert said == [
        "deleting etl; its workers have 45 s to drain and end",
        "deployment.apps/a deleted",
    ]
    assert kubectl.commands[-1] == (
        f"--namespace work delete scaledobjects.keda.sh,{OURS} {SELECTED} "
        "--cascade=foreground --wait=true --timeout=165s"
    )


def test_what_is_not_gone_in_time_has_failed(kubectl: FakeProgram) -> None:
    kubectl.answers(HAS_KEDA, err=NO_KEDA, status=1)
    kubectl.answers("delete", err="error: timed out waiting for the condition", status=1)
    with pytest.raises(DeployFailed, match="timed out waiting"):
        list(adapter().remove(deployment()))


def test_it_is_found_by_its_name_and_its_options_are_told() -> None:
    made = make_adapter("kubernetes", settings(), IMAGE)
    assert isinstance(made, Kubernetes)
    assert made.options["image"].endswith("(needed)")
    assert made.options["kind"].endswith("(default: Deployment)")


@pytest.mark.parametrize("image", ["a,b", "app:1 ", "-f"])
def test_an_image_is_one(image: str) -> None:
    with pytest.raises(InvalidInput, match="must be an image, such as app"):
        adapter(image=image)


def test_a_region_of_the_apps_own_needs_no_app_once_it_is_deployed() -> None:
    own = PoolRecord("shared", 1, 256, 1, ["attic"], ["w:s"])
    given = {"regions": "attic=rack-1,nowhere=rack-2"}
    with pytest.raises(InvalidInput, match="--set regions: 'attic' is no region"):
        adapter(**given).render(deployment(), plan_of(SMALL))
    deployed = deployment(pools={"p": own})
    with pytest.raises(InvalidInput, match="--set regions: 'nowhere' is no region"):
        adapter(**given).render(deployed, plan_of(SMALL))
    assert adapter(regions="attic=rack-1").render(deployed, plan_of(SMALL))

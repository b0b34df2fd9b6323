"""``--on kubernetes``: manifests of a plan, applied through kubectl."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ganger_broker.deployments import Deployment
from ganger_broker.errors import InvalidInput
from ganger_broker.pool_labels import POOL, REGION
from ganger_broker.settings import Settings

from .adapter import DeployFailed
from .container import BROKER_URL, seconds_to_stop
from .counted import counted
from .manifests import INSTANCE, MANAGED_BY, Cluster, manifests
from .options import DNS_LABEL, IMAGE, YES_OR_NO, Option, read_options, told
from .planning import Plan, Replica
from .programs import Program
from .regions import check_region
from .yaml_text import yaml_text

__all__ = ["Kubernetes"]

_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
_KEY = r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_RIGHT_NAME = "lower case letters, digits, - and ."

_OPTIONS = {
    "image": Option(
        "the image that has ganger and your app", IMAGE, "an image, such as app:1.2", None
    ),
    "namespace": Option(
        "where to deploy; without, where kubectl is", DNS_LABEL, "lower case letters, digits and -"
    ),
    "context": Option(
        "which of kubectl's contexts; without, its current one",
        r"[^\s-]\S*",
        "the name of a context",
    ),
    "secret": Option(
        f"the Secret whose key {BROKER_URL} holds the broker's URL", _NAME, _RIGHT_NAME, "ganger"
    ),
    "kind": Option(
        "Deployment, or StatefulSet, whose workers keep their ids",
        "Deployment|StatefulSet",
        "Deployment or StatefulSet",
        "Deployment",
    ),
    "region_label": Option(
        "the label of nodes that says their region",
        _KEY,
        "the key of a label",
        "topology.kubernetes.io/region",
    ),
    "regions": Option(
        "what that label says, where it is not our code: fra=eu-central-1,iad=us-east-1",
        rf"[a-z0-9]+={_VALUE}(,[a-z0-9]+={_VALUE})*",
        "like fra=eu-central-1,iad=us-east-1",
    ),
    "performance_nodes": Option(
        "KEY=VALUE: the label of the nodes that performance pools run on",
        rf"{_KEY}={_VALUE}",
        "KEY=VALUE, a label of nodes",
    ),
    "service_account": Option("of the pods; without, they have no token", _NAME, _RIGHT_NAME),
    "pull_secret": Option("the Secret to pull the image with", _NAME, _RIGHT_NAME),
    "user": Option(
        "the number of the user to run as; without, the image's", r"[1-9]\d{0,8}", "a number over 0"
    ),
    "keda": Option(
        "yes: KEDA scales each region by what waits for its pool", YES_OR_NO, "yes or no", "no"
    ),
    "metrics_url": Option(
        "with keda=yes: the Prometheus that has the dispatchers' metrics",
        r"https?://\S+",
        "the URL of a Prometheus, such as http://prometheus.monitoring:9090",
    ),
}

_RESOURCES = {
    "Deployment": "deployments.apps",
    "StatefulSet": "statefulsets.apps",
    "PodDisruptionBudget": "poddisruptionbudgets.policy",
}
_SCALED_OBJECTS = "scaledobjects.keda.sh"
_KEDA_API = "/apis/keda.sh/v1alpha1"
_KUBECTL = Program("kubectl", "without --apply the manifests are printed: apply them where it is")
PATIENCE = 20.0
"""Seconds that a cluster has to say what runs."""
ENDING = 120
"""Seconds beyond the workers' own that a deployment has to be gone in."""


class Kubernetes:
    """A Deployment or StatefulSet a pool and region, and a PodDisruptionBudget a pool."""

    options: ClassVar[Mapping[str, str]] = told(_OPTIONS)

    def __init__(self, settings: Settings, options: Mapping[str, str]) -> None:
        given = read_options(_OPTIONS, options)
        self._settings = settings
        self._context = given.pop("context")
        self._cluster = _cluster(given)

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        """The manifests, as files for ``kubectl apply``."""
        made = self._manifests(deployment, plan)
        return {f"{name}.yaml": yaml_text(documents) for name, documents in made.items()}

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        """The pods that the workloads have; None where kubectl or its cluster does not answer."""
        workloads = ",".join(_RESOURCES[kind] for kind in ("Deployment", "StatefulSet"))
        try:
            items = self._found(deployment, workloads)
        except DeployFailed:
            return None
        counts: Counter[tuple[str, str]] = Counter()
        for item in items:
            labels = item["metadata"]["labels"]
            if POOL in labels and REGION in labels:
                there = item.get("status", {}).get("replicas", 0)
                counts[labels[POOL], labels[REGION]] += there
        return counted(plan, counts)

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        """Apply the manifests, then delete what the plan has no more.

        What scales a workload that it shall not scale any more goes first: it would undo the
        number that is applied.
        """
        made = [each for those in self._manifests(deployment, plan).values() for each in those]
        kept = {(each["kind"], each["metadata"]["name"]) for each in made}
        resources = self._resources()
        if self._cluster.metrics_url and _SCALED_OBJECTS not in resources:
            raise DeployFailed("--set keda=yes: this cluster has no KEDA; install it, or say no")
        stale = [
            (item["kind"], item["metadata"]["name"])
            for item in self._found(deployment, resources)
            if (item["kind"], item["metadata"]["name"]) not in kept
        ]
        yield from self._delete([each for each in stale if each[0] == "ScaledObject"])
        if made:
            yield from self._applied(deployment, yaml_text(made), resources)
        yield from self._delete([each for each in stale if each[0] != "ScaledObject"])

    def _applied(self, deployment: Deployment, text: str, resources: str) -> Iterator[str]:
        """What kubectl says; where it fails, whether some of it is there nevertheless."""
        try:
            yield from self._lines("apply", "-f", "-", given=text)
        except DeployFailed:
            try:
                there = self._found(deployment, resources)
            except DeployFailed:
                yield "it is not known what of it was applied"
            else:
                for each in there:
                    yield f"there is {each['kind']} {each['metadata']['name']}"
            raise

    def remove(self, deployment: Deployment) -> Iterator[str]:
        """Delete all that has the deployment's label, and wait until its pods have drained."""
        seconds = seconds_to_stop(self._settings)
        yield f"deleting {deployment.name}; its workers have {seconds} s to drain and end"
        yield from self._lines(
            "delete",
            self._resources(),
            *_selected(deployment),
            # Without it kubectl is content when the pods are still ending.
            "--cascade=foreground",
            "--wait=true",
            f"--timeout={seconds + ENDING}s",
        )

    def _manifests(self, deployment: Deployment, plan: Plan) -> dict[str, list[dict[str, Any]]]:
        if deployment.autoscale is not None and not self._cluster.metrics_url:
            raise InvalidInput(
                "--autoscale: on kubernetes it is KEDA that scales; add --set keda=yes "
                "--set metrics_url=…, the URL of a Prometheus"
            )
        # checked where they were written: they may be regions that only the app has added
        deployed = {code for pool in deployment.pools.values() for code in pool.regions}
        for code in sorted(self._cluster.region_values.keys() - deployed):
            try:
                check_region(code)
            except ValueError as exc:
                raise InvalidInput(f"--set regions: {exc}") from exc
        return manifests(deployment, plan, self._settings, self._cluster)

    # ── kubectl ───────────────────────────────────────────────────────────────────────────

    @property
    def _where(self) -> list[str]:
        context = ["--context", self._context] if self._context else []
        namespace = self._cluster.namespace
        return [*context, "--namespace", namespace] if namespace else context

    def _lines(self, *arguments: str, given: str = "") -> Iterator[str]:
        yield from _KUBECTL.lines(*self._where, *arguments, given=given)

    def _resources(self) -> str:
        """The kinds of ours that this cluster has; KEDA's are there where it is installed."""
        return ",".join([*([_SCALED_OBJECTS] if self._has_keda() else []), *_RESOURCES.values()])

    def _has_keda(self) -> bool:
        try:
            _KUBECTL.ask(*self._where, "get", "--raw", _KEDA_API, timeout=PATIENCE)
        except DeployFailed as exc:
            if "(NotFound)" in str(exc):
                return False
            raise
        return True

    def _found(self, deployment: Deployment, resources: str) -> list[dict[str, Any]]:
        query = ("get", resources, *_selected(deployment), "-o", "json")
        text = _KUBECTL.ask(*self._where, *query, timeout=PATIENCE)
        try:
            items: list[dict[str, Any]] = json.loads(text)["items"]
        except (ValueError, KeyError) as exc:
            raise DeployFailed(f"kubectl get: what it printed is no list: {text[:200]!r}") from exc
        return items

    def _delete(self, named: list[tuple[str, str]]) -> Iterator[str]:
        if named:
            resources = {**_RESOURCES, "ScaledObject": _SCALED_OBJECTS}
            yield from self._lines("delete", *(f"{resources[kind]}/{name}" for kind, name in named))


def _selected(deployment: Deployment) -> tuple[str, str]:
    return "--selector", f"{MANAGED_BY}=ganger,{INSTANCE}={deployment.name}"


def _cluster(given: dict[str, str]) -> Cluster:
    keda = given.pop("keda") == "yes"
    if keda and not given["metrics_url"]:
        raise InvalidInput("--set metrics_url=…: is needed with keda=yes: the URL of a Prometheus")
    if given["metrics_url"] and not keda:
        raise InvalidInput("--set metrics_url: it is for KEDA; add --set keda=yes, or leave it out")
    regions = _pairs(given.pop("regions"))
    nodes = _pairs(given.pop("performance_nodes"))
    return Cluster(region_values=regions, performance_nodes=nodes, **given)


def _pairs(text: str) -> dict[str, str]:
    if not text:
        return {}
    return {key: value for key, _, value in (pair.partition("=") for pair in text.split(","))}

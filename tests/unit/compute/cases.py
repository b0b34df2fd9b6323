"""Deployments that the tests render, and the files they have to be rendered to.

``python -m tests.unit.compute.cases`` writes the files anew; read what changed before you
commit it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganger.compute.compose import Compose
from ganger.compute.configs import Compute
from ganger.compute.kubernetes import Kubernetes
from ganger.compute.planning import Plan, make_plan
from ganger.compute.pools import Pool, Pools
from ganger_broker.deployments import Autoscale, Deployment
from ganger_broker.settings import Settings

__all__ = [
    "GOLDEN",
    "IMAGE",
    "KEDA",
    "LARGE",
    "SMALL",
    "deployment",
    "plan_of",
    "rendered",
    "settings",
]

GOLDEN = Path(__file__).parent / "golden"
IMAGE = {"image": "etl:1.2"}
SMALL = Compute(
    cpu_kind="shared", cpus=2, memory_mb=1024, num_replicas=5, regions=["fra", "iad", "sin"]
)
LARGE = Compute(cpu_kind="performance", cpus=4, memory_mb=8192, regions=["fra"])
KEDA = {"keda": "yes", "metrics_url": "http://prometheus.monitoring:9090"}


def settings(**given: Any) -> Settings:
    """Settings that no environment changes."""
    return Settings.model_construct(**given)


def deployment(**given: Any) -> Deployment:
    """A deployment of the app ``etl:app``."""
    made: dict[str, Any] = {
        "name": "etl",
        "target": "etl:app",
        "on": "kubernetes",
        "seed": "a1",
        "slots": 4,
        "created_at": 0,
    }
    return Deployment(**(made | given))


def plan_of(*computes: Compute, scale: Mapping[str, int] | None = None) -> Plan:
    """The plan of an app whose steps have these computes."""
    names = Pools()
    pools = {
        name: Pool(name, compute, ("etl:read",))
        for compute in computes
        for name in [names.name_of(compute)]
    }
    return make_plan("etl", "a1", pools, scale)


def _joined(texts: dict[str, str]) -> str:
    return "".join(f"# {name}\n{text}" for name, text in texts.items())


def rendered() -> dict[str, str]:
    """What the golden files have to hold, by their names."""
    plan = plan_of(SMALL, LARGE)
    named = {
        "namespace": "work",
        "secret": "broker",
        "kind": "StatefulSet",
        "regions": "fra=eu-central-1,iad=us-east-1,sin=ap-southeast-1",
        "performance_nodes": "node-type=compute",
        "service_account": "etl",
        "pull_secret": "pull",
        "user": "1000",
    }
    changed = settings(drain_grace=90.0, prefix="blue", log_level="debug")
    kubernetes = Kubernetes(settings(), IMAGE)
    stateful = Kubernetes(changed, IMAGE | named)
    scaled = Kubernetes(settings(), IMAGE | KEDA)
    compose = Compose(settings(), IMAGE | {"network": "ganger_default"})
    follows = deployment(autoscale=Autoscale(2, 9))
    return {
        "deployments.yaml": _joined(kubernetes.render(deployment(), plan)),
        "stateful.yaml": _joined(stateful.render(deployment(), plan)),
        "scaled.yaml": _joined(scaled.render(follows, plan_of(SMALL))),
        "compose.yaml": _joined(compose.render(deployment(on="compose"), plan)),
    }


if __name__ == "__main__":
    for name, text in rendered().items():
        (GOLDEN / name).write_text(text)

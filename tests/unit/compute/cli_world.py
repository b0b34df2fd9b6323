"""``ganger compute`` for tests: an app, an adapter of a third party, and how they are given."""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from ganger import Settings
from ganger.compute.adapter import DeployFailed
from ganger.compute.planning import Plan, Replica
from ganger_broker.deployments import Deployment
from ganger_broker.errors import InvalidInput

__all__ = ["APP", "POOL", "Run", "Somewhere", "on"]

Run = Callable[..., tuple[int, str, str]]

APP = """
from ganger import Compute, Ganger

app = Ganger()
SMALL = Compute(cpu_kind="shared", cpus=2, memory_mb=1024, num_replicas=3, regions=["fra", "iad"])


@app.task(compute=SMALL)
def work(input, context):
    return 1


@app.task()
def other(input, context):
    return 1


worker = app.worker("w")
"""
POOL = "shared-2cpu-1024mb-fra-iad"


class Somewhere:
    """What a third party's adapter is like; it only remembers."""

    options: ClassVar[Mapping[str, str]] = {"size": "how large, a number"}
    there: ClassVar[dict[str, list[Replica]]] = {}
    broken: ClassVar[bool] = False

    def __init__(self, settings: Settings, options: Mapping[str, str]) -> None:
        if not options.get("size", "1").isdecimal():
            raise InvalidInput(f"--set: size: {options['size']!r} must be a number")

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        return {
            "all": "".join(
                f"run {replica.number} in {replica.region}\n" for replica in plan.replicas
            )
        }

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        return self.there.get(deployment.name, [])

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        if self.broken:
            raise DeployFailed("somewhere: there is no room")
        self.there[deployment.name] = list(plan.replicas)
        yield f"{len(plan.replicas)} there"

    def remove(self, deployment: Deployment) -> Iterator[str]:
        del self.there[deployment.name]
        yield "gone"


def on(app: str, *words: str) -> tuple[str, ...]:
    return (app, "--deployment", "d", "--on", "somewhere", *words)

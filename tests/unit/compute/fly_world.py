"""Fly's API as a fake, and what is deployed to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ganger import Compute
from ganger.compute.fly import Fly
from ganger.compute.planning import Plan, make_plan
from ganger.compute.pools import Pool, Pools
from ganger_broker.deployments import Deployment
from ganger_broker.settings import Settings

from .fake_fly import TOKEN, FakeFly

SMALL = Compute(
    cpu_kind="shared", cpus=2, memory_mb=1024, num_replicas=3, regions=["fra", "iad", "nrt"]
)
LARGE = Compute(cpu_kind="performance", cpus=4, memory_mb=8192, regions=["fra"])
DEPLOYMENT = Deployment("captions", "tasks:app", "fly", "seed-1", slots=4, created_at=0)
NAMES = [
    "captions-performance-4cpu-8192mb-fra-1",
    *(f"captions-shared-2cpu-1024mb-fra-iad-nrt-{number}" for number in (1, 2, 3)),
]
FIRST = NAMES[1]


def plan(*computes: Compute, scale: Mapping[str, int] | None = None, seed: str = "seed-1") -> Plan:
    pools, names = {}, Pools()
    for compute in computes or (SMALL, LARGE):
        name = names.name_of(compute)
        pools[name] = Pool(name, compute, ("caption:caption",))
    return make_plan("captions", seed, pools, scale)


PLAN = plan()
SMALL_POOL = PLAN.pools[1].pool.name


@dataclass
class World:
    """The fake, and adapters that talk to it; ``slept`` is how long they would have waited."""

    fly: FakeFly
    slept: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def adapter(
        self, *, token: str | None = TOKEN, settings: Settings | None = None, **options: str
    ) -> Fly:
        given = {"app": "captions", "image": "acme/captions:7", "api": self.fly.url, **options}
        environment = {} if token is None else {"FLY_API_TOKEN": token}
        return Fly(settings or Settings(), given, environment=environment, sleep=self.slept.append)

    def apply(self, plan: Plan = PLAN, **options: Any) -> list[str]:
        """Apply, and what it said."""
        self.lines = []
        for line in self.adapter(**options).apply(DEPLOYMENT, plan):
            self.lines.append(line)
        return self.lines

    def states(self) -> dict[str, str]:
        return {name: machine["state"] for name, machine in sorted(self.fly.machines.items())}


ALL_STARTED = dict.fromkeys(NAMES, "started")

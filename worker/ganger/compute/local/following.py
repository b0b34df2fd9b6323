"""How many replicas a deployment that follows its load is to have: its part of what is wanted."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from ganger.compute.planning import PoolPlan
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import Autoscale, PoolLoad

__all__ = ["Arrivals", "Strangers", "to_scale"]


class Strangers:
    """Workers of our pools that are not of this deployment, from one look at them to the next.

    A replica's worker is known by its id, so one that has just registered is no stranger. A
    stranger that has just come may be news to the dispatcher's last look at the pool, and what
    that wants is then without it.
    """

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._before: set[str] = set()

    def look(self, uses: Sequence[WorkerUse], loads: Mapping[str, PoolLoad]) -> Counter[str]:
        """How many of them, by pool, ``loads`` counts; it was asked for before ``uses``."""
        takers = [use for use in uses if use.is_open]
        theirs = [use for use in takers if not self._is_ours(use)]
        stayed = Counter(use.pool for use in theirs if use.worker in self._before)
        ours = Counter(use.pool for use in takers if self._is_ours(use))
        self._before = {use.worker for use in theirs}
        counted = Counter[str]()
        for pool, there in Counter(use.pool for use in theirs).items():
            over = loads[pool].workers - ours[pool] if pool in loads else 0
            counted[pool] = max(stayed[pool], min(there, over))
        return counted

    def _is_ours(self, use: WorkerUse) -> bool:
        return use.worker.rpartition(".")[0] == f"{self._deployment}.{use.pool}"


class Arrivals:
    """Pools of which somebody is there, or was, since the deployment was asked for.

    What the dispatcher wants of a pool before that may be of a deployment long ago. And only who
    registers tells it what workflows have steps there: a pool that never had anybody might have
    nothing to do for ever.
    """

    def __init__(self) -> None:
        self._asked_at = 0
        self._before: set[str] = set()
        self._arrived: set[str] = set()

    def look(
        self,
        asked_at: int,
        running: Collection[str],
        loads: Mapping[str, PoolLoad],
        strangers: Mapping[str, int],
    ) -> set[str]:
        """Those pools: they had replicas in the look before as well, and ``loads``, which are
        from between the two, count some. ``running``: pools with replicas that have registered."""
        if asked_at != self._asked_at:
            self._asked_at, self._before, self._arrived = asked_at, set(), set()
        self._arrived |= {
            pool
            for pool in self._before.intersection(running, loads)
            if loads[pool].workers > strangers.get(pool, 0)
        }
        self._before = set(running)
        return self._arrived


def to_scale(
    pools: Iterable[PoolPlan],
    loads: Mapping[str, PoolLoad],
    bounds: Autoscale,
    strangers: Mapping[str, int],
    *,
    arrived: Collection[str],
) -> dict[str, int]:
    """The pools that are to have another number of replicas than they are planned to, with it.

    Args:
        pools: As they are planned now.
        loads: What the dispatcher says of each; a pool that it does not know keeps its replicas.
        bounds: Between these it follows.
        strangers: How many workers of a pool are not of this deployment. What is wanted is wanted
            of all, so these do their part; how many they are is somebody else's to say.
        arrived: Of which somebody is there, or was; another has one replica at least.
    """
    scale = {}
    for planned in pools:
        pool, now = planned.pool.name, len(planned.replicas)
        wanted = now if pool in arrived else max(now, 1)
        if pool in arrived and pool in loads:
            wanted = loads[pool].wanted - strangers.get(pool, 0)
        wanted = min(max(wanted, bounds.least), bounds.most)
        if wanted != now:
            scale[pool] = wanted
    return scale

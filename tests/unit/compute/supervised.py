"""A deployment that a supervisor keeps in a test, and a store that tells what it does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import fakeredis

from ganger.compute.local.reporting import Word
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import (
    Deployment,
    PoolLoad,
    PoolRecord,
    ReplicaRecord,
    ReplicaState,
)
from ganger_broker.messages import WorkerPaused
from ganger_broker.settings import Settings
from ganger_dispatcher.store.deployment_store import DeploymentStore

__all__ = ["DEPLOYED", "KEYS", "POOL", "SETTINGS", "Watched", "looks"]

POOL = "shared-1cpu-256mb-fra"
DEPLOYED = Deployment(
    *("kept", "tasks:app", "local", "seed", 1, 1_000),
    pools={POOL: PoolRecord("shared", 1, 256, 2, ["fra"], ["w:s"])},
    versions={"w": "1"},
)
SETTINGS = Settings(prefix="supervised-in-a-test")
KEYS = SETTINGS.keys()


class Watched(DeploymentStore):
    """A store that tells of each change of replicas, and fails where a test says so.

    ``wanted``: of the pool, by a dispatcher that knows every replica with a process, and
    ``strangers``, which want one replica more each. ``stale``: what it said of pools before.
    ``words``: what was said of workers, which are ``idle`` or run steps. A ``deaf`` dispatcher
    hears none of it, and the ``forgotten`` are not known any more."""

    wanted: int | None = None
    strangers: tuple[str, ...] = ()
    stale: Mapping[str, PoolLoad] = MappingProxyType({})

    idle = True
    deaf = False
    forgotten: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__(SETTINGS, fakeredis.FakeAsyncRedis())
        self.broken: dict[str, Exception] = {}
        self.asked: dict[str, int] = {}
        self.states: list[ReplicaState] = []
        self.words: list[Word] = []
        self.paused: set[str] = set()
        self._more = asyncio.Condition()

    async def until(self, fits: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(90), self._more:
            while not await fits():
                await self._more.wait()

    async def _answer(self, method: str, *given: Any) -> Any:
        self.asked[method] = self.asked.get(method, 0) + 1
        async with self._more:
            self._more.notify_all()
        if method in self.broken:
            raise self.broken[method]
        if method == "tell":
            return None
        try:
            return await getattr(super(), method)(*given)
        finally:
            async with self._more:
                self._more.notify_all()

    async def deployment(self, name: str) -> Any:
        return await self._answer("deployment", name)

    async def replicas(self, name: str) -> Any:
        return await self._answer("replicas", name)

    async def loads(self) -> dict[str, PoolLoad]:
        if self.wanted is None:
            return dict(self.stale)
        there = len([*await self.pids(), *self.strangers])
        wanted = self.wanted + len(self.strangers)
        return {POOL: PoolLoad(there, there, 0, 0, wanted, 0)}

    async def uses(self) -> Any:
        found = await self._answer("uses")
        if self.wanted is None:
            return found
        ids = {**await self.pids(), **dict.fromkeys(self.strangers, 1)}
        return [
            WorkerUse(
                *(id, POOL, "fra", str(pid), None, None),
                is_open=str(pid) not in self.paused,
                is_paused=str(pid) in self.paused,
                held=not self.idle,
            )
            for id, pid in ids.items()
            if id not in self.forgotten
        ]

    async def tell(self, _: Settings, words: Sequence[Word]) -> None:
        """What the supervisor says of its replicas, whose incarnations are their pids."""
        await self._answer("tell")
        for word in words if not self.deaf else ():
            if isinstance(word, WorkerPaused):
                self.paused.add(word.incarnation)
            else:
                self.paused.discard(word.incarnation)
        self.words += words

    async def save_replicas(self, name: str, changed: Any) -> None:
        self.states += [record.state for record in changed.values() if record is not None]
        await self._answer("save_replicas", name, changed)

    async def pids(self) -> dict[str, int]:
        found = await self.records()
        return {worker: record.pid for worker, record in found.items() if record.pid}

    async def records(self) -> dict[str, ReplicaRecord]:
        return await super().replicas("kept")

    async def two_run(self) -> bool:
        return len(await self.pids()) == 2


async def looks(store: Watched, times: int) -> None:
    """It has looked around so often more."""
    seen = store.asked.get("uses", 0)

    async def since() -> bool:
        return store.asked["uses"] > seen + times

    await store.until(since)

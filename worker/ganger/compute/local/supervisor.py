"""The supervisor: keeps the replicas of one deployment running on this machine.

Nothing of it is needed for replicas to go on: they have sessions of their own, and what is
known of them is in Redis, so another supervisor picks them up where this one was lost. (That is
why it is not built on supervisord or circus: both end what they run when they end, and neither
can take on a process that it did not start.)
"""

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import structlog
from msgspec.structs import replace

from ganger.compute.deploying import plan_of, scaled
from ganger.compute.planning import Replica
from ganger.compute.store import DeploymentStore
from ganger_broker.deployments import Deployment, ReplicaRecord, ReplicaState, SupervisorRecord
from ganger_broker.errors import GangerError, StoreError
from ganger_broker.settings import Settings

from .limits import find_cgroup_root, limit_for
from .processes import find, workers_of
from .replica import LocalReplica
from .reporting import tell_killed

__all__ = ["TICK", "Supervisor"]

TICK = 0.25
"""Seconds between looks at the processes and at what is wanted."""
LOOK_AROUND = 2.0
"""Seconds between looks at what the processes use, and words that it is there."""
TELL_PATIENCE = 5.0

_log = structlog.get_logger("ganger.compute.local")


class Supervisor:
    """Makes what runs here what its deployment wants, until that is taken down."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        store: DeploymentStore,
        logs: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._settings = settings
        self._store = store
        self._logs = logs
        self._clock = clock
        self._cgroups = find_cgroup_root()
        self._replicas: dict[str, LocalReplica] = {}
        self._kept: dict[str, ReplicaRecord] = {}
        self._known: dict[str, str] = {}
        self._deployment: Deployment | None = None
        self._stopping = asyncio.Event()
        self._looked_around = 0.0
        self._log = _log.bind(deployment=name)

    def stop(self) -> None:
        """End soon; the replicas go on, for the next supervisor."""
        self._stopping.set()

    async def run(self) -> None:
        """Supervise until the deployment is taken down and its replicas have ended, or ``stop``."""
        while self._deployment is None and not self._stopping.is_set():
            try:
                self._deployment = await self._store.deployment(self._name)
                await self._adopt()
            except StoreError as exc:
                self._log.warning("store_unreachable", error=str(exc))
                await self._rest(TICK)
            else:
                if self._deployment is None:
                    return  # it was taken down meanwhile
        while self._deployment is not None and not self._stopping.is_set():
            self._deployment = await self._ask_around(self._deployment)
            if await self._tick(self._deployment):
                return
            await self._rest(TICK)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _adopt(self) -> None:
        """Pick up what another supervisor left, whether Redis knows of it or not."""
        self._kept = await self._store.replicas(self._name)
        running = workers_of(self._name, self._settings.prefix)
        found = dict(self._kept)
        for worker, (process, pool, number, region) in running.items():
            if worker not in found:
                made = self._record(worker, Replica(pool, number, region))
                found[worker] = replace(made, pid=process.pid, began=process.began)
        for worker, record in found.items():
            limit = limit_for(self._cgroups, self._name, worker)
            process_of = find(record.pid, record.began)
            replica = LocalReplica(record, limit, self._clock, process_of)
            self._replicas[worker] = replica
            if process_of is None and record.state is not ReplicaState.BACKOFF:
                replica.end("it ended while nobody supervised it")
            elif record.state is ReplicaState.STOPPING:
                replica.stop(self._settings.drain_grace)
            self._log.info("replica found", worker=worker, pid=record.pid)
        await self._save()

    # ── with Redis ────────────────────────────────────────────────────────────────────

    async def _ask_around(self, deployment: Deployment) -> Deployment:
        """What is wanted now, and who has registered. While Redis is away, what is known."""
        try:
            deployment = await self._wanted(deployment)
            if self._clock() - self._looked_around >= LOOK_AROUND:
                await self._say_so()
                await self._hear()
                deployment = await self._autoscaled(deployment)
        except StoreError as exc:
            self._log.warning("store_unreachable", error=str(exc))  # the replicas go on
        return deployment

    async def _wanted(self, deployment: Deployment) -> Deployment:
        found = await self._store.deployment(self._name)
        if found is None:
            self._log.warning("deployment forgotten by Redis; kept again")
            await self._store.save(deployment)
            self._kept.clear()  # nor does it know the replicas
        return found or deployment

    async def _say_so(self) -> None:
        """Say that it is there."""
        began = psutil.Process().create_time()
        now = round(self._clock() * 1000)
        record = SupervisorRecord(socket.gethostname(), os.getpid(), began, now)
        await self._store.save_supervisor(self._name, record)

    async def _hear(self) -> None:
        """See which replicas the dispatcher knows."""
        uses = await self._store.uses()
        self._known = {use.worker: use.incarnation for use in uses}
        for worker, replica in self._replicas.items():
            replica.heard(self._known.get(worker))

    async def _autoscaled(self, deployment: Deployment) -> Deployment:
        """Follow the load of its pools, between its bounds."""
        bounds = deployment.autoscale
        if bounds is None or deployment.leaving:
            return deployment
        loads = await self._store.loads()
        running = Counter(
            replica.record.pool
            for replica in self._replicas.values()
            if replica.record.state is ReplicaState.RUNNING
        )
        scale = {}
        for planned in plan_of(deployment).pools:
            pool, now = planned.pool.name, len(planned.replicas)
            wanted = now
            if pool in loads:
                # workers of the pool that are not of this deployment are somebody else's to scale
                wanted = loads[pool].wanted - max(0, loads[pool].workers - running[pool])
            wanted = min(max(wanted, bounds.least), bounds.most)
            if wanted != now:
                scale[pool] = wanted
        if not scale:
            return deployment
        self._log.info("following the load", replicas=scale)
        changed = await self._store.change(
            self._name, lambda found: found if found.leaving else scaled(found, scale)
        )
        return changed or deployment

    async def _save(self) -> None:
        """Keep what changed of the replicas."""
        records = {worker: replica.record for worker, replica in self._replicas.items()}
        changed: dict[str, ReplicaRecord | None] = {
            worker: record for worker, record in records.items() if self._kept.get(worker) != record
        }
        changed |= dict.fromkeys(self._kept.keys() - records.keys())
        if changed:
            await self._store.save_replicas(self._name, changed)
            self._kept = records

    # ── with processes ────────────────────────────────────────────────────────────────

    async def _tick(self, deployment: Deployment) -> bool:
        """Look once at what runs, and make it what is wanted; whether the deployment is down."""
        if self._clock() - self._looked_around >= LOOK_AROUND:
            self._looked_around = self._clock()
            for replica in self._replicas.values():
                replica.measure(deployment.pools.get(replica.record.pool))
        for replica in self._replicas.values():
            how = replica.ended(deployment.pools.get(replica.record.pool))
            if how is not None:
                await self._tell_killed(replica)
                replica.end(how)
        self._reconcile(deployment)
        try:
            await self._save()
        except StoreError:
            return False  # said before; what is kept has to be right before it ends
        return deployment.leaving and not self._replicas

    async def _tell_killed(self, replica: LocalReplica) -> None:
        """Tell the dispatcher why a worker is gone, where that was its memory."""
        worker, incarnation, why = replica.record.worker, replica.incarnation, replica.killed
        if incarnation is None or why is None:
            return
        try:
            async with asyncio.timeout(TELL_PATIENCE):
                await tell_killed(self._settings, worker, incarnation, why)
        except (GangerError, TimeoutError) as exc:  # the dispatcher finds out by its silence
            self._log.warning("not told to the dispatcher", error=str(exc) or "no broker")

    def _reconcile(self, deployment: Deployment) -> None:
        wanted = {r.worker_id(self._name): r for r in plan_of(deployment).replicas}
        for worker, replica in list(self._replicas.items()):
            if worker not in wanted or wanted[worker].region != replica.record.region:
                replica.stop(self._settings.drain_grace)
                if replica.process is None:
                    replica.remove()
                    del self._replicas[worker]
        for worker, place in wanted.items():
            if worker not in self._replicas:
                record = self._record(worker, place)
                limit = limit_for(self._cgroups, self._name, worker)
                self._replicas[worker] = LocalReplica(record, limit, self._clock)
            replica = self._replicas[worker]
            if replica.is_due:
                replica.start(deployment, self._settings.drain_grace, self._known.get(worker))

    def _record(self, worker: str, place: Replica) -> ReplicaRecord:
        return ReplicaRecord(
            worker,
            place.pool,
            place.number,
            place.region,
            ReplicaState.STARTING,
            round(self._clock() * 1000),
            log=str(self._logs / f"{place.pool}.{place.number}.log"),
            limit=limit_for(self._cgroups, self._name, worker).words,
        )

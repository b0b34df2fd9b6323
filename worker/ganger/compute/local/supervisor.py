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
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
from msgspec.structs import replace

from ganger.compute.deploying import plan_of, scaled
from ganger.compute.planning import Replica
from ganger.compute.store import DeploymentStore, WorkerUse
from ganger_broker.deployments import (
    Deployment,
    PoolRecord,
    ReplicaRecord,
    ReplicaState,
    SupervisorRecord,
)
from ganger_broker.errors import GangerError, StoreError
from ganger_broker.settings import Settings

from .limits import Limit, find_cgroup_root, limit_for
from .processes import ReplicaProcess, find, start, worker_command
from .reporting import tell_killed

__all__ = ["TICK", "Supervisor", "backoff"]

TICK = 0.25
"""Seconds between looks at the processes and at what is wanted."""
LOOK_AROUND = 2.0
"""Seconds between looks at what the processes use, and words that it is there."""
STEADY = 60.0
"""Seconds after which a replica that ended is started again at once: it had been well."""
BACKOFF_MOST = 30.0
TELL_PATIENCE = 5.0
KILL_AFTER = 10.0
"""Seconds beyond its grace that a replica has to end in."""

_log = structlog.get_logger("ganger.compute.local")


def backoff(failures: int) -> float:
    """Seconds to rest after a replica ended that often in a row."""
    return min(BACKOFF_MOST, 0.5 * 2.0 ** (min(failures, 10) - 1))


@dataclass
class _Held:
    """A replica of this machine. ``stop_by``: when it is killed if it has not ended;
    ``before``: the incarnation of the process before, which the dispatcher may know for a while.
    """

    record: ReplicaRecord
    limit: Limit
    process: ReplicaProcess | None = None
    incarnation: str | None = None
    before: str | None = None
    began: float = 0.0
    failures: int = 0
    stopped: int = 0
    killed: str | None = None
    stop_by: float | None = None


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
        self._held: dict[str, _Held] = {}
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
        adopted = False
        while not self._stopping.is_set():
            try:
                if not adopted:
                    await self._adopt()
                    adopted = True
                if await self._tick():
                    return
            except StoreError as exc:
                self._log.warning("store_unreachable", error=str(exc))  # the replicas go on
            await self._rest(TICK)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _adopt(self) -> None:
        """Pick up what another supervisor left."""
        self._kept = await self._store.replicas(self._name)
        for worker, record in self._kept.items():
            limit = limit_for(self._cgroups, self._name, worker)
            process = find(record.pid, record.began)
            held = _Held(record, limit, process, began=record.began or 0.0, stopped=limit.stopped())
            self._held[worker] = held
            if process is None and record.state is not ReplicaState.BACKOFF:
                self._end(held, "it ended while nobody supervised it")
            elif record.state is ReplicaState.STOPPING:
                self._stop(held)
            self._log.info("replica found", worker=worker, pid=record.pid, state=held.record.state)
        await self._save()

    # ── one look ──────────────────────────────────────────────────────────────────────

    async def _tick(self) -> bool:
        """Look once; whether the deployment is down."""
        deployment = await self._wanted()
        now = self._clock()
        if now - self._looked_around >= LOOK_AROUND:
            self._looked_around = now
            await self._look_around()
            deployment = await self._autoscaled(deployment)
        for held in list(self._held.values()):
            await self._look(held)
        self._reconcile(deployment)
        await self._save()
        return deployment.leaving and not self._held

    async def _wanted(self) -> Deployment:
        found = await self._store.deployment(self._name)
        if found is None and self._deployment is not None:
            self._log.warning("deployment forgotten by Redis; kept again")
            await self._store.save(self._deployment)
            found = self._deployment
        if found is None:
            raise StoreError(f"there is no deployment {self._name!r}")
        self._deployment = found
        return found

    async def _look_around(self) -> None:
        """Say that it is there, and see which replicas have registered and what they use."""
        own = psutil.Process()
        record = SupervisorRecord(
            socket.gethostname(), os.getpid(), own.create_time(), round(self._clock() * 1000)
        )
        await self._store.save_supervisor(self._name, record)
        uses = {use.worker: use for use in await self._store.uses()}
        self._known = {worker: use.incarnation for worker, use in uses.items()}
        for worker, held in self._held.items():
            self._look_at_use(held, uses.get(worker))

    def _look_at_use(self, held: _Held, use: WorkerUse | None) -> None:
        if held.process is None or held.process.ended() is not None:
            return
        if use is not None and use.incarnation != held.before:
            held.incarnation = use.incarnation
            if held.record.state is ReplicaState.STARTING:
                self._move(held, ReplicaState.RUNNING)
        memory = held.process.memory_mb()
        held.record = replace(held.record, memory_mb=memory)
        most = self._pool_of(held.record.pool)
        if most is not None and memory > most.memory_mb and held.killed is None:
            over = f"over its {most.memory_mb:,} MB"
            held.killed = f"its worker held {memory:,.0f} MB of memory, {over}"
            held.process.kill()

    def _pool_of(self, pool: str) -> PoolRecord | None:
        return None if self._deployment is None else self._deployment.pools.get(pool)

    async def _autoscaled(self, deployment: Deployment) -> Deployment:
        """Follow the load of its pools, between its bounds."""
        bounds = deployment.autoscale
        if bounds is None or deployment.leaving:
            return deployment
        loads = await self._store.loads()
        running = Counter(
            held.record.pool
            for held in self._held.values()
            if held.record.state is ReplicaState.RUNNING
        )
        scale = {}
        for pool, load in loads.items():
            if pool in deployment.pools:
                # workers of the pool that are not of this deployment are somebody else's to scale
                others = max(0, load.workers - running[pool])
                scale[pool] = min(max(load.wanted - others, bounds.least), bounds.most)
        now = {pool.pool.name: len(pool.replicas) for pool in plan_of(deployment).pools}
        changed = {pool: count for pool, count in scale.items() if count != now[pool]}
        if not changed:
            return deployment
        self._log.info("following the load", replicas=changed)
        self._deployment = scaled(deployment, changed)
        await self._store.save(self._deployment)
        return self._deployment

    async def _look(self, held: _Held) -> None:
        """See whether a replica has ended, or should have."""
        if held.process is None:
            return
        ended = held.process.ended()
        if ended is None:
            if held.stop_by is not None and self._clock() > held.stop_by:
                self._log.warning("killing a replica that did not end", worker=held.record.worker)
                held.process.kill()
            return
        pool = self._pool_of(held.record.pool)
        if held.limit.stopped() > held.stopped or held.process.starved:
            most = pool.memory_mb if pool else 0
            held.killed = f"its worker needed more than its {most:,} MB of memory: {ended}"
        if held.killed is not None:
            ended = held.killed
            await self._tell_killed(held)
        self._end(held, ended)

    async def _tell_killed(self, held: _Held) -> None:
        if held.incarnation is None or held.killed is None:
            return
        try:
            async with asyncio.timeout(TELL_PATIENCE):
                await tell_killed(self._settings, held.record.worker, held.incarnation, held.killed)
        except (GangerError, TimeoutError) as exc:  # the dispatcher finds out by its silence
            self._log.warning("not told to the dispatcher", error=str(exc) or "no broker")

    # ── changing what runs ────────────────────────────────────────────────────────────

    def _reconcile(self, deployment: Deployment) -> None:
        wanted = {r.worker_id(self._name): r for r in plan_of(deployment).replicas}
        for worker, held in list(self._held.items()):
            if worker not in wanted or wanted[worker].region != held.record.region:
                self._stop(held)
                if held.process is None:
                    held.limit.remove()
                    del self._held[worker]
        for worker, replica in wanted.items():
            if worker not in self._held:
                self._held[worker] = self._made(worker, replica)
            held = self._held[worker]
            if held.process is None and (held.record.retry_at or 0) <= self._clock() * 1000:
                self._start(deployment, held)

    def _made(self, worker: str, replica: Replica) -> _Held:
        limit = limit_for(self._cgroups, self._name, worker)
        record = ReplicaRecord(
            worker,
            replica.pool,
            replica.number,
            replica.region,
            ReplicaState.STARTING,
            round(self._clock() * 1000),
            log=str(self._logs / f"{replica.pool}.{replica.number}.log"),
            limit=limit.words,
        )
        return _Held(record, limit)

    def _start(self, deployment: Deployment, held: _Held) -> None:
        record, pool = held.record, deployment.pools[held.record.pool]
        command = worker_command(
            deployment.target,
            record.pool,
            record.region,
            deployment.slots,
            record.worker,
            self._settings.drain_grace,
        )
        held.killed = held.incarnation = held.stop_by = None
        held.before = self._known.get(record.worker)
        held.stopped = held.limit.stopped()
        held.began = self._clock()
        try:
            process = start(command, deployment.folder, _environment(pool), Path(record.log))
        except OSError as exc:
            self._end(held, f"it could not be started: {exc}")
            return
        held.process = process
        self._bound(held, pool, deployment.slots)
        held.record = replace(record, pid=process.pid, began=process.began, retry_at=None)
        self._move(held, ReplicaState.STARTING)

    def _bound(self, held: _Held, pool: PoolRecord, threads: int) -> None:
        if held.process is None:
            return
        try:
            held.limit.apply(
                held.process.pid,
                cpu_kind=pool.cpu_kind,
                cpus=pool.cpus,
                memory_mb=pool.memory_mb,
                threads=threads,
            )
        except (OSError, psutil.Error) as exc:
            held.killed = f"its memory could not be bounded: {exc}"
            held.process.kill()

    def _stop(self, held: _Held) -> None:
        """Have it drain and end, if it runs and was not told so before."""
        if held.process is not None and held.stop_by is None:
            held.stop_by = self._clock() + self._settings.drain_grace + KILL_AFTER
            held.process.tell_to_end()
            self._move(held, ReplicaState.STOPPING)

    def _end(self, held: _Held, how: str) -> None:
        """Its process has ended: it rests before it is started again, if that is wanted."""
        asked_to = held.stop_by is not None
        well = asked_to or self._clock() - held.began > STEADY
        held.failures = 0 if well else held.failures + 1
        rest = 0.0 if well else backoff(held.failures)
        held.process = held.incarnation = None
        held.record = replace(
            held.record,
            pid=None,
            began=None,
            memory_mb=None,
            ended=how,
            restarts=held.record.restarts + (not asked_to),
            retry_at=round((self._clock() + rest) * 1000),
        )
        self._move(held, ReplicaState.BACKOFF)

    def _move(self, held: _Held, state: ReplicaState) -> None:
        held.record = replace(held.record, state=state, since=round(self._clock() * 1000))
        self._log.info(
            f"replica {state}",
            worker=held.record.worker,
            region=held.record.region,
            pid=held.record.pid,
            ended=held.record.ended,
        )

    async def _save(self) -> None:
        """Keep what changed of the replicas."""
        records = {worker: held.record for worker, held in self._held.items()}
        changed: dict[str, ReplicaRecord | None] = {
            worker: record for worker, record in records.items() if self._kept.get(worker) != record
        }
        changed |= dict.fromkeys(self._kept.keys() - records.keys())
        if changed:
            await self._store.save_replicas(self._name, changed)
            self._kept = records


def _environment(pool: PoolRecord) -> dict[str, str]:
    """The environment of a replica: this one's, and how many processors its libraries may take."""
    threads = str(pool.cpus)
    return {
        "OMP_NUM_THREADS": threads,  # of OpenMP and what is built on it: NumPy, PyTorch
        "MALLOC_ARENA_MAX": "2",  # glibc's arenas count as memory before they are used
        **os.environ,
    }

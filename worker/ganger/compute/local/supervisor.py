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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import structlog
from msgspec.structs import replace

from ganger.compute.deploying import plan_of, scaled
from ganger.compute.planning import Replica
from ganger.compute.replacing import launch_of, may_stay
from ganger.compute.store import DeploymentStore, WorkerUse
from ganger_broker.deployments import (
    Deployment,
    PoolLoad,
    ReplicaRecord,
    ReplicaState,
    SupervisorRecord,
)
from ganger_broker.errors import GangerError, StoreError
from ganger_broker.messages import FailureReason, WorkerKilled, WorkerPaused, WorkerResumed
from ganger_broker.settings import Settings

from .following import Arrivals, Strangers, to_scale
from .limits import find_cgroup_root, limit_for
from .processes import find, workers_of
from .replica import LocalReplica
from .reporting import tell

__all__ = ["TICK", "Supervisor"]

TICK = 0.25
"""Seconds between looks at the processes and at what is wanted."""
LOOK_AROUND = 2.0
"""Seconds between looks at what the processes use, and words that it is there."""
TELL_PATIENCE = 5.0
REST = 1.0
"""Seconds between rounds where something in one failed."""

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
        self._strangers = Strangers(name)
        self._arrivals = Arrivals()
        self._deployment: Deployment | None = None
        self._missing: set[str] = set()
        self._words: dict[str, WorkerPaused | WorkerResumed] = {}
        self._stopping = asyncio.Event()
        self._looked_around = 0.0
        self._troubles: dict[str, str] = {}
        self._log = _log.bind(deployment=name)

    def stop(self) -> None:
        """End soon; the replicas go on, for the next supervisor."""
        self._stopping.set()

    async def run(self) -> None:
        """Supervise until the deployment is taken down and its replicas have ended, or ``stop``.

        Whatever fails in a round is logged and tried again in the next; the rest of the round
        is done all the same.
        """
        while not self._stopping.is_set():
            is_over = False
            with self._tried("a round"):
                is_over = await self._round()
            if is_over:
                return
            await self._rest(REST if self._troubles else TICK)

    async def _round(self) -> bool:
        """Do once all that there is to do; whether it is the last time."""
        if self._deployment is None:
            found = await self._store.deployment(self._name)
            await self._adopt(found)
            self._deployment = found
            return found is None  # it was taken down meanwhile
        self._deployment = await self._ask_around(self._deployment)
        return await self._tick(self._deployment)

    @contextmanager
    def _tried(self, what: str) -> Iterator[None]:
        """Go on though this fails; it is logged when it begins to, or fails otherwise."""
        try:
            yield
        except Exception as exc:
            known = isinstance(exc, GangerError | TimeoutError)  # Redis or the broker is away, say
            if self._troubles.get(what) != repr(exc):
                say = self._log.warning if known else self._log.exception
                say(
                    "store_unreachable" if isinstance(exc, StoreError) else "failed; tried again",
                    what=what,
                    error=str(exc) or "no answer in time",
                )
            self._troubles[what] = repr(exc)
        else:
            self._troubles.pop(what, None)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _adopt(self, deployment: Deployment | None) -> None:
        """Pick up what another supervisor left, whether Redis knows of it or not."""
        self._kept = await self._store.replicas(self._name)
        running = workers_of(self._name, self._settings.prefix)
        found = dict(self._kept)
        for worker, (process, pool, number, region) in running.items():
            if worker not in found:
                made = self._record(worker, Replica(pool, number, region))
                found[worker] = replace(made, pid=process.pid, began=process.began)
        for worker, left in found.items():
            record = _bounded(left, deployment)
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
        with self._tried("asking what is wanted"):
            deployment = await self._wanted(deployment)
        if self._clock() - self._looked_around < LOOK_AROUND:
            return deployment
        loads: dict[str, PoolLoad] = {}
        with self._tried("asking what pools have to do"):
            loads = await self._store.loads()  # before the workers, who may be news to it
        with self._tried("asking who has registered, and following the load"):
            uses = await self._store.uses()
            self._hear(uses)
            deployment = await self._autoscaled(deployment, loads, uses)
        with self._tried("saying that it is there"):
            await self._say_so()
        return deployment

    async def _wanted(self, deployment: Deployment) -> Deployment:
        found = await self._store.deployment(self._name)
        if found is None:
            self._log.warning("deployment forgotten by Redis; kept again")
            await self._store.save(deployment)
            await self._say_so()  # before somebody starts another
            self._kept.clear()  # nor does it know the replicas
        return found or deployment

    async def _say_so(self) -> None:
        """Say that it is there."""
        began = psutil.Process().create_time()
        now = round(self._clock() * 1000)
        record = SupervisorRecord(socket.gethostname(), os.getpid(), began, now)
        await self._store.save_supervisor(self._name, record)

    def _hear(self, uses: Sequence[WorkerUse]) -> None:
        """See which replicas the dispatcher knows."""
        known = {use.worker: use for use in uses}
        self._known = {worker: use.incarnation for worker, use in known.items()}
        for worker, replica in self._replicas.items():
            replica.heard(known.get(worker))

    async def _autoscaled(
        self, deployment: Deployment, loads: Mapping[str, PoolLoad], uses: Sequence[WorkerUse]
    ) -> Deployment:
        """Follow the load of its pools, between its bounds."""
        strangers = self._strangers.look(uses, loads)
        bounds = deployment.autoscale
        if bounds is None or deployment.leaving:
            return deployment
        replicas = [each.record for each in self._replicas.values()]
        running = {each.pool for each in replicas if each.state is ReplicaState.RUNNING}
        scale = to_scale(
            plan_of(deployment).pools,
            loads,
            bounds,
            strangers,
            arrived=self._arrivals.look(deployment.asked_at, running, loads, strangers),
        )
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
            for worker, replica in self._replicas.items():
                with self._tried(f"measuring {worker}"):
                    replica.measure()
        for worker, replica in self._replicas.items():
            with self._tried(f"looking at {worker}"):
                await self._look_at(replica)
        self._reconcile(deployment)
        with self._tried("saying which replicas drain, and which go on"):
            await self._tell()
        is_kept = False
        with self._tried("keeping what is known of replicas"):
            await self._save()
            is_kept = True  # it has to be right before it ends
        return is_kept and deployment.leaving and not self._replicas

    async def _look_at(self, replica: LocalReplica) -> None:
        how = replica.ended()
        if how is not None:
            await self._tell_killed(replica)
            replica.end(how)

    async def _tell_killed(self, replica: LocalReplica) -> None:
        """Tell the dispatcher why a worker is gone, where that was its memory."""
        worker, incarnation, why = replica.record.worker, replica.incarnation, replica.killed
        if incarnation is None or why is None:
            return
        killed = WorkerKilled(worker, incarnation, FailureReason.OUT_OF_MEMORY, why)
        try:
            async with asyncio.timeout(TELL_PATIENCE):
                await tell(self._settings, [killed])
        except (GangerError, TimeoutError) as exc:  # the dispatcher finds out by its silence
            self._log.warning("not told to the dispatcher", error=str(exc) or "no broker")

    def _reconcile(self, deployment: Deployment) -> None:
        wanted = {r.worker_id(self._name): r for r in plan_of(deployment).replicas}
        stay = self._until_replaced(deployment, wanted)
        follows, known = deployment.autoscale and not deployment.leaving, deployment.pools
        live = {w for w, r in self._replicas.items() if r.record.state is ReplicaState.RUNNING}
        short = {place.pool for worker, place in wanted.items() if worker not in live}
        for worker, replica in list(self._replicas.items()):
            gone = worker not in wanted or wanted[worker].region != replica.record.region
            if gone and worker in stay:
                with self._tried(f"starting {worker}"):
                    self._start_again(worker, replica, deployment)
            elif gone and follows and worker not in wanted and replica.record.pool in known:
                with self._tried(f"letting go of {worker}"):
                    is_short = replica.record.pool in short
                    self._let_go(worker, replica, deployment, is_short=is_short)
            elif gone:
                with self._tried(f"ending {worker}"):
                    self._end(worker, replica)
        for worker, place in wanted.items():
            with self._tried(f"starting {worker}"):
                self._start(worker, place, deployment)

    def _until_replaced(self, deployment: Deployment, wanted: Mapping[str, Replica]) -> set[str]:
        """Replicas of pools that are no more, while a pool that is to be has nobody yet. They may
        stay for ever where new ones do not come up: somebody has to do the work."""
        live = {w for w, r in self._replicas.items() if r.record.state is ReplicaState.RUNNING}
        missing = {r.pool for r in wanted.values()} - {wanted[w].pool for w in live & wanted.keys()}
        stay = {
            worker
            for worker, replica in self._replicas.items()
            if replica.record.pool not in deployment.pools
            and not replica.is_told_to_end
            and may_stay(replica.record, deployment)
        }
        if not (missing and stay):
            missing, stay = set(), set()
        if missing != self._missing:
            self._missing = missing
            what = "replaced pools wait for others" if missing else "replaced pools wait no more"
            self._log.info(what, others=sorted(missing), replicas=len(stay))
        return stay

    def _let_go(
        self, worker: str, replica: LocalReplica, deployment: Deployment, *, is_short: bool
    ) -> None:
        """It is not needed just now: it ends its steps first, however long they take, and those of
        runs that are bound to it. It may be needed again before it has, and is while its pool
        ``is_short`` of one that is to stay: somebody has to do the work."""
        state = replica.record.state
        if is_short and replica.drains:
            self._resume(worker, replica)
        elif is_short and state is ReplicaState.RUNNING:
            return
        elif state is ReplicaState.RUNNING:
            if replica.incarnation is not None:  # else it is heard of soon
                self._words[worker] = WorkerPaused(worker, replica.incarnation)
        elif replica.was_cut_off:
            self._start_again(worker, replica, deployment)
        elif state is not ReplicaState.STARTING and (not replica.drains or replica.has_drained):
            self._end(worker, replica)

    def _resume(self, worker: str, replica: LocalReplica) -> None:
        """It drains and is needed again; one that cannot be resumed is started anew."""
        if replica.stays_paused and replica.has_drained:
            replica.stop(self._settings.drain_grace)
        elif not replica.stays_paused and replica.incarnation is not None:
            self._words[worker] = WorkerResumed(worker, replica.incarnation)

    async def _tell(self) -> None:
        """Say which replicas get no more steps, and which get some again."""
        words, self._words = self._words, {}
        if not words:
            return
        async with asyncio.timeout(TELL_PATIENCE):
            await tell(self._settings, list(words.values()))
        for worker, word in words.items():
            replica = self._replicas[worker]
            replica.drain() if isinstance(word, WorkerPaused) else replica.resume()

    def _end(self, worker: str, replica: LocalReplica) -> None:
        replica.stop(self._settings.drain_grace)
        if replica.process is None:
            replica.remove()
            del self._replicas[worker]
            for what in [each for each in self._troubles if each.endswith(f" {worker}")]:
                del self._troubles[what]

    def _start(self, worker: str, place: Replica, deployment: Deployment) -> None:
        if worker not in self._replicas:
            record = self._record(worker, place)
            limit = limit_for(self._cgroups, self._name, worker)
            self._replicas[worker] = LocalReplica(record, limit, self._clock)
        replica = self._replicas[worker]
        if replica.drains:
            self._resume(worker, replica)
        if replica.is_due(deployment.asked_at):
            launch, asked_at = launch_of(deployment, place.pool), deployment.asked_at
            replica.start(launch, asked_at, self._settings.drain_grace, self._known.get(worker))

    def _start_again(self, worker: str, replica: LocalReplica, deployment: Deployment) -> None:
        """As it was: its pool is no more, and it stays until others are there."""
        launch, asked_at = replica.record.launch, deployment.asked_at
        if launch is not None and replica.is_due(asked_at):
            replica.start(launch, asked_at, self._settings.drain_grace, self._known.get(worker))

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


def _bounded(record: ReplicaRecord, deployment: Deployment | None) -> ReplicaRecord:
    """The record, with what its pool has now where nobody kept what it was started with: of which
    versions it was is not known then."""
    if record.launch is not None or deployment is None or record.pool not in deployment.pools:
        return record
    return replace(record, launch=replace(launch_of(deployment, record.pool), versions={}))

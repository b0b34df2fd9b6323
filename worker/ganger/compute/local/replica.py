"""One replica of this machine: its process, what bounds it, and what is known of it."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog
from msgspec.structs import replace

from ganger_broker.deployments import Deployment, PoolRecord, ReplicaRecord, ReplicaState

from .limits import Limit
from .processes import ReplicaProcess, put_aside, start, worker_command

__all__ = ["LocalReplica", "backoff"]

STEADY = 60.0
"""Seconds after which a replica that ended is started again at once: it had been well."""
BACKOFF_MOST = 30.0
KILL_AFTER = 10.0
"""Seconds beyond its grace that a replica has to end in."""
LOST = 60.0
"""Seconds that the dispatcher may not know a replica that it knew, until it counts as hung."""

_log = structlog.get_logger("ganger.compute.local")


def backoff(failures: int) -> float:
    """Seconds to rest after a replica ended that often in a row."""
    return min(BACKOFF_MOST, 0.5 * 2.0 ** (min(failures, 10) - 1))


class LocalReplica:
    """A replica, with a process or between two of them.

    ``incarnation`` is that of its worker, once the dispatcher knows it, and ``killed`` why its
    process was ended, for its dispatcher to be told. ``clock`` gives seconds since 1970.
    """

    def __init__(
        self,
        record: ReplicaRecord,
        limit: Limit,
        clock: Callable[[], float],
        process: ReplicaProcess | None = None,
    ) -> None:
        self.record = record
        self.process = process
        self.incarnation: str | None = None
        self.killed: str | None = None
        self._limit = limit
        self._clock = clock
        self._before: str | None = None  # the incarnation of the process before this one
        self._began = clock() if record.began is None else record.began
        self._failures = 0
        self._stopped = limit.stopped()
        self._stop_by: float | None = None
        self._known_at = clock()

    @property
    def is_due(self) -> bool:
        """Whether it is without a process, and has rested."""
        return self.process is None and (self.record.retry_at or 0) <= self._clock() * 1000

    # ── looking ───────────────────────────────────────────────────────────────────────

    def heard(self, incarnation: str | None) -> None:
        """The dispatcher knows this incarnation of its worker, or None of it."""
        if self.process is None or self.process.ended() is not None:
            return
        if incarnation is not None and incarnation != self._before:
            self.incarnation, self._known_at = incarnation, self._clock()
            if self.record.state is ReplicaState.STARTING:
                self._move(ReplicaState.RUNNING)
        elif self.record.state is ReplicaState.RUNNING and self._clock() - self._known_at > LOST:
            _log.warning("killing a replica that hangs", worker=self.record.worker)
            self.process.kill()

    def measure(self, pool: PoolRecord | None) -> None:
        """See what it uses, and end it where that is more memory than its pool has."""
        if self.process is None or self.process.ended() is not None:
            return
        put_aside(Path(self.record.log))
        memory, cpus = self.process.memory_mb(), self.process.cpus(self._clock())
        self.record = replace(self.record, memory_mb=memory, cpus=cpus)
        if pool is not None and memory > pool.memory_mb and self.killed is None:
            over = f"over its {pool.memory_mb:,} MB"
            self.killed = f"its worker held {memory:,.0f} MB of memory, {over}"
            self.process.kill()

    def ended(self, pool: PoolRecord | None) -> str | None:
        """How its process ended, in words; None while it runs, or there is none.

        One that should have ended by now is killed.
        """
        if self.process is None:
            return None
        how = self.process.ended()
        if how is None:
            if self._stop_by is not None and self._clock() > self._stop_by:
                _log.warning("killing a replica that did not end", worker=self.record.worker)
                self.process.kill()
            return None
        if self._limit.stopped() > self._stopped or self.process.starved:
            most = pool.memory_mb if pool else 0
            self.killed = f"its worker needed more than its {most:,} MB of memory: {how}"
        return self.killed or how

    # ── changing ──────────────────────────────────────────────────────────────────────

    def start(self, deployment: Deployment, grace: float, known: str | None) -> None:
        """Start its process. ``known``: the incarnation of its worker that the dispatcher still
        knows, which is not this one's."""
        record, pool = self.record, deployment.pools[self.record.pool]
        command = worker_command(
            deployment.target, record.pool, record.region, deployment.slots, record.worker, grace
        )
        self.killed = self.incarnation = self._stop_by = None
        self._before, self._stopped = known, self._limit.stopped()
        self._began = self._known_at = self._clock()
        try:
            process = start(command, deployment.folder, _environment(pool), Path(record.log))
        except OSError as exc:
            self.end(f"it could not be started: {exc}")
            return
        self.process = process
        try:
            self._limit.apply(
                process.pid,
                cpu_kind=pool.cpu_kind,
                cpus=pool.cpus,
                memory_mb=pool.memory_mb,
                threads=deployment.slots,
            )
        except (OSError, psutil.Error) as exc:
            _log.error("memory cannot be bounded", worker=record.worker, error=str(exc))
            process.kill()
        self.record = replace(record, pid=process.pid, began=process.began, retry_at=None)
        self._move(ReplicaState.STARTING)

    def stop(self, grace: float) -> None:
        """Have it drain and end, if it runs and was not told so before."""
        if self.process is not None and self._stop_by is None:
            self._stop_by = self._clock() + grace + KILL_AFTER
            self.process.tell_to_end()
            self._move(ReplicaState.STOPPING)

    def end(self, how: str) -> None:
        """Its process has ended: it rests before it is started again, if that is wanted."""
        asked_to = self._stop_by is not None
        well = asked_to or self._clock() - self._began > STEADY
        self._failures = 0 if well else self._failures + 1
        rest = 0.0 if well else backoff(self._failures)
        self.process = self.incarnation = None
        self.record = replace(
            self.record,
            pid=None,
            began=None,
            memory_mb=None,
            cpus=None,
            ended=how,
            restarts=self.record.restarts + (not asked_to),
            retry_at=round((self._clock() + rest) * 1000),
        )
        self._move(ReplicaState.BACKOFF)

    def remove(self) -> None:
        """It is wanted no more, and has ended."""
        self._limit.remove()

    def _move(self, state: ReplicaState) -> None:
        self.record = replace(self.record, state=state, since=round(self._clock() * 1000))
        _log.info(
            f"replica {state}",
            worker=self.record.worker,
            region=self.record.region,
            pid=self.record.pid,
            ended=self.record.ended,
        )


def _environment(pool: PoolRecord) -> dict[str, str]:
    """The environment of a replica: this one's, and how many processors its libraries may take."""
    threads = str(pool.cpus)
    return {
        "OMP_NUM_THREADS": threads,  # of OpenMP and what is built on it: NumPy, PyTorch
        "MALLOC_ARENA_MAX": "2",  # glibc's arenas count as memory before they are used
        **os.environ,
    }

"""One replica of this machine: its process, what bounds it, and what is known of it."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog
from msgspec.structs import replace

from ganger.compute.store import WorkerUse
from ganger_broker.deployments import Launch, PoolRecord, ReplicaRecord, ReplicaState

from .aborts import NEAR, length_of, says_no_memory
from .limits import Limit
from .processes import ReplicaProcess, put_aside, start, worker_command

__all__ = ["LocalReplica", "backoff"]

HEEDED = 10.0
"""Seconds that the dispatcher has to heed that a replica drains, or goes on."""
STEADY = 60.0
"""Seconds after which a replica that ended is started again at once: it had been well."""
BACKOFF_MOST = 30.0
TRIES = 5
"""Ends in a row after which one that only something bound to it needs is started no more."""
KILL_AFTER = 10.0
"""Seconds beyond its grace that a replica has to end in."""
LOST = 60.0
"""Seconds that the dispatcher may not know a replica that it knew, until it counts as hung."""

_SERVING = (ReplicaState.RUNNING, ReplicaState.DRAINING)

_log = structlog.get_logger("ganger.compute.local")


def backoff(failures: int) -> float:
    """Seconds to rest after a replica ended that often in a row."""
    return min(BACKOFF_MOST, 0.5 * 2.0 ** (min(failures, 10) - 1))


class LocalReplica:
    """A replica, with a process or between two of them.

    ``incarnation`` is that of its worker, once the dispatcher knows it, and ``killed`` why its
    process was ended, for its dispatcher to be told. ``stays_paused``: it was resumed in vain, as
    others have come with other code. ``was_cut_off``: it had registered, and ended before it was
    told to or had drained, and there may be something for it alone: till it has registered again,
    or has not in a few tries. ``clock`` gives seconds since 1970.
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
        self.stays_paused = False
        self.was_cut_off = record.state is ReplicaState.BACKOFF and record.served
        self._limit = limit
        self._clock = clock
        self._before: str | None = None  # the incarnation of the process before this one
        self._began = clock() if record.began is None else record.began
        self._failures = 0
        self._asked_at = 0
        self._log_before = 0  # bytes of its log that are of the processes before this one
        self._stopped = limit.stopped()
        self._stop_by: float | None = None
        self._known_at = clock()
        self._is_idle = self._is_resumed = False
        self._settled = False

    def is_due(self, asked_at: int) -> bool:
        """Whether it is without a process, and has rested or was asked for since, at ``asked_at``
        in ms."""
        if self.process is not None:
            return False
        has_rested = (self.record.retry_at or 0) <= self._clock() * 1000
        return has_rested or self._is_asked_for(asked_at)

    def _is_asked_for(self, asked_at: int) -> bool:
        """Once only: a clock that was put back makes it rest all the same."""
        return self.record.since < asked_at != self._asked_at

    # ── looking ───────────────────────────────────────────────────────────────────────

    def heard(self, use: WorkerUse | None) -> None:
        """What the dispatcher knows of its worker; None: it does not know it."""
        if self.process is None or self.process.ended() is not None:
            return
        now = self._clock()
        if use is not None and use.incarnation != self._before:
            self.incarnation, self._known_at = use.incarnation, now
            self._is_idle = use.is_paused and not use.held
            self._follow(use)
        elif self.record.state in _SERVING and now - self._known_at > LOST:
            _log.warning("killing a replica that hangs", worker=self.record.worker)
            self.process.kill()

    def _follow(self, use: WorkerUse) -> None:
        """Be in the state in which its worker is."""
        if self.record.state is ReplicaState.STARTING:
            self.record = replace(self.record, served=True)
            self.was_cut_off = False
            self._move(ReplicaState.RUNNING)
        elif self._clock() - self.record.since / 1000 > HEEDED:
            if self.drains and use.is_open:
                self._move(ReplicaState.RUNNING)  # Redis was set back, say
            elif self.record.state is ReplicaState.RUNNING and use.is_paused:
                self.stays_paused = self._is_resumed
                self._move(ReplicaState.DRAINING)  # else it was said, and not kept

    def measure(self) -> None:
        """See what it uses, and end it where that is more memory than its pool has."""
        if self.process is None or self.process.ended() is not None:
            return
        put_aside(Path(self.record.log))
        memory, cpus = self.process.memory_mb(), self.process.cpus(self._clock())
        self.record = replace(self.record, memory_mb=memory, cpus=cpus)
        launch = self.record.launch
        if launch is None:
            return
        pool = launch.pool
        if not self._settled and self.record.state is ReplicaState.RUNNING:
            held, pid = self.process.held(), self.process.pid
            self._limit.settle(pid, memory_mb=pool.memory_mb, threads=launch.slots, held=held)
            self._settled = True
        if memory > pool.memory_mb and self.killed is None:
            over = f"over its {pool.memory_mb:,} MB"
            self.killed = f"its worker held {memory:,.0f} MB of memory, {over}"
            self.process.kill()

    @property
    def drains(self) -> bool:
        """Whether it ends when its steps have ended, and may be wanted again before that."""
        return self.record.state is ReplicaState.DRAINING

    @property
    def has_drained(self) -> bool:
        """Whether its steps have ended, and it takes no more."""
        return self.process is None or (self.drains and self._is_idle)

    @property
    def is_told_to_end(self) -> bool:
        """Whether it drains, or has ended as it was told to."""
        return self._stop_by is not None or self.drains

    def ended(self) -> str | None:
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
        pool = self.record.launch.pool if self.record.launch is not None else None
        if self._is_starved(self.process, pool):
            most = f"its {pool.memory_mb:,} MB" if pool is not None else "there is"
            self.killed = f"its worker needed more than {most} of memory: {how}"
        return self.killed or how

    def _is_starved(self, process: ReplicaProcess, pool: PoolRecord | None) -> bool:
        """Whether its process, which has ended, did so for want of memory."""
        if self._limit.stopped() > self._stopped or process.starved:
            return True
        if not process.aborted:
            return False
        is_near = pool is not None and (self.record.memory_mb or 0.0) > NEAR * pool.memory_mb
        return is_near or says_no_memory(Path(self.record.log), self._log_before)

    # ── changing ──────────────────────────────────────────────────────────────────────

    def start(self, launch: Launch, asked_at: int, grace: float, known: str | None) -> None:
        """Start its process. ``known``: the incarnation of its worker that the dispatcher still
        knows, which is not this one's."""
        record, pool = self.record, launch.pool
        if self._is_asked_for(asked_at):
            self._failures = 0  # what failed it may have been mended
        self._asked_at = asked_at
        self.record = replace(
            record, launch=launch, served=record.served and record.launch == launch
        )
        command = worker_command(
            launch.target, record.pool, record.region, launch.slots, record.worker, grace
        )
        self.killed = self.incarnation = self._stop_by = None
        self._settled = self._is_idle = self._is_resumed = False
        self.stays_paused = False
        self._before, self._stopped = known, self._limit.stopped()
        self._began = self._known_at = self._clock()
        self._log_before = length_of(Path(record.log))
        try:
            process = start(command, launch.folder, _environment(pool), Path(record.log))
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
                threads=launch.slots,
            )
        except (OSError, psutil.Error) as exc:
            _log.error("memory cannot be bounded", worker=record.worker, error=str(exc))
            process.kill()
        self.record = replace(self.record, pid=process.pid, began=process.began, retry_at=None)
        self._move(ReplicaState.STARTING)

    def stop(self, grace: float) -> None:
        """Have it drain and end, if it runs and was not told so before: by another supervisor,
        say. Told twice it would end at once. It has ``grace`` seconds, or as many as it was started
        with, if these are more."""
        if self.process is not None and self._stop_by is None:
            self._stop_by = self._clock() + max(grace, self.process.grace()) + KILL_AFTER
            if self.record.state is not ReplicaState.STOPPING:
                self.process.tell_to_end()
                self._move(ReplicaState.STOPPING)

    def drain(self) -> None:
        """The dispatcher gives it no more steps, but those of runs that are pinned to it."""
        self._is_idle = self._is_resumed = self.stays_paused = False
        self._move(ReplicaState.DRAINING)

    def resume(self) -> None:
        """The dispatcher gives it steps again."""
        self._is_resumed = True
        self._move(ReplicaState.RUNNING)

    def end(self, how: str) -> None:
        """Its process has ended: it rests before it is started again, if that is wanted."""
        asked_to = self._stop_by is not None or self.record.state is ReplicaState.STOPPING
        had_registered = self.record.state in _SERVING
        is_cut_off = had_registered or (self.was_cut_off and self._failures < TRIES)
        self.was_cut_off = is_cut_off and not self._is_idle and not asked_to
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

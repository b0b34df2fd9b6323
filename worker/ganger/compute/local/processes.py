"""Replicas' processes: started here, or found again after their supervisor was another."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ganger.starving import NO_MEMORY
from ganger_broker.settings import environment_name

__all__ = [
    "ReplicaProcess",
    "find",
    "put_aside",
    "start",
    "worker_command",
    "workers_of",
]

MB = 2**20
CLOCK_SET = 5.0
"""Seconds that the clock may be put on or back by, as time servers do."""
LARGE_LOG = 16 * MB
"""Bytes of a log beyond which it begins anew, and what it held is put aside."""


class ReplicaProcess:
    """A process that may be a child of ours, or of nobody any more."""

    def __init__(self, process: psutil.Process, child: "subprocess.Popen[bytes] | None") -> None:
        self._process = process
        self._child = child
        self.pid = process.pid
        self.began: float = process.create_time()
        self._measured: tuple[float, float] | None = None

    @property
    def starved(self) -> bool:
        """Whether it ended for want of memory, and said so by its exit status."""
        return self._child is not None and self._child.returncode == NO_MEMORY

    @property
    def aborted(self) -> bool:
        """Whether it ended itself, which native code does that gets no memory, and other code."""
        return self._child is not None and self._child.returncode == -signal.SIGABRT

    def ended(self) -> str | None:
        """How it ended, in words; None while it runs."""
        if self._child is not None:
            status = self._child.poll()
            return None if status is None else _words(status)
        try:
            runs = self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            runs = False
        return None if runs else "it ended while its supervisor was another one"

    def memory_mb(self) -> float:
        """What it and the processes that it started hold, in MB of 2^20 bytes; what several of
        them share counts once."""
        return round(sum(map(_held, self._family())) / MB, 1)

    def held(self) -> int:
        """Bytes that it holds itself."""
        return _held(self._process)

    def cpus(self, now: float) -> float | None:
        """How many cores they kept busy since this was asked last, at ``now`` in seconds."""
        used = sum(map(_cpu_time, self._family()))
        before, self._measured = self._measured, (now, used)
        if before is None or now <= before[0]:
            return None
        return round(max(0.0, used - before[1]) / (now - before[0]), 3)

    def grace(self) -> float:
        """The seconds that it was told it has to drain in; 0 where that cannot be seen."""
        with suppress(psutil.Error, KeyError, ValueError):
            return float(_flags(self._process.cmdline())["--grace"].removesuffix("s"))
        return 0.0

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [self._process, *self._process.children(recursive=True)]
        return [self._process]

    def tell_to_end(self) -> None:
        """Have it drain and end."""
        with suppress(psutil.Error, ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once; those too that have sessions of their own."""
        family = self._family()
        for process in family:  # none of them may start more before all are found
            with suppress(psutil.Error):
                process.suspend()
        for process in {*family, *self._family()}:
            with suppress(psutil.Error):
                process.kill()


def _held(process: psutil.Process) -> int:
    """Bytes: its part of what it shares with others, and all that it has alone."""
    with suppress(psutil.Error):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.rss))
    return 0


def _cpu_time(process: psutil.Process) -> float:
    """Seconds, of those of its children that have ended too."""
    with suppress(psutil.Error):
        times = process.cpu_times()
        ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return float(times.user + times.system + ended)
    return 0.0


def _words(status: int) -> str:
    if status == NO_MEMORY:
        return "it had no memory left to work with"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def start(
    command: Sequence[str], folder: str, environment: Mapping[str, str], log: Path
) -> ReplicaProcess:
    """Start it in a session of its own, so that it outlives who started it; it writes to ``log``.

    Raises:
        OSError: it cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 - our own command line
            command,
            cwd=folder or None,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return ReplicaProcess(psutil.Process(child.pid), child)


def put_aside(log: Path) -> None:
    """Begin a large log anew, under who writes to it: it is copied to ``….log.1``, and emptied. A
    line that is written between the two is lost."""
    with suppress(OSError):
        if log.stat().st_size > LARGE_LOG:
            shutil.copyfile(log, log.with_suffix(log.suffix + ".1"))
            os.truncate(log, 0)


def find(pid: int | None, began: float | None) -> ReplicaProcess | None:
    """The process of this number, if it is the one that began then (or so the system says: when
    it began is counted from the clock, which may have been set since)."""
    if pid is None or began is None:
        return None
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        near = abs(process.create_time() - began) < CLOCK_SET
        if near and process.status() != psutil.STATUS_ZOMBIE:
            return ReplicaProcess(process, None)
    return None


def workers_of(deployment: str, prefix: str) -> dict[str, tuple[ReplicaProcess, str, int, str]]:
    """Processes of this machine that are replicas of a deployment, by their workers' ids: each
    with its pool, its number and its region."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError, KeyError, IndexError):
            words = process.cmdline()
            if words[1:4] != ["-m", "ganger", "worker"]:
                continue
            given = _flags(words)
            worker = given["--id"]
            of, pool, number = worker.split(".")
            under = process.environ().get(environment_name("prefix"), prefix)
            if of == deployment and under == prefix and pool == given["--pool"]:
                place = (pool, int(number), given["--region"])
                found[worker] = (ReplicaProcess(process, None), *place)
    return found


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Those of a replica's command, as ``worker_command`` makes it."""
    return dict(zip(words[5::2], words[6::2], strict=False))


def worker_command(
    target: str, pool: str, region: str, slots: int, worker: str, grace: float
) -> list[str]:
    """The command of a replica."""
    place = ["--pool", pool, "--region", region, "--id", worker]
    how = ["--slots", str(slots), "--grace", f"{grace:g}s"]
    return [sys.executable, "-m", "ganger", "worker", target, *place, *how]

"""Replicas' processes: started here, or found again after their supervisor was another."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["ReplicaProcess", "find", "start", "worker_command"]

MB = 2**20
CLOCK_SET = 5.0
"""Seconds that the clock may be put on or back by, as time servers do."""
LARGE_LOG = 16 * MB
"""Bytes of a log beyond which it is put aside when its process starts anew."""


class ReplicaProcess:
    """A process that may be a child of ours, or of nobody any more."""

    def __init__(self, process: psutil.Process, child: "subprocess.Popen[bytes] | None") -> None:
        self._process = process
        self._child = child
        self.pid = process.pid
        self.began: float = process.create_time()

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
        """What it and the processes that it started hold, in MB of 2^20 bytes, resident."""
        total = 0
        with suppress(psutil.Error):
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
        return round(total / MB, 1)

    def tell_to_end(self) -> None:
        """Have it drain and end."""
        with suppress(psutil.Error, ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(self.pid) == self.pid:  # it has a session of its own
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._process.kill()


def _words(status: int) -> str:
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
    with suppress(FileNotFoundError):
        if log.stat().st_size > LARGE_LOG:
            log.replace(log.with_suffix(log.suffix + ".1"))
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


def worker_command(
    target: str, pool: str, region: str, slots: int, worker: str, grace: float
) -> list[str]:
    """The command of a replica."""
    place = ["--pool", pool, "--region", region, "--id", worker]
    how = ["--slots", str(slots), "--grace", f"{grace:g}s"]
    return [sys.executable, "-m", "ganger", "worker", target, *place, *how]

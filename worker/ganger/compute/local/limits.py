"""Bounds on what a replica's process may use of this machine.

A control group (cgroup v2) where the memory controller is ours to use: then the kernel ends
the whole process when it goes over its memory, and gives it its share of the processors. Else
a resource limit on the process's data: then what asks for more gets a MemoryError, and the
supervisor ends a process that holds more all the same (shared memory, say). And it runs on as many
processors as its pool has cpus.
"""

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path

import psutil

__all__ = ["Cgroup", "DataLimit", "Limit", "cpus_of", "find_cgroup_root", "limit_for"]

MB = 2**20
STACK_MB = 8
"""Of a thread, as systems have it."""
LOADING_MB = 48
"""Data that a worker has and does not hold, until it is measured: of Python and its libraries."""
_PERIOD = 100_000
"""Microseconds of a cgroup's ``cpu.max``."""
_WEIGHT = {"shared": 50, "performance": 200}
"""``cpu.weight`` where there are more who want the processors: the system's default is 100."""
_NICE = {"shared": 5, "performance": 0}


@dataclass(frozen=True)
class Cgroup:
    """A control group of its own for one replica's processes."""

    path: Path

    words = "cgroup v2"

    def apply(self, pid: int, *, cpu_kind: str, cpus: int, memory_mb: int, threads: int) -> None:
        """Bound the process, and those it starts."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write("memory.max", str(memory_mb * MB))
        self._write("memory.swap.max", "0", needed=False)
        self._write("memory.oom.group", "1", needed=False)
        self._write("cpu.max", f"{cpus * _PERIOD} {_PERIOD}", needed=False)
        self._write("cpu.weight", str(_WEIGHT[cpu_kind]), needed=False)
        self._write("cgroup.procs", str(pid))

    def settle(self, pid: int, *, memory_mb: int, threads: int, held: int) -> None:
        """Nothing is to be done: the kernel counts what is held."""

    def stopped(self) -> int:
        """How often the kernel ended something in it for its memory."""
        with suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0

    def remove(self) -> None:
        """It is needed no more; its processes have ended."""
        with suppress(OSError):
            self.path.rmdir()

    def _write(self, name: str, value: str, *, needed: bool = True) -> None:
        try:
            (self.path / name).write_text(value)
        except OSError:
            if needed:
                raise


@dataclass(frozen=True)
class DataLimit:
    """A resource limit on the process's private memory (Linux counts it as ``RLIMIT_DATA``).

    What a process has mapped counts there before it is used: the stacks of threads, and what
    libraries set aside. So there is room for that beyond the memory: first a guess, then as much
    as it is when the worker is loaded. What is really held is watched by the supervisor.
    """

    worker: str

    words = "rlimit"

    def apply(self, pid: int, *, cpu_kind: str, cpus: int, memory_mb: int, threads: int) -> None:
        """Bound the process; those that it starts inherit it."""
        self._bound(pid, (memory_mb + threads * STACK_MB + LOADING_MB) * MB)
        process = psutil.Process(pid)
        with suppress(psutil.Error, OSError):
            process.nice(_NICE[cpu_kind])
        with suppress(psutil.Error, OSError, AttributeError):  # macOS has no affinity
            process.cpu_affinity(cpus_of(self.worker, cpus, psutil.Process().cpu_affinity()))

    def settle(self, pid: int, *, memory_mb: int, threads: int, held: int) -> None:
        """Bound the process anew, now that it is loaded and holds so many bytes."""
        with suppress(psutil.Error):
            has = getattr(psutil.Process(pid).memory_info(), "data", 0)
            self._bound(pid, (memory_mb + threads * STACK_MB) * MB + max(0, has - held))

    def _bound(self, pid: int, most: int) -> None:
        process = psutil.Process(pid)
        if hasattr(process, "rlimit"):  # not on macOS; its memory is only watched there
            _, hard = process.rlimit(resource.RLIMIT_DATA)
            within = most if hard == resource.RLIM_INFINITY else min(most, hard)
            process.rlimit(resource.RLIMIT_DATA, (within, hard))

    def stopped(self) -> int:
        """Never: it is the process that is told."""
        return 0

    def remove(self) -> None:
        """It goes with the process."""


Limit = Cgroup | DataLimit


def cpus_of(worker: str, cpus: int, there: Sequence[int]) -> list[int]:
    """The processors of a replica: as many as its pool has cpus, of those that there are. The
    replicas of a pool take them in turn by their numbers; where each pool begins is by chance."""
    pool, _, number = worker.rpartition(".")
    begin = int.from_bytes(blake2s(pool.encode(), digest_size=4).digest()) + int(number) * cpus
    return sorted(there[(begin + n) % len(there)] for n in range(min(cpus, len(there))))


def limit_for(root: Path | None, deployment: str, worker: str) -> Limit:
    """What bounds a replica: a cgroup below ``root``, or where that is None a resource limit."""
    return DataLimit(worker) if root is None else Cgroup(root / f"ganger-{deployment}" / worker)


def find_cgroup_root(mounts: Path = Path("/proc/self/mountinfo")) -> Path | None:
    """Where groups of ours can be made that bound memory; None where nothing is of the kind.

    A group that has processes of its own cannot hand its controllers on (the kernel's "no
    internal processes" rule, cgroup-v2.rst), so a group beside this process's is looked at as
    well as one below it.
    """
    mounted = _mounted(mounts)
    if mounted is None:
        return None
    own = _own_group(mounts.parent / "cgroup", mounted)
    return next((group for group in (own, own.parent) if _is_ours(group, mounted)), None)


def _mounted(mounts: Path) -> Path | None:
    with suppress(OSError):
        for line in mounts.read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return Path(before.split()[4])
    return None


def _own_group(cgroups: Path, mounted: Path) -> Path:
    with suppress(OSError):
        for line in cgroups.read_text().splitlines():
            if line.startswith("0::"):
                return mounted / line[3:].lstrip("/")
    return mounted


def _is_ours(group: Path, mounted: Path) -> bool:
    if mounted != group and mounted not in group.parents:
        return False
    control = group / "cgroup.subtree_control"
    try:
        given = control.read_text().split()
        if "memory" not in given:
            control.write_text("+memory +cpu")
            given = control.read_text().split()
    except OSError:
        return False
    return "memory" in given and os.access(group, os.W_OK)

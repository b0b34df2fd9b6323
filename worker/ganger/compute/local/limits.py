"""Bounds on what a replica's process may use of this machine.

A control group (cgroup v2) where the memory controller is ours to use: then the kernel ends
the whole process when it goes over its memory, and gives it its share of the processors. Else
a resource limit on the process's data: then what asks for more gets a MemoryError, and the
supervisor ends a process that holds more all the same (shared memory, say).
"""

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Cgroup", "DataLimit", "Limit", "find_cgroup_root", "limit_for"]

MB = 2**20
STACK_MB = 8
"""Of a thread, as systems have it."""
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

    The stacks of threads count there before they are used, so there is room for them beyond the
    memory; what is really held is watched by the supervisor.
    """

    words = "rlimit"

    def apply(self, pid: int, *, cpu_kind: str, cpus: int, memory_mb: int, threads: int) -> None:
        """Bound the process; those that it starts inherit it."""
        most = (memory_mb + threads * STACK_MB) * MB
        if hasattr(psutil.Process, "rlimit"):  # not on macOS; its memory is only watched there
            psutil.Process(pid).rlimit(resource.RLIMIT_DATA, (most, most))
        with suppress(psutil.Error, OSError):
            psutil.Process(pid).nice(_NICE[cpu_kind])

    def stopped(self) -> int:
        """Never: it is the process that is told."""
        return 0

    def remove(self) -> None:
        """It goes with the process."""


Limit = Cgroup | DataLimit


def limit_for(root: Path | None, deployment: str, worker: str) -> Limit:
    """What bounds a replica: a cgroup below ``root``, or where that is None a resource limit."""
    return DataLimit() if root is None else Cgroup(root / f"ganger-{deployment}" / worker)


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

"""What bounds a replica's process: a cgroup where it is ours to make, else a resource limit."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from ganger.compute.local import processes
from ganger.compute.local.limits import (
    Cgroup,
    DataLimit,
    cpus_of,
    find_cgroup_root,
    limit_for,
)
from ganger.compute.local.processes import ReplicaProcess

WORKER = "d.shared-2cpu-512mb-fra.1"
SIZES: dict[str, Any] = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512, "threads": 4}


class Kernel:
    """``/proc/self`` and a cgroup v2 file system, as far as they are read."""

    def __init__(self, root: Path, own: str, *, kind: str = "cgroup2") -> None:
        self.mounted = root / "cgroup"
        self.proc = root / "self"
        self.proc.mkdir(parents=True)
        line = f"30 20 0:26 / {self.mounted} rw,nosuid shared:4 - {kind} cgroup2 rw\n"
        (self.proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + line)
        (self.proc / "cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
        group = self.mounted
        group.mkdir()
        for name in own.strip("/").split("/"):
            group = group / name if name else group
            group.mkdir(exist_ok=True)

    def control(self, group: str, controllers: str) -> Path:
        made = self.mounted / group
        (made / "cgroup.subtree_control").write_text(controllers)
        return made

    def found(self) -> Path | None:
        return find_cgroup_root(self.proc / "mountinfo")


def test_groups_are_made_where_memory_is_handed_on(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, "/user/session")
    beside = kernel.control("user", "cpu memory pids")
    assert kernel.found() == beside
    own = kernel.control("user/session", "memory")
    assert kernel.found() == own


def test_memory_that_is_not_handed_on_is_asked_for(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, "/user/session")
    beside = kernel.control("user", "")
    # this is a plain file, which shows what was written to it
    assert kernel.found() is None
    assert (beside / "cgroup.subtree_control").read_text() == "+memory +cpu"


@pytest.mark.parametrize("kind", ["cgroup", "tmpfs"])
def test_without_cgroup_2_there_is_no_place(tmp_path: Path, kind: str) -> None:
    kernel = Kernel(tmp_path, "/user", kind=kind)
    kernel.control("user", "memory")
    assert kernel.found() is None
    assert find_cgroup_root(tmp_path / "none" / "mountinfo") is None
    assert limit_for(None, "d", "w") == DataLimit("w")


def test_a_group_bounds_memory_and_gives_a_share_of_the_processors(tmp_path: Path) -> None:
    group = limit_for(tmp_path, "d", "w")
    assert isinstance(group, Cgroup)
    group.apply(1234, cpu_kind="performance", cpus=2, memory_mb=512, threads=4)
    written = {file.name: file.read_text() for file in (tmp_path / "ganger-d" / "w").iterdir()}
    assert written == {
        "memory.max": str(512 * 2**20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "200000 100000",
        "cpu.weight": "200",
        "cgroup.procs": "1234",
    }


def test_a_group_says_how_often_the_kernel_stopped_something(tmp_path: Path) -> None:
    group = Cgroup(tmp_path)
    assert group.stopped() == 0
    (tmp_path / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 2\n")
    assert group.stopped() == 2


def test_a_group_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        Cgroup(tmp_path / "file" / "w").apply(1, **SIZES)


HOG = """
import sys
sys.stdin.readline()  # bounded from here on
try:
    hog = bytearray(600 * 2**20)
except MemoryError:
    print("MemoryError")
print(len(bytearray(100 * 2**20)))
"""


def test_a_process_that_wants_more_gets_a_memory_error_and_goes_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        DataLimit(WORKER).apply(process.pid, **SIZES)
        said, _ = process.communicate("go\n", timeout=30)
    assert said.split() == ["MemoryError", str(100 * 2**20)]


LOADED = """
import mmap, sys
reserved = mmap.mmap(-1, 120 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held = b"x" * (50 * 2**20)
print("loaded", flush=True)
sys.stdin.readline()
for mb in (180, 240):
    try:
        print(len(bytearray(mb * 2**20)) // 2**20)
    except MemoryError:
        print("MemoryError")
"""


def test_what_a_worker_has_mapped_and_does_not_hold_costs_it_nothing() -> None:
    limit, size = DataLimit(WORKER), {"memory_mb": 256, "threads": 1}
    with subprocess.Popen(
        [sys.executable, "-c", LOADED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        limit.apply(process.pid, cpu_kind="shared", cpus=1, **size)
        assert process.stdout.readline() == "loaded\n"
        limit.settle(
            process.pid, held=ReplicaProcess(psutil.Process(process.pid), None).held(), **size
        )
        said, _ = process.communicate("go\n", timeout=30)
    assert said.split() == ["180", "MemoryError"]


@pytest.mark.parametrize("cpus", [1, 2, 4, 9])
def test_replicas_take_turns_at_the_processors(cpus: int) -> None:
    there = [0, 2, 3, 7]
    taken = [cpus_of(f"d.pool.{number}", cpus, there) for number in range(1, 5)]
    assert all(len(set(each)) == min(cpus, 4) for each in taken)
    counts = Counter(cpu for each in taken for cpu in each)
    assert counts == dict.fromkeys(there, min(cpus, 4))


def test_a_process_runs_on_as_many_processors_as_its_pool_has() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        DataLimit(WORKER).apply(process.pid, **{**SIZES, "cpus": 1})
        allowed = os.sched_getaffinity(process.pid)
        process.kill()
    assert len(allowed) == 1
    assert allowed <= os.sched_getaffinity(0)


def test_a_large_log_begins_anew_under_who_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LARGE_LOG", 10)
    log = tmp_path / "r.log"
    with log.open("a") as writer:
        writer.write("a long first line\n")
        writer.flush()
        processes.put_aside(log)
        writer.write("second\n")
    assert log.read_text() == "second\n"
    assert (tmp_path / "r.log.1").read_text() == "a long first line\n"
    processes.put_aside(log)
    assert log.read_text() == "second\n"

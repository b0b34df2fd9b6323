"""A process that aborts: whether that was for want of memory."""

import sys
import time
from pathlib import Path

import pytest

from ganger.compute.local import replica as replicas
from ganger.compute.local.aborts import says_no_memory
from ganger.compute.local.limits import DataLimit
from ganger.compute.local.replica import LocalReplica
from ganger_broker.deployments import Launch, PoolRecord, ReplicaRecord, ReplicaState

POOL = PoolRecord("shared", 1, 256, 1, ["fra"], ["w:s"])
LAUNCH = Launch("tasks:app", "", 1, POOL, {})
BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'"


@pytest.mark.parametrize(
    "said",
    [
        BAD_ALLOC,
        "memory allocation of 419430400 bytes failed",
        "fatal error: runtime: out of memory",
        "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
        "Cannot allocate memory",
    ],
)
def test_what_code_says_that_gets_no_memory_is_known(tmp_path: Path, said: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"registered\n{said}\n")
    assert says_no_memory(log, 0)
    assert not says_no_memory(log, log.stat().st_size)  # that was another process
    assert says_no_memory(log, 10**9)  # it has begun anew since
    log.write_text(f"{said}\n" + "x" * 10_000)
    assert not says_no_memory(log, 0)
    assert not says_no_memory(tmp_path / "none", 0)


@pytest.mark.parametrize(
    ("said", "memory", "is_memory"),
    [
        ("double free or corruption (out)", 53.0, False),
        ("double free or corruption (out)", 250.0, True),
        (BAD_ALLOC, 53.0, True),
    ],
)
def test_another_abort_is_no_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, memory: float, is_memory: bool
) -> None:
    code = f"import os; os.write(2, {said.encode()!r}); os.abort()"
    monkeypatch.setattr(replicas, "worker_command", lambda *given: [sys.executable, "-c", code])
    log = tmp_path / "log"
    log.write_text(f"{BAD_ALLOC}\n")  # of the process before
    record = ReplicaRecord(
        "d.p.1", "p", 1, "fra", ReplicaState.STARTING, 0, log=str(log), memory_mb=memory
    )
    replica = LocalReplica(record, DataLimit("d.p.1"), time.time)
    replica.start(LAUNCH, 0, 30.0, None)
    while (how := replica.ended()) is None:
        time.sleep(0.01)
    assert how.endswith("killed by SIGABRT")
    assert (replica.killed is not None) == is_memory
    assert how.startswith("its worker needed more than its 256 MB of memory") == is_memory

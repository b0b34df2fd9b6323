"""How long a replica has to end in."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from ganger.compute.local.limits import DataLimit
from ganger.compute.local.processes import ReplicaProcess, worker_command
from ganger.compute.local.replica import KILL_AFTER, LocalReplica
from ganger_broker.deployments import ReplicaRecord, ReplicaState

RECORD = ReplicaRecord("d.p.1", "p", 1, "fra", ReplicaState.RUNNING, 0)


@pytest.fixture
def process() -> Iterator[ReplicaProcess]:
    """One that was told of 60 s, and heeds no signal."""
    _, *words = worker_command("tasks:app", "p", "fra", 1, "d.p.1", 60.0)
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    command = [sys.executable, "-c", deaf, *words[2:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield ReplicaProcess(psutil.Process(child.pid), child)
        child.kill()


@pytest.mark.parametrize(("grace", "counts"), [(2.0, 60.0), (90.0, 90.0)])
def test_it_has_the_longer_of_what_it_was_told_and_what_counts_now(
    process: ReplicaProcess, grace: float, counts: float
) -> None:
    now = 1_000.0
    replica = LocalReplica(RECORD, DataLimit("d.p.1"), lambda: now, process)
    replica.stop(grace)
    now += counts + KILL_AFTER
    assert replica.ended() is None
    assert process.ended() is None
    now += 1
    replica.ended()
    assert process._child is not None
    assert process._child.wait(10) == -9

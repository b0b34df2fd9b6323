"""``--on local`` and its supervisor: what ``up`` and ``down`` do where there is no folder for its
log, where it dies, or where what it ends never does."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import psutil
import pytest
from msgspec.structs import replace

from ganger.compute import local
from ganger.compute.adapter import DeployFailed, Overtaken
from ganger.compute.deploying import plan_of
from ganger.compute.local import Local
from ganger_broker.deployments import (
    Deployment,
    PoolRecord,
    ReplicaRecord,
    ReplicaState,
    SupervisorRecord,
)
from ganger_broker.settings import Settings
from ganger_dispatcher.store.deployment_store import DeploymentStore

from .cli_world import Run

SETTINGS = Settings(broker_url="amqp://nowhere/", prefix="down-in-a-test", drain_grace="30s")
DEPLOYED = Deployment("d", "tasks:app", "local", "seed", 1, 1_000, leaving=True)


@pytest.fixture
def no_folder(tmp_path: Path) -> str:
    """A folder that cannot be made, by nobody."""
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "state")


@pytest.mark.parametrize("given", ["--set", "environment"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_kept(
    run: Run, app: str, no_folder: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", no_folder)
    words = ("--set", f"state_dir={no_folder}") if given == "--set" else ()
    status, _, err = run("up", app, "--deployment", "d", "--on", "local", *words)
    assert status == 2
    assert err.startswith(f"ganger: state_dir: logs cannot be kept in {no_folder}")
    assert "Not a directory; give another folder with --set state_dir=… or XDG_STATE_HOME" in err
    assert run("ps")[1] == "there are no deployments\n"


class Down:
    """A ``down`` whose time is the test's, with one replica; supervisors are only recorded."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.happens: list[ReplicaRecord] = []
        self.started = 0
        server = fakeredis.FakeServer()
        monkeypatch.setattr(
            local,
            "open_store",
            lambda settings: DeploymentStore(settings, fakeredis.FakeAsyncRedis(server=server)),
        )
        given = {"state_dir": str(tmp_path)}
        self.local = Local(SETTINGS, given, clock=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(self.local, "_supervised", self._supervised)
        self.save(DEPLOYED)
        self.keep(ReplicaRecord("d.p.1", "p", 1, "fra", ReplicaState.STOPPING, 0))

    def ask(self, question: Any) -> Any:
        return self.local._ask(question)

    def supervise(self, *, alive: bool) -> None:
        """Have a supervisor: this process, or one that is gone."""
        began = psutil.Process().create_time() if alive else 0.0
        record = SupervisorRecord("host", os.getpid(), began, 0)
        self.ask(lambda store: store.save_supervisor("d", record))

    def _sleep(self, seconds: float) -> None:
        self.now += 1.0
        if self.happens:
            self.keep(self.happens.pop(0))

    def save(self, deployment: Deployment) -> None:
        """Have this deployed."""
        self.ask(lambda store: store.save(deployment))

    def keep(self, record: ReplicaRecord) -> None:
        """Have this of its replica."""
        self.ask(lambda store: store.save_replicas("d", {"d.p.1": record}))

    def _supervised(self, deployment: Deployment) -> Iterator[str]:
        self.started += 1
        yield "supervisor started"


class _Ended:
    """The process of a supervisor that had nothing to do."""

    pid = 1

    def __init__(self, command: list[str], **given: Any) -> None:
        self.folder = Path(command[-1])
        assert given["stdout"].writable()

    def poll(self) -> int:
        assert self.folder.is_dir()
        return 0


def test_down_needs_no_folder_of_its_own(
    tmp_path: Path, no_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        local,
        "open_store",
        lambda settings: DeploymentStore(settings, fakeredis.FakeAsyncRedis(server=server)),
    )
    monkeypatch.setattr(local.subprocess, "Popen", _Ended)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    [said] = Local(SETTINGS, {"state_dir": no_folder}).remove(DEPLOYED)
    assert said.startswith(f"supervisor started, pid 1; its log: {tmp_path}/ganger-")


@pytest.fixture
def down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Down:
    return Down(tmp_path, monkeypatch)


def test_where_its_supervisor_dies_another_is_started(down: Down) -> None:
    down.supervise(alive=True)
    lines = down.local.remove(DEPLOYED)
    assert next(lines) == "supervisor started"
    assert next(lines) == "d.p.1  fra  stopping"
    down.supervise(alive=False)
    assert next(lines) == "supervisor started"
    down.ask(lambda store: store.save_replicas("d", {"d.p.1": None}))
    assert list(lines) == ["d.p.1  ended"]


def test_supervisors_that_die_again_and_again_are_said(down: Down) -> None:
    down.supervise(alive=False)
    with pytest.raises(DeployFailed, match=r"ends before its replicas do; see .*supervisor\.log"):
        list(down.local.remove(DEPLOYED))
    assert down.started == local.SUPERVISORS_MOST


def test_what_never_ends_is_said(down: Down) -> None:
    down.supervise(alive=True)
    with pytest.raises(DeployFailed, match=r"^d\.p\.1: still there after 60 s; see .* again$"):
        list(down.local.remove(DEPLOYED))
    assert 60 < down.now < 63


UP = replace(
    DEPLOYED, pools={"p": PoolRecord("shared", 1, 256, 1, ["fra"], ["w:s"])}, leaving=False
)
FAILED = ReplicaRecord(
    "d.p.1", "p", 1, "fra", ReplicaState.BACKOFF, 0, restarts=7, ended="exit status 7"
)


def test_what_failed_before_up_was_said_is_no_failure_of_it(down: Down) -> None:
    down.save(UP)
    down.keep(FAILED)
    starting, running = (
        replace(FAILED, state=state) for state in (ReplicaState.STARTING, ReplicaState.RUNNING)
    )
    down.happens = [FAILED, starting, running]
    assert list(down.local.apply(UP, plan_of(UP))) == [
        "supervisor started",
        "d.p.1  fra  starting",
        "d.p.1  fra  running",
    ]
    down.keep(FAILED)
    down.happens = [replace(FAILED, restarts=restarts, ended="status 8") for restarts in (8, 9, 10)]
    with pytest.raises(DeployFailed, match="does not come up: status 8"):
        list(down.local.apply(UP, plan_of(UP)))
    assert down.now < 10


def test_what_does_not_register_is_said_and_not_what_failed_before(down: Down) -> None:
    down.save(UP)
    down.keep(FAILED)
    down.happens = [replace(FAILED, state=ReplicaState.STARTING)]
    with pytest.raises(DeployFailed, match="does not come up: it has not registered"):
        list(down.local.apply(UP, plan_of(UP)))


def test_a_down_that_is_overtaken_by_an_up_says_so_and_the_other_way_round(down: Down) -> None:
    down.supervise(alive=True)
    lines = down.local.remove(DEPLOYED)
    assert next(lines) == "supervisor started"
    assert next(lines) == "d.p.1  fra  stopping"
    down.save(UP)
    with pytest.raises(Overtaken, match=r"^d was put up again meanwhile, .*; it stays$"):
        next(lines)

    lines = down.local.apply(UP, plan_of(UP))
    assert [next(lines), next(lines)] == ["supervisor started", "d.p.1  fra  stopping"]
    down.save(DEPLOYED)
    with pytest.raises(Overtaken, match=r"^d is being taken down meanwhile"):
        next(lines)

"""A Fly of our own, and a Redis, empty at the beginning of each test; the command."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from uuid import uuid4

import fakeredis
import pytest
from msgspec.structs import replace

from ganger import cli
from ganger.cli import compute_given as verbs
from ganger.compute import adapter
from ganger.compute.local import replica as replicas
from ganger.compute.local import supervisor as supervisors
from ganger.compute.local.supervisor import Supervisor
from ganger_dispatcher.store.deployment_store import DeploymentStore

from .cli_world import APP, Run, Somewhere
from .fake_fly import fake_fly
from .fly_world import World
from .supervised import DEPLOYED, SETTINGS, Watched


@pytest.fixture
def world() -> Iterator[World]:
    with fake_fly() as fly:
        yield World(fly)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MODULE:APP in the current directory, a Redis of the test's own, and an adapter."""
    name = f"pools_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for variable in ("GANGER_BROKER_URL", "GANGER_REDIS_URL", "GANGER_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    server = fakeredis.FakeServer()
    monkeypatch.setattr(
        verbs,
        "open_store",
        lambda settings: DeploymentStore(settings, fakeredis.FakeAsyncRedis(server=server)),
    )
    installed = dict(adapter.adapters())
    installed["somewhere"] = EntryPoint(
        "somewhere", f"{Somewhere.__module__}:Somewhere", adapter.GROUP
    )
    monkeypatch.setattr(adapter, "adapters", lambda: installed)
    monkeypatch.setattr(Somewhere, "there", {})
    yield f"{name}:app"
    sys.modules.pop(name, None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``ganger compute …``: exit status, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["compute", *words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
async def keep(
    store: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Supervisor]]:
    """Starts a supervisor whose replicas do nothing until they are ended, after the one that it
    started before. It may have begun when it is there, or not yet: that goes by the version of
    Python."""
    idle = [sys.executable, "-c", "import signal; signal.pause()"]
    monkeypatch.setattr(replicas, "worker_command", lambda *given: idle)
    monkeypatch.setattr(replicas, "backoff", lambda failures: 0.0)
    monkeypatch.setattr(supervisors, "workers_of", lambda *given: {})
    monkeypatch.setattr(supervisors, "tell", store.tell)
    monkeypatch.setattr(supervisors, "TICK", 0.01)
    monkeypatch.setattr(supervisors, "REST", 0.01)
    monkeypatch.setattr(supervisors, "LOOK_AROUND", 0.0)
    await store.save(DEPLOYED)
    started: list[Supervisor] = []
    running: list[asyncio.Task[None]] = []

    def start() -> Supervisor:
        made = Supervisor("kept", SETTINGS, store, tmp_path)
        started.append(made)
        before = running[-1:]

        async def run() -> None:
            await asyncio.gather(*before)
            await made.run()

        running.append(asyncio.create_task(run()))
        return made

    yield start
    assert not running[-1].done()
    store.broken.clear()
    await store.save(replace(DEPLOYED, leaving=True))
    async with asyncio.timeout(30):
        await running[-1]
    for before in started:  # processes that the last one has ended are children of this one
        there = before._replicas.values()
        assert all(replica.process is None or replica.ended() for replica in there)


@pytest.fixture
async def supervisor(keep: Callable[[], Supervisor]) -> Supervisor:
    """One that has been started."""
    return keep()

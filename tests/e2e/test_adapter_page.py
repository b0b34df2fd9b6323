"""The adapter that a page builds does what the port says, with workers that really run.

ssh and systemd are played here; the commands that they are given are carried out.
"""

import fnmatch
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ganger import Compute, InvalidInput
from ganger.compute.adapter import DeployAdapter, DeployFailed, make_adapter
from ganger.compute.planning import Plan, make_plan
from ganger.compute.pools import Pool, Pools
from ganger_broker.deployments import Deployment
from ganger_broker.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "deploy-adapter.md"
PATIENCE = 60.0
"""Seconds for workers to start, on a machine that does other things too."""

APP = """
from ganger import Compute, Context, Ganger

app = Ganger()
small = Compute(cpu_kind="shared", cpus=2, memory_mb=1024, regions=["fra", "iad"])

@app.workflow()
class Caption:
    @app.step(compute=small)
    async def caption(self, context: Context) -> str:
        return "a cat"
"""
SMALL = Compute(cpu_kind="shared", cpus=2, memory_mb=1024, regions=["fra", "iad"])
POOL = Pools().name_of(SMALL)
DEPLOYMENT = Deployment("captions", "tasks:app", "ssh", "seed-1", slots=3, created_at=0)


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    return str(found)


def plan(replicas: int, seed: str = "seed-1") -> Plan:
    pools = {POOL: Pool(POOL, SMALL, ("caption:caption",))}
    return make_plan("captions", seed, pools, {POOL: replicas})


class Hosts:
    """What ``subprocess.run`` is where ssh leads to systemd: ``units`` run, by host and name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self.properties: dict[str, dict[str, str]] = {}
        self.up = True

    def run(self, ssh: list[str], **_: Any) -> SimpleNamespace:
        host, command = ssh[-2:]
        assert ssh == ["ssh", "-o", "BatchMode=yes", "--", host, command]
        if not self.up:
            return SimpleNamespace(returncode=255, stderr="ssh: No route to host\n", stdout="")
        match shlex.split(command):
            case ["systemd-run", "--user", "--collect", unit, *words]:
                said = self.start(host, unit.removeprefix("--unit="), words)
            case ["systemctl", "--user", "list-units", "--plain", "--no-legend", pattern]:
                there = (f"{unit}.service" for at, unit in sorted(self.units) if at == host)
                lines = fnmatch.filter(there, pattern)
                said = "".join(f"{line} loaded active running ganger\n" for line in lines)
            case ["systemctl", "--user", "stop", unit]:
                said = self.stop(host, unit.removesuffix(".service"))
            case other:
                raise AssertionError(other)
        return SimpleNamespace(returncode=0, stderr="", stdout=said)

    def start(self, host: str, unit: str, words: list[str]) -> str:
        self.properties[unit] = properties = {}
        while words[0] == "-p":
            name, _, properties[name] = words[1].partition("=")
            del words[:2]
        lines = Path(properties["EnvironmentFile"]).read_text().splitlines()
        environment = dict(line.split("=", 1) for line in lines)
        with (self.folder / f"{unit}.log").open("wb") as log:
            self.units[host, unit] = subprocess.Popen(
                words, cwd=properties["WorkingDirectory"], env=environment, stdout=log, stderr=log
            )
        return ""

    def stop(self, host: str, unit: str) -> str:
        process = self.units.pop((host, unit))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, self.log(unit)
        return ""

    def log(self, unit: str) -> str:
        return (self.folder / f"{unit}.log").read_text()

    def registers(self, unit: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while "worker registered" not in self.log(unit):
            assert time.monotonic() < deadline, self.log(unit)
            time.sleep(0.1)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Two hosts with the app on them, and the page's package installed here."""
    folder = tmp_path / "the app"
    folder.mkdir()
    (folder / "tasks.py").write_text(APP)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".env").write_text("GANGER_BROKER_URL=memory://\nGANGER_LOG_FORMAT=json\n")
    installed = tmp_path / "site"
    about = installed / "ganger_ssh-0.1.0.dist-info"
    about.mkdir(parents=True)
    project = tomllib.loads(block("toml"))
    entries = project["project"]["entry-points"]
    lines = [
        f"[{group}]\n{name} = {value}\n"
        for group in entries
        for name, value in entries[group].items()
    ]
    (about / "METADATA").write_text("Name: ganger-ssh\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("\n".join(lines))
    (installed / "ganger_ssh.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(installed))
    made = Hosts(folder)
    monkeypatch.setattr(subprocess, "run", made.run)
    yield made
    for process in made.units.values():
        process.kill()
        process.wait()
    sys.modules.pop("ganger_ssh", None)


def adapter(hosts: Hosts) -> DeployAdapter:
    options = {"hosts": "fra=ada@10.0.0.1,iad=ada@10.0.1.1", "folder": str(hosts.folder)}
    return make_adapter("ssh", Settings(drain_grace="5s"), options)


def test_the_page_keeps_its_promise() -> None:
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 60


def test_it_starts_keeps_and_drains_workers(hosts: Hosts) -> None:
    ssh = adapter(hosts)
    assert ssh.running(DEPLOYMENT, plan(3)) == []
    lines = list(ssh.apply(DEPLOYMENT, plan(3)))
    at = {"fra": "ada@10.0.0.1", "iad": "ada@10.0.1.1"}
    wanted = {(at[r.region], r.worker_id("captions")) for r in plan(3).replicas}
    assert set(hosts.units) == wanted
    assert lines == [f"{r.worker_id('captions')}: started in {r.region}" for r in plan(3).replicas]
    assert sorted(ssh.running(DEPLOYMENT, plan(3)) or []) == sorted(plan(3).replicas)
    for _, unit in wanted:
        hosts.registers(unit)
        assert f'"{unit}"' in hosts.log(unit)
    bounds = hosts.properties[f"captions.{POOL}.1"]
    assert (bounds["MemoryMax"], bounds["CPUQuota"]) == ("1024M", "200%")
    assert (bounds["Restart"], bounds["TimeoutStopSec"]) == ("always", "20.0")

    before = dict(hosts.units)
    assert list(ssh.apply(DEPLOYMENT, plan(3))) == []
    list(ssh.apply(DEPLOYMENT, plan(2)))
    assert set(hosts.units) == {(at[r.region], r.worker_id("captions")) for r in plan(2).replicas}
    assert all(process is before[unit] for unit, process in hosts.units.items())

    assert len(list(ssh.remove(DEPLOYMENT))) == 2
    assert hosts.units == {}


def test_another_deployment_is_left_alone(hosts: Hosts) -> None:
    sleeping = subprocess.Popen(["sleep", "60"])
    hosts.units["ada@10.0.0.1", f"captions-2.{POOL}.1"] = sleeping
    assert adapter(hosts).running(DEPLOYMENT, plan(1)) == []
    assert list(adapter(hosts).remove(DEPLOYMENT)) == []
    assert sleeping.poll() is None


def test_what_is_rendered_is_what_is_run(hosts: Hosts) -> None:
    texts = adapter(hosts).render(DEPLOYMENT, plan(2))
    assert list(texts) == [r.worker_id("captions") for r in plan(2).replicas]
    assert all(
        text.startswith("systemd-run --user --collect --unit=captions.") for text in texts.values()
    )
    assert all(text.count("\n") == 1 for text in texts.values())
    assert hosts.units == {}


def test_it_says_what_is_wrong(hosts: Hosts) -> None:
    for wrong in ({}, {"hosts": "fra"}):
        with pytest.raises(InvalidInput, match="--set hosts: must be such as"):
            make_adapter("ssh", Settings(), wrong)
    with pytest.raises(InvalidInput, match="--set: ssh takes no 'host', but hosts:"):
        make_adapter("ssh", Settings(), {"host": "10.0.0.1"})
    here = {"hosts": "nrt=10.0.0.1", "folder": str(hosts.folder)}
    with pytest.raises(DeployFailed, match="--set hosts: there is none for"):
        list(make_adapter("ssh", Settings(), here).apply(DEPLOYMENT, plan(1)))
    hosts.up = False
    with pytest.raises(DeployFailed, match=r"^ada@10\.0\.0\.1: ssh: No route to host$"):
        adapter(hosts).running(DEPLOYMENT, plan(1))

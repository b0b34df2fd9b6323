"""``ganger compute`` where there are several deployments, with pools of one name."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ganger.cli import compute_given as verbs
from ganger.cli.compute_text import print_replicas, slots_kept
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import (
    Deployment,
    PoolLoad,
    PoolRecord,
    ReplicaRecord,
    ReplicaState,
)
from ganger_dispatcher.store.deployment_store import DeploymentStore

from .cli_world import POOL, Run, Somewhere, on


def test_a_pool_that_another_deployment_has_too_is_said(run: Run, app: str) -> None:
    said = f"! {POOL}: d has a pool of this name too: what they have to do"
    assert said not in run("up", *on(app, "--apply"))[2]
    assert said not in run("up", *on(app, "--apply"))[2]
    other = (app, "--deployment", "other", "--on", "somewhere")
    assert said in run("plan", *other)[1]
    warnings = json.loads(run("plan", *other, "--json")[1])["warnings"]
    assert "shared_name" in [warning["code"] for warning in warnings]
    assert said in run("up", *other, "--apply")[2]


class Kept:
    """Deployments that run here, as a supervisor would have written them."""

    def __init__(self, tmp_path: Path) -> None:
        self._folder = tmp_path
        self.pool = PoolRecord("shared", 2, 1024, 1, ["fra"], ["w:s"])

    def add(self, name: str) -> None:
        made = Deployment(name, "tasks:app", "local", name, 2, 0, {POOL: self.pool})
        worker = f"{name}.{POOL}.1"
        log = self._folder / f"{name}.log"
        log.write_text(f"written by {name}\n")
        record = ReplicaRecord(worker, POOL, 1, "fra", ReplicaState.RUNNING, 0, log=str(log))

        async def write(store: Any) -> None:
            await store.save(made)
            await store.save_replicas(name, {worker: record})

        verbs.Given(None, None, None).ask(write)


def test_a_log_is_of_the_deployment_that_is_meant(run: Run, app: str, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.add("b")
    assert run("logs", f"{POOL}.1")[:2] == (0, "written by b\n")
    kept.add("a")
    status, _, err = run("logs", f"{POOL}.1")
    assert status == 2
    assert (
        f"'{POOL}.1' is in several deployments: a.{POOL}.1, b.{POOL}.1; give one of these, or "
        "--deployment"
    ) in err
    assert run("logs", f"b.{POOL}.1")[1] == "written by b\n"
    assert run("logs", f"{POOL}.1", "--deployment", "b")[1] == "written by b\n"
    status, _, err = run("logs", f"{POOL}.1", "--deployment", "c")
    assert status == 2
    assert "deployment: there is no 'c'; there are a, b" in err


def test_replicas_of_a_pool_that_is_no_more_are_shown_to_stay(
    run: Run, app: str, tmp_path: Path
) -> None:
    kept = Kept(tmp_path)
    kept.add("a")
    line = f"{POOL}: 1 replica; 0 of 0 slots in use; until each pool above has a replica that runs"
    assert line not in run("ps")[1]
    given = verbs.Given(None, None, None)
    given.change("a", lambda found: replace(found, pools={"new": kept.pool}))
    assert line in run("ps")[1]


def test_a_deployment_is_shown_with_its_own_slots(
    run: Run, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)
    kept.add("a")
    kept.add("b")

    async def uses(self: DeploymentStore) -> list[WorkerUse]:
        return [
            WorkerUse(f"{name}.{POOL}.1", POOL, "fra", "1", None, None, slots=2, used=used)
            for name, used in (("a", 1), ("other", 2))
        ]

    async def loads(self: DeploymentStore) -> dict[str, PoolLoad]:
        return {POOL: PoolLoad(workers=2, slots=4, used=3, pending=1, wanted=3, at=0)}

    monkeypatch.setattr(DeploymentStore, "uses", uses)
    monkeypatch.setattr(DeploymentStore, "loads", loads)
    [of_a, of_b] = [line for line in run("ps")[1].splitlines() if line.startswith(f"  {POOL}")]
    shared = "for the pool 1 step waiting, 3 replicas wanted"
    assert of_a == f"  {POOL}: 1 replica; 1 of 2 slots in use; {shared}"
    assert of_b == f"  {POOL}: 1 replica; 0 of 0 slots in use; {shared}"
    shown = json.loads(run("ps", "a", "--json")[1])
    assert shown[0]["pools"][POOL]["own"] == {"workers": 1, "slots": 2, "used": 1}


def test_replicas_that_keep_their_slots_are_said() -> None:
    made = Deployment("d", "tasks:app", "local", "d", 3, 0)
    assert slots_kept(None, made) == slots_kept(made, made) == []
    [said] = slots_kept(replace(made, slots=1), made)
    assert said.startswith("replicas that run keep the 1 slot that they were started with; to have")
    assert slots_kept(replace(made, slots=1), replace(made, on="fly")) == []


def test_a_module_of_the_same_name_elsewhere_does_not_replace_a_deployment(
    run: Run, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("up", app, "--on", "somewhere", "--apply")[0] == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    [name] = Somewhere.there
    status, _, err = run("up", app, "--on", "somewhere", "--apply")
    assert status == 2
    assert f"deployment: {name!r} is there already, of {app} in {tmp_path}" in err
    assert run("up", app, "--deployment", name, "--apply")[0] == 0


def test_what_one_copies_of_replicas_is_in_one_piece(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    pool = "performance-64cpu-131072mb-cdg-fra-iad-sin"
    record = PoolRecord("performance", 64, 131_072, 12, ["fra"], ["w:s"])
    made = Deployment("jobs", "jobs:app", "local", "s", 2, 0, {pool: record})
    ended = "its worker held 140,000 MB of memory, over its 131,072 MB, as has been seen before"
    records = {
        f"jobs.{pool}.{number}": ReplicaRecord(
            *(f"jobs.{pool}.{number}", pool, number, "fra", ReplicaState.RUNNING, 0),
            pid=4_194_304,
            restarts=number,
            memory_mb=131_071.6,
            ended=ended if number == 12 else None,
        )
        for number in (1, 12)
    }
    print_replicas(made, None, records, {}, None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-4:-1]] == [
        ["replica", "region", "state", "pid", "MB", "restarts"],
        [f"{pool}.1", "fra", "running", "4194304", "131,072", "1"],
        [f"{pool}.12", "fra", "running", "4194304", "131,072", "12"],
    ]
    assert lines[-1] == f"{pool}.12 ended last: {ended}"

"""``ganger compute``: what it prints, what it keeps, and what it refuses."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import fakeredis
import pytest

from ganger import Settings, cli
from ganger.cli import compute_given as verbs
from ganger.compute import adapter
from ganger.compute.adapter import DeployFailed
from ganger.compute.planning import Plan, Replica
from ganger_broker.deployments import Deployment
from ganger_broker.errors import InvalidInput
from ganger_dispatcher.store.deployment_store import DeploymentStore

Run = Callable[..., tuple[int, str, str]]

APP = """
from ganger import Compute, Ganger

app = Ganger()
SMALL = Compute(cpu_kind="shared", cpus=2, memory_mb=1024, num_replicas=3, regions=["fra", "iad"])


@app.task(compute=SMALL)
def work(input, context):
    return 1


@app.task()
def other(input, context):
    return 1


worker = app.worker("w")
"""
POOL = "shared-2cpu-1024mb-fra-iad"


class Somewhere:
    """What a third party's adapter is like; it only remembers."""

    options: ClassVar[Mapping[str, str]] = {"size": "how large, a number"}
    there: ClassVar[dict[str, list[Replica]]] = {}
    broken: ClassVar[bool] = False

    def __init__(self, settings: Settings, options: Mapping[str, str]) -> None:
        if not options.get("size", "1").isdecimal():
            raise InvalidInput(f"--set: size: {options['size']!r} must be a number")

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        return {
            "all": "".join(
                f"run {replica.number} in {replica.region}\n" for replica in plan.replicas
            )
        }

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        return self.there.get(deployment.name, [])

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        if self.broken:
            raise DeployFailed("somewhere: there is no room")
        self.there[deployment.name] = list(plan.replicas)
        yield f"{len(plan.replicas)} there"

    def remove(self, deployment: Deployment) -> Iterator[str]:
        del self.there[deployment.name]
        yield "gone"


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
    installed["somewhere"] = EntryPoint("somewhere", f"{__name__}:Somewhere", adapter.GROUP)
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


def on(app: str, *words: str) -> tuple[str, ...]:
    return (app, "--deployment", "d", "--on", "somewhere", *words)


def test_a_plan_says_what_there_would_be_and_changes_nothing(run: Run, app: str) -> None:
    status, out, _ = run("plan", *on(app), "--json")
    assert status == 0
    plan = json.loads(out)
    [pool] = plan["pools"]
    assert pool["pool"] == POOL
    assert pool["actions"] == ["work:work"]
    assert (pool["cpus"], pool["memory_mb"]) == (6, 3072)
    assert sum(pool["per_region"].values()) == 3
    assert pool["chance_of_empty_region"] == 0.25
    assert pool["replicas_to_fill"] == 8
    assert [replica["worker"] for replica in pool["replicas"]] == [
        f"d.{POOL}.{n}" for n in (1, 2, 3)
    ]
    assert len(plan["changes"]["create"]) == 3
    assert plan["unpooled"] == ["other:other"]
    assert pool["per_region"] == {"fra": 3, "iad": 0}  # so drawn from the seed "d"
    assert [warning["code"] for warning in plan["warnings"]] == ["empty_region", "no_workers"]
    assert run("ps")[1] == "there are no deployments\n"


def test_a_plan_as_a_table_says_the_same(run: Run, app: str) -> None:
    _, out, _ = run("plan", *on(app), "--scale", f"{POOL}=1")
    assert "1 replicas, 2 cpus, 1,024 MB; seed 'd'" in out
    assert "changes: create 1, keep 0, remove 0" in out
    assert f"+ d.{POOL}.1 in " in out
    assert "! other:other: in no pool" in out
    assert f"! {POOL}: it has 1 replica: while that restarts" in out


def test_where_redis_is_away_the_plan_is_shown_without(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "open_store", DeploymentStore)
    monkeypatch.setenv("GANGER_REDIS_URL", "redis://127.0.0.1:1/0")
    status, out, err = run("plan", *on(app), "--json")
    assert status == 0
    assert json.loads(out)["changes"] is None
    assert "what runs is not known" in err
    status, _, err = run("up", *on(app), "--apply")
    assert status == 1
    assert "deployments are kept in Redis, which cannot be reached" in err


def test_up_prints_and_with_apply_does(run: Run, app: str) -> None:
    status, out, err = run("up", *on(app))
    assert (status, out.count("run ")) == (0, 3)
    assert "nothing was changed; --apply does it" in err
    assert Somewhere.there == {}
    assert run("up", *on(app), "--apply")[:2] == (0, "3 there\n")
    changes = json.loads(run("plan", *on(app), "--json")[1])["changes"]
    assert {what: len(found) for what, found in changes.items()} == {
        "create": 0,
        "keep": 3,
        "remove": 0,
    }


def test_scaling_keeps_the_stayers_and_down_forgets(run: Run, app: str) -> None:
    run("up", *on(app), "--apply")
    before = list(Somewhere.there["d"])
    assert run("scale", f"{POOL}=5")[:2] == (0, "5 there\n")
    assert Somewhere.there["d"][:3] == before
    assert run("scale", f"{POOL}=2", "--deployment", "d")[:2] == (0, "2 there\n")
    assert Somewhere.there["d"] == before[:2]
    # what it was scaled to is kept when it is put up again
    assert run("up", *on(app), "--apply")[:2] == (0, "2 there\n")
    [shown] = json.loads(run("ps", "--json")[1])
    assert (shown["name"], shown["wanted"], shown["on"]) == ("d", 2, "somewhere")
    assert shown["pools"][POOL]["num_replicas"] == 3
    assert run("down")[1] == "gone\nd is down\n"
    assert run("ps")[1] == "there are no deployments\n"


def test_what_could_not_be_done_is_said_and_may_be_tried_again(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Somewhere, "broken", True)
    status, _, err = run("up", *on(app), "--apply")
    assert (status, err) == (1, "ganger: somewhere: there is no room\n")
    monkeypatch.setattr(Somewhere, "broken", False)
    assert run("up", *on(app), "--apply")[:2] == (0, "3 there\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "{app}", "--on", "mars"), "--on: there is no 'mars'; there are compose, fly"),
        (("plan", "{app}", "--deployment", "A"), "deployment: 'A' must be 1 to 32 lower case"),
        (("plan", "{app}", "--scale", "x=1"), f"scale: there is no pool 'x'; there are {POOL}"),
        (("plan", "{app}", "--scale", POOL), f"--scale: '{POOL}' must be POOL=N"),
        (("plan", "{app}", "--scale", f"{POOL}=-1"), "'-1' must be a whole number"),
        (("plan", "{app}", "--scale", f"{POOL}=1001"), "must be a whole number from 0 to 1,000"),
        (("plan", *on("{app}"), "--set", "x"), "--set: 'x' must be KEY=VALUE"),
        (("plan", *on("{app}"), "--set", "x=1"), "somewhere takes no 'x', but size: how large"),
        (("plan", *on("{app}"), "--set", "size=x"), "--set: size: 'x' must be a number"),
        (("up", "{app}", "--autoscale", "3"), "--autoscale: '3' must be MIN:MAX, such as 1:6"),
        (("up", "{app}", "--autoscale", "3:1"), "--autoscale: '3:1' must be MIN:MAX"),
        (("up", "{app}", "--autoscale", "1:1001"), "of at most 1,000, or off"),
        (("up", "{app}", "--slots", "0"), "--slots: 0 must be from 1 to 4,096"),
        (("plan", "{module}:worker"), "is a Worker, with a machine of its own; name its app"),
        (("up", "{app}", "--broker-url", "memory://"), "is a broker inside one process"),
        (("scale", "x=1"), "deployment: say which; there are none"),
        (("down", "x"), "deployment: there is no 'x'; there are none"),
        (("logs", "x"), "there is no replica 'x'; there are none"),
    ],
)
def test_wrong_use_is_said(run: Run, app: str, words: tuple[str, ...], said: str) -> None:
    module = app.removesuffix(":app")
    given = [word.replace("{app}", app).replace("{module}", module) for word in words]
    status, _, err = run(*given)
    assert said in err
    assert status == 2


def test_a_deployment_does_not_change_what_it_runs_on(run: Run, app: str) -> None:
    run("up", *on(app), "--apply")
    status, _, err = run("up", app, "--deployment", "d", "--on", "local")
    assert status == 2
    assert "--on: d runs on somewhere; take it down first" in err


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


def test_bounds_are_kept_until_others_are_given(run: Run, app: str) -> None:
    def bounds() -> object:
        [shown] = json.loads(run("ps", "--json")[1])
        return shown.get("autoscale")

    run("up", *on(app, "--autoscale", "1:3", "--apply"))
    run("up", *on(app, "--apply"))
    assert bounds() == {"least": 1, "most": 3}
    run("up", *on(app, "--autoscale", "off", "--apply"))
    assert bounds() is None


def test_what_cannot_be_taken_down_can_be_forgotten(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", *on(app, "--apply"))

    def gone(self: Somewhere, deployment: Deployment) -> Iterator[str]:
        raise DeployFailed("somewhere: there is no such place")

    monkeypatch.setattr(Somewhere, "remove", gone)
    status, _, err = run("down")
    assert status == 1
    assert "where somewhere is gone: ganger compute down d --forget" in err
    assert run("down", "--forget")[:2] == (0, "d is forgotten\n")
    assert run("ps")[1] == "there are no deployments\n"

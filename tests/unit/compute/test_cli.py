"""``ganger compute``: what it prints, what it keeps, and what it refuses."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ganger.cli import compute_given as verbs
from ganger.compute.adapter import DeployFailed
from ganger.compute.planning import Plan
from ganger_broker.deployments import (
    Deployment,
)
from ganger_dispatcher.store.deployment_store import DeploymentStore

from .cli_world import POOL, Run, Somewhere, on


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
    assert "1 replica, 2 cpus, 1,024 MB; seed 'd'" in out
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
    assert run("ps")[1] == "there are no deployments\n"
    monkeypatch.setattr(Somewhere, "broken", False)
    assert run("up", *on(app), "--apply")[:2] == (0, "3 there\n")


def test_what_could_not_be_changed_stays_as_it_was(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", *on(app), "--apply")
    before = run("ps", "--json")[1]
    monkeypatch.setattr(Somewhere, "broken", True)
    assert run("up", *on(app), "--scale", f"{POOL}=7", "--apply")[0] == 1
    assert run("ps", "--json")[1] == before


@pytest.mark.parametrize("said", [True, False], ids=["said so", "runs"])
def test_what_was_done_in_part_is_kept(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    def half(self: Somewhere, deployment: Deployment, plan: Plan) -> Iterator[str]:
        if said:
            yield "1 there"
        else:
            self.there[deployment.name] = list(plan.replicas[:1])
        raise DeployFailed("somewhere: there is no more room")

    monkeypatch.setattr(Somewhere, "apply", half)
    assert run("up", *on(app), "--apply")[0] == 1
    assert [each["name"] for each in json.loads(run("ps", "--json")[1])] == ["d"]


def test_a_plan_is_shown_where_what_runs_it_is_away(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Somewhere, deployment: Deployment, plan: Plan) -> None:
        raise DeployFailed("somewhere: no answer")

    monkeypatch.setattr(Somewhere, "running", away)
    status, out, err = run("plan", *on(app), "--json")
    assert (status, json.loads(out)["changes"]) == (0, None)
    assert err == "ganger: what runs is not known: somewhere: no answer\n"
    monkeypatch.setattr(Somewhere, "running", lambda self, deployment, plan: None)
    assert run("plan", *on(app))[2] == "ganger: what runs is not known: somewhere does not say\n"


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
        (("scale", "x=1", "x=1"), "POOL=N: 'x' is given twice"),
        (("up", "{app}", "--scale", "x=1", "--scale", "x=2"), "--scale: 'x' is given twice"),
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


def test_bounds_are_kept_until_others_are_given(run: Run, app: str) -> None:
    def bounds() -> object:
        [shown] = json.loads(run("ps", "--json")[1])
        return shown.get("autoscale")

    run("up", *on(app, "--autoscale", "1:3", "--apply"))
    run("up", *on(app, "--apply"))
    assert bounds() == {"least": 1, "most": 3}
    follows = "each pool follows its load, from 1 to 3 replicas"
    assert follows in run("ps")[1]
    run("up", *on(app, "--autoscale", "off", "--apply"))
    assert bounds() is None
    assert "follows" not in run("ps")[1]


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


def test_what_cannot_be_read_is_said_in_a_line(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", *on(app, "--apply"))

    async def unreadable(self: DeploymentStore) -> list[Any]:
        raise msgspec.ValidationError("Object missing required field `incarnation`")

    said = (
        "Redis: something under 'ganger' cannot be read: ValidationError: Object missing "
        "required field `incarnation`\n"
    )
    monkeypatch.setattr(DeploymentStore, "uses", unreadable)
    for verb in (("plan", *on(app)), ("ps",)):  # they are shown without
        assert run(*verb)[::2] == (0, f"ganger: what workers use is not known: {said}")
    monkeypatch.setattr(DeploymentStore, "loads", unreadable)
    assert run("ps") == (1, "", f"ganger: {said}")


def test_what_could_not_be_scaled_stays_as_it_was(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", *on(app), "--apply")
    before = run("ps", "--json")[1]
    monkeypatch.setattr(Somewhere, "broken", True)
    assert run("scale", f"{POOL}=7")[::2] == (1, "ganger: somewhere: there is no room\n")
    assert run("ps", "--json")[1] == before


def test_what_follows_its_load_is_not_scaled_by_hand(run: Run, app: str) -> None:
    run("up", *on(app, "--autoscale", "1:3", "--apply"))
    before = run("ps", "--json")[1]
    status, _, err = run("scale", f"{POOL}=2")
    assert status == 2
    assert "scale: d follows its load, from 1 to 3 replicas a pool, and would undo this" in err
    assert run("ps", "--json")[1] == before
    status, _, err = run("up", *on(app, "--apply", "--scale", f"{POOL}=2"))
    assert status == 0
    assert "! --scale: d follows its load, so this is only what its pools begin with" in err
    run("up", *on(app, "--autoscale", "off", "--apply"))
    assert run("scale", f"{POOL}=2")[:2] == (0, "2 there\n")


def test_what_is_put_up_again_while_it_is_taken_down_is_not_forgotten(
    run: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", *on(app, "--apply"))

    def overtaken(self: Somewhere, deployment: Deployment) -> Iterator[str]:
        yield "going"
        kept = replace(deployment, leaving=False)
        verbs.Given(None, None, None).ask(lambda store: store.save(kept))

    monkeypatch.setattr(Somewhere, "remove", overtaken)
    said = "ganger: d was put up again meanwhile, by somebody else; it stays\n"
    assert run("down") == (1, "going\n", said)
    assert [each["name"] for each in json.loads(run("ps", "--json")[1])] == ["d"]

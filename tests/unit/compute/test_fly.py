"""The adapter of Fly, against a fake of its API: what there is afterwards."""

import json
from pathlib import Path

import pytest

from ganger.compute.adapter import DeployFailed
from ganger.compute.fly import Fly
from ganger.compute.planning import Replica
from ganger_broker.settings import Settings

from .fake_fly import TOKEN, Answer
from .fly_world import (
    ALL_STARTED,
    DEPLOYMENT,
    FIRST,
    NAMES,
    PLAN,
    SMALL,
    SMALL_POOL,
    World,
    plan,
)

GOLDEN = Path(__file__).parent / "golden" / "fly.txt"


# ── making it so ──────────────────────────────────────────────────────────────────────


def test_each_replica_becomes_a_machine_in_its_region_of_its_size(world: World) -> None:
    world.apply()
    assert world.states() == ALL_STARTED
    regions = {r.worker_id("captions"): r.region for r in PLAN.replicas}
    for machine in world.fly.machines.values():
        command = machine["config"]["init"]["cmd"]
        flags = dict(zip(command[2::2], command[3::2], strict=True))
        assert command[:2] == ["worker", "tasks:app"]
        assert machine["config"]["init"]["entrypoint"] == ["ganger"]
        assert flags["--slots"] == "4"
        assert flags["--region"] == machine["region"] == regions[flags["--id"]]
        assert flags["--id"] == f"captions.{flags['--pool']}.{machine['name'][-1]}"
        assert machine["config"]["image"] == "acme/captions:7"
        assert machine["config"]["restart"] == {"policy": "always"}
    guests = {name: machine["config"]["guest"] for name, machine in world.fly.machines.items()}
    assert guests[FIRST]["memory_mb"] == 1024
    assert guests[NAMES[0]] == {
        "cpu_kind": "performance",
        "cpus": 4,
        "memory_mb": 8192,
        "persist_rootfs": "never",
    }
    assert world.lines[-1] == "captions: has the 4 machines of the plan"


def test_applying_again_changes_nothing(world: World) -> None:
    world.apply()
    world.fly.calls.clear()
    assert world.apply() == ["captions: has the 4 machines of the plan"]
    assert world.fly.asked("^(POST|DELETE)") == []


def test_fly_waits_longer_than_the_worker_drains(world: World) -> None:
    settings = Settings(drain_grace="90s", prefix="blue")
    world.apply(settings=settings)
    config = world.fly.machines[FIRST]["config"]
    assert config["stop_config"] == {"signal": "SIGTERM", "timeout": "105s"}
    assert config["env"] == {"GANGER_DRAIN_GRACE": "90", "GANGER_PREFIX": "blue"}


def test_the_settings_that_a_machine_gets_are_those_of_the_command(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        prefix="blue", queue_type="classic", pickup_deadline="20s", worker_timeout="1m", batch=7
    )
    world.apply(settings=settings)
    for name, value in world.fly.machines[FIRST]["config"]["env"].items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_scaling_down_drains_the_topmost_and_leaves_the_others_alone(world: World) -> None:
    world.apply()
    ids = {name: machine["id"] for name, machine in world.fly.machines.items()}
    world.fly.calls.clear()
    world.apply(plan(scale={SMALL_POOL: 1}))
    assert world.states() == {NAMES[0]: "started", FIRST: "started"}
    assert {name: machine["id"] for name, machine in world.fly.machines.items()} == {
        name: ids[name] for name in NAMES[:2]
    }
    for gone in NAMES[2:]:
        path = f"/v1/apps/captions/machines/{ids[gone]}"
        calls = [call.partition("?")[0] for call in world.fly.asked(ids[gone])]
        assert calls == [f"POST {path}/stop", f"GET {path}/wait", f"DELETE {path}"]
    stops = [body for body in world.fly.bodies if body and "signal" in body]
    assert stops == [{"signal": "SIGTERM", "timeout": "45s"}] * 2


def test_another_image_is_an_update_in_place_and_never_of_all_at_once(world: World) -> None:
    eight = plan(scale={SMALL_POOL: 8})
    world.apply(eight)
    ids = {name: machine["id"] for name, machine in world.fly.machines.items()}
    world.apply(eight, image="acme/captions:8")
    assert {name: machine["id"] for name, machine in world.fly.machines.items()} == ids
    assert {m["config"]["image"] for m in world.fly.machines.values()} == {"acme/captions:8"}
    assert set(world.states().values()) == {"started"}
    assert world.fly.most_at_once_down == 2


def test_a_size_that_somebody_changed_by_hand_is_put_right(world: World) -> None:
    world.apply()
    world.fly.machines[FIRST]["config"]["guest"]["memory_mb"] = 512
    assert f"{FIRST}: updated" in world.apply()
    assert world.fly.machines[FIRST]["config"]["guest"]["memory_mb"] == 1024


@pytest.mark.parametrize("state", ["stopped", "suspended", "created", "failed"])
def test_what_rests_is_started(world: World, state: str) -> None:
    world.apply()
    world.fly.machines[FIRST]["state"] = state
    assert f"{FIRST}: started" in world.apply()
    assert world.states() == ALL_STARTED


def test_a_replica_that_moves_leaves_before_it_comes(world: World) -> None:
    world.apply(plan(SMALL))
    ids = {machine["id"]: machine["region"] for machine in world.fly.machines.values()}
    moved = plan(SMALL, seed="seed-2")
    regions = {r.number: r.region for r in moved.replicas}
    assert {int(m["name"][-1]): m["region"] for m in world.fly.machines.values()} != regions
    world.apply(moved)
    machines = world.fly.machines.values()
    assert {int(m["name"][-1]): m["region"] for m in machines} == regions
    assert set(world.states().values()) == {"started"}
    assert {m["id"] for m in machines} & set(ids), "who need not move does not"


def test_a_copy_of_a_machine_goes_and_what_is_not_ours_stays(world: World) -> None:
    world.apply()
    machines = world.fly.apps["captions"]
    original = world.fly.machines[FIRST]
    machines["copy"] = {**original, "id": "copy", "name": "young-sun-12"}
    other = {**original["config"], "metadata": {"fly_process_group": "app"}}
    machines["web"] = {**original, "id": "web", "name": "web", "config": other}
    marked = {**original["config"]["metadata"], "ganger_deployment": "thumbnails"}
    theirs = {**original["config"], "metadata": marked}
    machines["theirs"] = {**original, "id": "theirs", "name": "thumbnails-1", "config": theirs}
    world.apply()
    assert set(world.states()) == {*NAMES, "web", "thumbnails-1"}


def test_scaled_to_nothing_there_is_nothing(world: World) -> None:
    world.apply()
    world.apply(plan(scale={SMALL_POOL: 0, PLAN.pools[0].pool.name: 0}))
    assert world.states() == {}


def test_removing_drains_and_destroys_and_leaves_the_app(world: World) -> None:
    world.apply()
    world.fly.machines[FIRST]["state"] = "stopped"
    lines = list(world.adapter().remove(DEPLOYMENT))
    assert world.states() == {}
    assert "captions" in world.fly.apps
    assert len(world.fly.asked("/stop$")) == 3
    assert f"{FIRST}: destroyed" in lines
    assert f"{NAMES[2]}: draining" in lines
    assert list(world.adapter().remove(DEPLOYMENT)) == []
    assert list(world.adapter(app="other").remove(DEPLOYMENT)) == [
        "other: there is no such app, and so nothing to remove"
    ]


def test_one_that_does_not_stop_is_destroyed_anyway(world: World) -> None:
    world.apply()
    world.fly.deaf.add(FIRST)
    lines = list(world.adapter().remove(DEPLOYMENT))
    assert f"{FIRST}: destroyed, though it had not stopped" in lines
    assert len(world.fly.asked("force=true")) == 1
    assert world.states() == {}


def test_one_that_does_not_start_is_said(world: World) -> None:
    world.fly.slow_starters.add(FIRST)
    with pytest.raises(DeployFailed, match=rf"{FIRST}: did not start .* fly logs --app captions"):
        world.apply()
    assert set(world.states()) == set(NAMES)
    world.fly.slow_starters.clear()
    world.apply()
    assert world.states() == ALL_STARTED


# ── what there is ─────────────────────────────────────────────────────────────────────


def test_what_runs_is_read_from_the_machines(world: World) -> None:
    assert world.adapter().running(DEPLOYMENT, PLAN) == []
    world.apply()
    assert world.adapter().running(DEPLOYMENT, PLAN) == sorted(PLAN.replicas)
    machine = world.fly.machines[FIRST]
    machine["state"] = "destroying"
    left = world.adapter().running(DEPLOYMENT, PLAN)
    assert left is not None
    assert set(PLAN.replicas) - set(left) == {Replica(SMALL_POOL, 1, machine["region"])}
    assert world.adapter(app="other").running(DEPLOYMENT, PLAN) == []


def test_a_machine_whose_host_is_out_of_reach_is_there_all_the_same(world: World) -> None:
    world.apply()
    machine = world.fly.machines[FIRST]
    listed = [{**m, "incomplete_config": m["config"]} for m in world.fly.machines.values()]
    for each in listed:
        if each["name"] == machine["name"]:
            each["config"] = None
    world.fly.fail(r"^GET .*/machines\?", Answer(200, listed))
    assert world.adapter().running(DEPLOYMENT, PLAN) == sorted(PLAN.replicas)


def test_without_a_token_nothing_can_be_told_nor_done(world: World) -> None:
    adapter = world.adapter(token=None)
    assert adapter.running(DEPLOYMENT, PLAN) is None
    with pytest.raises(DeployFailed, match="fly tokens create deploy --app captions"):
        list(adapter.apply(DEPLOYMENT, PLAN))
    with pytest.raises(DeployFailed, match="FLY_API_TOKEN is not set"):
        list(adapter.remove(DEPLOYMENT))
    assert world.fly.calls == []


# ── what it would send ────────────────────────────────────────────────────────────────


def test_what_is_rendered_is_the_golden_file(world: World) -> None:
    settings = Settings(broker_url="amqp://ada:open-sesame@rabbit:5672/", prefix="blue")
    options = {"app": "captions", "image": "acme/captions:7", "org": "acme"}
    adapter = Fly(settings, options, environment={"FLY_API_TOKEN": TOKEN})
    texts = adapter.render(DEPLOYMENT, PLAN)
    rendered = "".join(f"── {name}\n{text}" for name, text in texts.items())
    assert rendered == GOLDEN.read_text()
    assert "open-sesame" not in rendered
    assert TOKEN not in rendered
    assert rendered == "".join(
        f"── {name}\n{text}"
        for name, text in Fly(settings, options, environment={}).render(DEPLOYMENT, PLAN).items()
    ), "it needs no token"


def test_what_is_rendered_is_what_is_sent(world: World) -> None:
    texts = world.adapter().render(DEPLOYMENT, PLAN)
    world.apply()
    rendered = [json.loads(text) for text in texts.values()]
    assert {call["method"] for call in rendered} == {"POST"}
    assert {call["url"] for call in rendered} == {f"{world.fly.url}/v1/apps/captions/machines"}
    sent = {body["name"]: body for body in world.fly.bodies if body}
    assert {call["body"]["name"]: call["body"] for call in rendered} == sent

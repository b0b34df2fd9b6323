"""The adapter of Fly, against a fake of its API: what there is afterwards, whatever goes wrong."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from ganger import Compute, InvalidInput
from ganger.compute.adapter import DeployAdapter, DeployFailed, make_adapter
from ganger.compute.fly import Fly
from ganger.compute.fly.api import MOST_TRIES
from ganger.compute.planning import Plan, Replica, make_plan
from ganger.compute.pools import Pool, Pools
from ganger_broker.deployments import Deployment
from ganger_broker.settings import Settings

from .fake_fly import TOKEN, Answer, FakeFly, fake_fly

GOLDEN = Path(__file__).parent / "golden" / "fly.txt"
SMALL = Compute(
    cpu_kind="shared", cpus=2, memory_mb=1024, num_replicas=3, regions=["fra", "iad", "nrt"]
)
LARGE = Compute(cpu_kind="performance", cpus=4, memory_mb=8192, regions=["fra"])
DEPLOYMENT = Deployment("captions", "tasks:app", "fly", "seed-1", slots=4, created_at=0)
NAMES = [
    "captions-performance-4cpu-8192mb-fra-1",
    *(f"captions-shared-2cpu-1024mb-fra-iad-nrt-{number}" for number in (1, 2, 3)),
]
FIRST = NAMES[1]


def plan(*computes: Compute, scale: Mapping[str, int] | None = None, seed: str = "seed-1") -> Plan:
    pools, names = {}, Pools()
    for compute in computes or (SMALL, LARGE):
        name = names.name_of(compute)
        pools[name] = Pool(name, compute, ("caption:caption",))
    return make_plan("captions", seed, pools, scale)


PLAN = plan()
SMALL_POOL = PLAN.pools[1].pool.name


@dataclass
class World:
    """The fake, and adapters that talk to it; ``slept`` is how long they would have waited."""

    fly: FakeFly
    slept: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def adapter(
        self, *, token: str | None = TOKEN, settings: Settings | None = None, **options: str
    ) -> Fly:
        given = {"app": "captions", "image": "acme/captions:7", "api": self.fly.url, **options}
        environment = {} if token is None else {"FLY_API_TOKEN": token}
        return Fly(settings or Settings(), given, environment=environment, sleep=self.slept.append)

    def apply(self, plan: Plan = PLAN, **options: Any) -> list[str]:
        """Apply, and what it said."""
        self.lines = []
        for line in self.adapter(**options).apply(DEPLOYMENT, plan):
            self.lines.append(line)
        return self.lines

    def states(self) -> dict[str, str]:
        return {name: machine["state"] for name, machine in sorted(self.fly.machines.items())}


@pytest.fixture
def world() -> Iterator[World]:
    with fake_fly() as fly:
        yield World(fly)


ALL_STARTED = dict.fromkeys(NAMES, "started")


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


# ── what goes wrong in passing ────────────────────────────────────────────────────────

CREATE = r"^POST .*/machines$"


def test_too_many_requests_are_made_as_late_as_fly_asks(world: World) -> None:
    world.fly.fail(
        CREATE,
        Answer(429, {"error": "rate limit exceeded"}, {"Retry-After": "7"}),
        Answer(429, "slow down"),
        Answer(429, "slow down"),
    )
    world.apply()
    assert world.states() == ALL_STARTED
    asked, *backing_off = world.slept
    assert 7 <= asked <= 8
    assert all(
        least <= slept <= least + 1 for least, slept in zip((2, 4), backing_off, strict=True)
    )


def test_fly_may_ask_for_a_date(world: World) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    world.fly.fail(
        CREATE, Answer(429, "", {"Retry-After": date}), Answer(429, "", {"Retry-After": "?"})
    )
    world.apply()
    assert 30 < world.slept[0] <= 41
    assert world.slept[1] <= 3


@pytest.mark.parametrize(
    "lost",
    [Answer(0), Answer(502, "bad gateway"), Answer(504, {"error": "timeout"})],
    ids=["dropped", "502", "504"],
)
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_a_lost_answer_makes_no_second_machine(world: World, lost: Answer, done: bool) -> None:
    world.fly.fail(CREATE, Answer(lost.status, lost.body, done=done))
    world.apply()
    assert world.states() == ALL_STARTED
    assert len(world.fly.asked(CREATE)) == (4 if done else 5)
    assert len(world.slept) == 1


def test_a_lost_answer_makes_no_second_machine_though_the_list_lags_behind(world: World) -> None:
    world.fly.fail(CREATE, Answer(0, done=True))
    world.fly.fail(r"GET .*/machines\?", Answer(200, []), Answer(200, []))
    world.apply()
    assert world.states() == ALL_STARTED
    assert len(world.fly.asked(CREATE)) == 5, "the name was taken, and then it was found"


@pytest.mark.parametrize("call", [r"^GET ", r"/wait", r"/stop", r"^DELETE"])
def test_whatever_is_lost_once_is_asked_again(world: World, call: str) -> None:
    world.fly.fail(call, Answer(0, done=True), Answer(503, "unavailable"))
    world.apply()
    world.apply(plan(scale={SMALL_POOL: 1}))
    assert world.states() == {NAMES[0]: "started", FIRST: "started"}
    assert len(world.slept) == 2


def test_what_fails_for_long_is_given_up_with_fly_s_words(world: World) -> None:
    world.fly.fail(CREATE, *[Answer(503, {"error": "flaps is down"})] * MOST_TRIES)
    with pytest.raises(DeployFailed) as raised:
        world.apply()
    assert str(raised.value) == (
        "POST /v1/apps/captions/machines: 503: flaps is down (tried 8 times)"
    )
    assert 60 < sum(world.slept) < 180
    world.apply()
    assert world.states() == ALL_STARTED


def test_a_fly_that_cannot_be_reached_is_said() -> None:
    slept: list[float] = []
    options = {"app": "captions", "image": "acme/captions:7", "api": "http://127.0.0.1:9"}
    environment = {"FLY_API_TOKEN": TOKEN}
    adapter = Fly(Settings(), options, environment=environment, sleep=slept.append)
    with pytest.raises(DeployFailed, match=r"^GET /v1/apps/captions: .*refused.*tried 8 times"):
        adapter.running(DEPLOYMENT, PLAN)
    assert len(slept) == MOST_TRIES - 1


# ── what Fly refuses ──────────────────────────────────────────────────────────────────


def refusal(world: World, plan: Plan = PLAN, **options: Any) -> str:
    """What an apply that Fly refuses says; it has not been tried again."""
    with pytest.raises(DeployFailed) as raised:
        world.apply(plan, **options)
    assert world.slept == []
    return str(raised.value)


def test_a_token_that_is_refused_says_how_to_get_one(world: World) -> None:
    said = refusal(world, token="fo1_old")  # noqa: S106
    assert said == (
        "GET /v1/apps/captions: 401: unauthorized. FLY_API_TOKEN was refused; get one for the "
        "app with: fly tokens create deploy --app captions"
    )


@pytest.mark.parametrize("token", ["fo1\nold", "fo1-ö", "fo1_\x00secret"])
def test_what_cannot_be_a_token_is_not_printed(world: World, token: str) -> None:
    said = refusal(world, token=token)
    assert "FLY_API_TOKEN is no token" in said
    assert "fo1" not in said


def test_the_token_goes_in_the_header_alone(world: World) -> None:
    world.apply(token=f" {TOKEN}\n")
    assert world.fly.authorizations == {f"Bearer {TOKEN}"}
    assert TOKEN not in "".join([*world.fly.calls, *map(str, world.fly.bodies), *world.lines])


def test_an_image_that_is_not_there_stops_at_the_first_machine(world: World) -> None:
    assert refusal(world, image="acme/captions:latest") == (
        "POST /v1/apps/captions/machines: 400: failed to get manifest acme/captions:latest: "
        "unknown image"
    )
    assert world.states() == {}


def test_a_size_that_fly_does_not_have_is_said_in_its_words(world: World) -> None:
    three = Compute(cpu_kind="shared", cpus=3, memory_mb=768, regions=["fra"])
    assert "422: invalid_argument: invalid config.guest: 3 cpus" in refusal(world, plan(three))
    odd = Compute(cpu_kind="shared", cpus=1, memory_mb=300, regions=["fra"])
    with pytest.raises(DeployFailed, match=r"^memory_mb: 300: .*such as 512"):
        world.adapter().render(DEPLOYMENT, plan(odd))


def test_no_room_in_a_region_is_said_and_the_rest_follows_when_there_is(world: World) -> None:
    body = {"error": "insufficient resources in fra", "status": "insufficient_capacity"}
    world.fly.fail(CREATE, Answer(422, body))
    assert refusal(world).endswith("machines: 422: insufficient resources in fra")
    world.apply()
    assert world.states() == ALL_STARTED


def test_a_machine_that_somebody_leases_is_not_touched(world: World) -> None:
    world.apply()
    world.fly.leased.add(world.fly.machines[FIRST]["id"])
    said = refusal(world, image="acme/captions:8")
    assert "409: machine ID" in said
    assert "lease currently held by ada@example.org" in said
    world.fly.leased.clear()
    world.apply(image="acme/captions:8")
    assert {m["config"]["image"] for m in world.fly.machines.values()} == {"acme/captions:8"}


def test_a_name_that_is_another_machine_s_is_said(world: World) -> None:
    world.apply()
    world.fly.machines[FIRST]["config"]["metadata"] = {}
    assert "already exists with name" in refusal(world)


def test_one_that_is_destroyed_meanwhile_is_gone(world: World) -> None:
    world.apply()
    id = world.fly.machines[FIRST]["id"]
    world.fly.fail(f"{id}/stop", Answer(404, {"error": "machine not found"}))
    world.fly.fail(f"{id}/wait", Answer(404, {"error": "machine not found"}))
    world.fly.fail(f"DELETE .*{id}", Answer(404, {"error": "machine not found"}))
    assert f"{FIRST}: destroyed" in list(world.adapter().remove(DEPLOYMENT))


@pytest.mark.parametrize("body", ["<html>", '{"id": 7}', "[]", "\xff"])
def test_an_answer_that_is_none_is_said(world: World, body: str) -> None:
    world.fly.fail(CREATE, Answer(200, body))
    assert "Fly's answer is not understood" in refusal(world)


# ── the app ───────────────────────────────────────────────────────────────────────────


def test_an_app_that_is_missing_has_to_be_made(world: World) -> None:
    assert "fly apps create thumbnails" in refusal(world, app="thumbnails")
    assert "thumbnails" not in world.fly.apps


def test_an_app_is_made_where_the_organisation_is_given_and_wants_its_secret(world: World) -> None:
    said = refusal(world, app="thumbnails", org="acme")
    assert "fly secrets set --stage --app thumbnails GANGER_BROKER_URL=" in said
    assert world.lines == ["thumbnails: app made in acme"]
    assert world.fly.apps["thumbnails"] == {}
    world.apply(app="thumbnails", org="acme")
    assert set(world.states()) == set(NAMES)


def test_an_app_whose_answer_was_lost_is_made_once(world: World) -> None:
    world.fly.fail(r"^POST /v1/apps$", Answer(0, done=True))
    with pytest.raises(DeployFailed, match="does not know the broker yet"):
        world.apply(app="thumbnails", org="acme")
    assert world.lines == ["thumbnails: app made in acme"]


def test_an_app_s_name_that_is_somebody_else_s_is_said(world: World) -> None:
    said = refusal(world, app="everybodys", org="acme")
    assert said == "POST /v1/apps: 422: Validation failed: Name has already been taken"


# ── the options ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--set app: is missing; it must be 1 to 63 lower case letters"),
        ({"app": "../x", "image": "a:1"}, "--set app: '../x' must be"),
        ({"app": "captions"}, "--set image: is missing; it must be a container image"),
        ({"app": "captions", "image": "a b"}, "--set image: 'a b' must be"),
        ({"app": "captions", "image": "a:1", "org": ""}, "--set org: '' must be"),
        ({"app": "captions", "image": "a:1", "api": "fly"}, "--set api: must be a URL such as"),
        ({"app": "captions", "image": "a:1", "api": "http://u:p@x"}, "--set api: must be a URL"),
        ({"app": "captions", "image": "a:1", "token": "fo1"}, "--set: fly takes no 'token'"),
    ],
)
def test_a_wrong_option_names_itself(options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        make_adapter("fly", Settings(), options)
    assert str(raised.value).startswith(said)


def test_it_is_found_by_its_name() -> None:
    made: DeployAdapter = make_adapter("fly", Settings(), {"app": "a", "image": "acme/a:1"})
    assert isinstance(made, Fly)


def test_a_name_that_would_be_too_long_is_short_and_one_s_own(world: World) -> None:
    many = Compute(
        cpu_kind="performance",
        cpus=16,
        memory_mb=131_072,
        num_replicas=2,
        regions=["ams", "fra", "iad", "nrt"],
    )
    deployment = Deployment("a-name-of-thirty-two-characters-", "t:app", "fly", "s", 1, 0)
    list(world.adapter().apply(deployment, plan(many)))
    names = set(world.states())
    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)
    assert list(world.adapter().apply(deployment, plan(many))) == [
        "captions: has the 2 machines of the plan"
    ]

"""The adapter of Fly, where something is lost, refused or wrong."""

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import tenacity

from ganger import Compute, InvalidInput
from ganger.compute.adapter import DeployAdapter, DeployFailed, make_adapter
from ganger.compute.fly import Fly
from ganger.compute.fly import api as api_module
from ganger.compute.fly.adapter import LOOK_PATIENCE
from ganger.compute.fly.api import MOST_TRIES, MachinesApi
from ganger.compute.fly.machines import Machine
from ganger.compute.planning import Plan
from ganger_broker.deployments import Deployment
from ganger_broker.settings import Settings

from .fake_fly import TOKEN, Answer
from .fly_world import ALL_STARTED, DEPLOYMENT, FIRST, NAMES, PLAN, SMALL_POOL, World, plan

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


def test_a_fly_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    options = {"app": "captions", "image": "acme/captions:7", "api": "http://127.0.0.1:9"}
    environment = {"FLY_API_TOKEN": TOKEN}
    adapter = Fly(Settings(), options, environment=environment, sleep=slept.append)
    with pytest.raises(DeployFailed, match=r"^GET /v1/apps/captions: .*refused.*tried 8 times"):
        list(adapter.apply(DEPLOYMENT, PLAN))
    assert len(slept) == MOST_TRIES - 1
    slept.clear()
    monkeypatch.setattr(tenacity.time, "monotonic", lambda: sum(slept))
    with pytest.raises(DeployFailed, match=r"^GET /v1/apps/captions: .*refused.*tried \d times"):
        adapter.running(DEPLOYMENT, PLAN)  # a plan does not wait for it for long
    assert 0 < sum(slept) <= LOOK_PATIENCE


def test_a_fly_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    def never(self: httpx.Client, method: str, path: str, **given: Any) -> httpx.Response:
        timeout: httpx.Timeout = given["timeout"]
        assert timeout.read is not None
        pass_by(timeout.read)
        raise httpx.ReadTimeout("")

    monkeypatch.setattr(httpx.Client, "request", never)
    monkeypatch.setattr(tenacity.time, "monotonic", lambda: now)
    with MachinesApi("http://fly", "captions", TOKEN, pass_by) as api:
        with pytest.raises(DeployFailed, match=r"ReadTimeout \(tried 5 times\)"):
            api.has_app()
        assert 90 < now < 130
        machine, now = Machine("7", "m", "created", "fra"), 0.0
        with pytest.raises(DeployFailed, match=r"ReadTimeout \(tried 2 times\)"):
            api.reaches(machine, "started", 600)
        assert 90 < now < 170


def test_what_fly_asks_to_be_waited_for_is_not_counted(world: World) -> None:
    slow = [Answer(429, "slow down", {"Retry-After": "100"})] * 3
    world.fly.fail(CREATE, *slow)
    world.apply()
    assert world.states() == ALL_STARTED
    assert sum(world.slept) >= 300


def test_a_socket_that_accepts_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api_module, "ANSWER", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        said = r"^GET /v1/apps/captions: timed out \(tried once\)"
        with (
            MachinesApi(url, "captions", TOKEN, lambda seconds: None, patience=0.5) as api,
            pytest.raises(DeployFailed, match=said),
        ):
            api.has_app()


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


@pytest.mark.parametrize("echoed", ["Bearer {}", "{}", "header: {parts}", "x" * 480 + " {}"])
def test_a_token_that_fly_says_again_is_not_shown(world: World, echoed: str) -> None:
    token = "FlyV1 fm2_SECRETSECRET,fm2_OTHERSECRET"  # noqa: S105 - of nobody
    body = echoed.format(token, parts="fm2_OTHERSECRET")
    for answer in (Answer(401, {"error": f"bad token {body}"}), Answer(400, f"<p>{body}</p>")):
        world.fly.fail(r"^GET /v1/apps/captions$", answer)
        said = refusal(world, token=token)
        assert "SECRET" not in said
        assert "fm2_" not in said


def test_a_token_in_what_fly_has_is_not_shown(world: World) -> None:
    world.fly.fail(CREATE, Answer(200, {"id": "7", "name": f"m {TOKEN}", "state": "?"}))
    said = refusal(world)
    assert "Fly's answer is not understood" in said
    named = {"id": "7", "name": f"m {TOKEN}", "state": "started", "region": "fra"}
    world.fly.fail(r"^GET .*/machines\?", Answer(200, [named]))
    with MachinesApi(world.fly.url, "captions", TOKEN, world.slept.append) as api:
        assert [machine.name for machine in api.machines("captions")] == ["m …"]


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

"""``--on compose``: the file, what docker is asked, and what it answers."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganger import InvalidInput
from ganger.compute.adapter import DeployFailed, make_adapter
from ganger.compute.compose import Compose
from ganger.compute.planning import Plan
from ganger_broker.deployments import Autoscale

from .cases import GOLDEN, IMAGE, LARGE, SMALL, deployment, plan_of, settings
from .fakes import FakeProgram

SMALL_POOL = "shared-2cpu-1024mb-fra-iad-sin"
LARGE_POOL = "performance-4cpu-8192mb-fra"
BROKER = "amqp://me:secret@rabbitmq:5672/"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    return FakeProgram("docker", tmp_path, monkeypatch)


def adapter(**given: str) -> Compose:
    return Compose(settings(broker_url=BROKER), IMAGE | given)


def file(plan: Plan, **given: str) -> Any:
    [(name, text)] = adapter(**given).render(deployment(on="compose"), plan).items()
    assert name == "compose.yaml"
    return yaml.safe_load(text)


# ── the file ──────────────────────────────────────────────────────────────────────────────


def test_a_pool_and_region_has_a_service_with_its_replicas() -> None:
    plan = plan_of(SMALL, LARGE)
    services = file(plan)["services"]
    assert {
        (each["labels"]["ganger.pool"], each["labels"]["ganger.region"]): each["deploy"]["replicas"]
        for each in services.values()
    } == {
        (planned.pool.name, region): replicas
        for planned in plan.pools
        for region, replicas in planned.per_region.items()
    }


def test_a_service_is_the_machine_that_its_compute_says() -> None:
    [service] = file(plan_of(LARGE))["services"].values()
    assert service["deploy"]["resources"]["limits"] == {"cpus": "4", "memory": "8192M"}
    assert [*service["entrypoint"], *service["command"]] == [
        *("ganger", "worker", "etl:app", "--pool", LARGE_POOL),
        *("--region", "fra", "--slots", "4"),
    ]


def test_the_broker_is_given_by_reference_and_one_that_is_missing_is_an_error() -> None:
    made = file(plan_of(LARGE))
    assert "secret" not in str(made)
    [service] = made["services"].values()
    assert service["environment"]["GANGER_BROKER_URL"].startswith("${GANGER_BROKER_URL:?")


def test_every_service_ends_after_its_worker_and_says_how_it_is() -> None:
    for service in file(plan_of(SMALL, LARGE))["services"].values():
        grace = int(service["environment"]["GANGER_DRAIN_GRACE"])
        assert int(service["stop_grace_period"].removesuffix("s")) >= grace + 10
        *way, test = service["healthcheck"]["test"]
        assert way == ["CMD", "sh", "-c"]
        assert service["environment"]["GANGER_HEALTH_FILE"] in test
        assert "$" not in test.replace("$$", "")
        assert service["restart"] == "unless-stopped"


def test_a_region_without_replicas_has_no_service() -> None:
    one = file(plan_of(SMALL, LARGE, scale={SMALL_POOL: 1, LARGE_POOL: 0}))
    assert len(one["services"]) == 1


def test_a_network_that_is_there_is_joined() -> None:
    joined = file(plan_of(LARGE), network="ganger_default")
    assert joined["networks"]["default"] == {"name": "ganger_default", "external": True}
    assert "networks" not in file(plan_of(LARGE))


def test_its_project_is_never_that_of_the_servers() -> None:
    made = adapter().render(deployment(name="ganger"), plan_of(LARGE))
    servers = yaml.safe_load((Path(__file__).parents[3] / "compose.yaml").read_text())
    assert yaml.safe_load(made["compose.yaml"])["name"] != servers["name"]
    with pytest.raises(InvalidInput, match=r"--set project: 'ganger' must be .* not ganger"):
        adapter(project=servers["name"])


def test_docker_compose_takes_the_file_where_it_is() -> None:
    """What every such file has to be is checked here; docker checks the rest where it is."""
    text = (GOLDEN / "compose.yaml").read_text()
    for name, service in yaml.safe_load(text)["services"].items():
        assert len(name) <= 63
        assert {"image", "command", "environment", "deploy", "healthcheck"} <= set(service)
        assert all(isinstance(value, str) for value in service["environment"].values())
        assert all(isinstance(value, str) for value in service["labels"].values())
    config = ["docker", "compose", "-f", "-", "config", "--quiet"]
    environment = {"GANGER_BROKER_URL": BROKER, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    if _has_compose():
        subprocess.run(config, input=text, text=True, check=True, env=environment)


def _has_compose() -> bool:
    try:
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return asked.returncode == 0


# ── docker ────────────────────────────────────────────────────────────────────────────────


def test_what_runs_is_the_plans_own_replicas(docker: FakeProgram) -> None:
    plan = plan_of(SMALL)
    lines = [f"{replica.pool} {replica.region}\n" for replica in plan.replicas]
    docker.answers("ps", "".join(lines) + " \n")
    assert sorted(adapter().running(deployment(), plan) or []) == sorted(plan.replicas)
    assert docker.commands == [
        "ps --filter label=com.docker.compose.project=ganger-etl "
        '--format {{.Label "ganger.pool"}} {{.Label "ganger.region"}}'
    ]


def test_a_docker_that_does_not_answer_is_not_an_empty_one(docker: FakeProgram) -> None:
    docker.answers("ps", err="Cannot connect to the Docker daemon", status=1)
    assert adapter().running(deployment(), plan_of(LARGE)) is None


def test_compose_is_given_the_file_and_the_broker(docker: FakeProgram) -> None:
    docker.answers(" up ", err=" Container ganger-etl-1  Started\n")
    plan = plan_of(LARGE)
    said = list(adapter().apply(deployment(), plan))
    assert said[-1] == " Container ganger-etl-1  Started"
    assert docker.commands == [
        "compose version",
        "compose -p ganger-etl -f - up --detach --remove-orphans --timeout 45",
    ]
    assert docker.asked[-1]["url"] == BROKER
    [text] = adapter().render(deployment(), plan).values()
    assert docker.asked[-1]["given"] == text


def test_a_plan_of_nothing_ends_the_project(docker: FakeProgram) -> None:
    list(adapter(project="mine").apply(deployment(), plan_of(LARGE, scale={LARGE_POOL: 0})))
    assert docker.commands[-1] == "compose -p mine down --remove-orphans --timeout 45"


def test_removing_lets_the_workers_drain(docker: FakeProgram) -> None:
    said = list(adapter().remove(deployment()))
    assert said == ["its workers have 45 s to drain and end"]
    assert docker.commands[-1] == "compose -p ganger-etl down --remove-orphans --timeout 45"


def test_what_compose_refuses_is_said_in_its_words(docker: FakeProgram) -> None:
    docker.answers(" up ", err="pull access denied for etl", status=18)
    with pytest.raises(DeployFailed, match="docker: pull access denied for etl"):
        list(adapter().apply(deployment(), plan_of(LARGE)))


def test_without_compose_it_says_what_to_do(docker: FakeProgram) -> None:
    docker.answers("compose", err="docker: unknown command: docker compose", status=1)
    with pytest.raises(DeployFailed, match=r"no docker compose here \(.*unknown.*\); install it"):
        list(adapter().apply(deployment(), plan_of(LARGE)))
    assert docker.commands == ["compose version"]


@pytest.mark.parametrize(
    "url", ["memory://", "amqp://guest:guest@127.0.0.1:5672/", "amqp://localhost/"]
)
def test_a_broker_that_containers_cannot_reach_is_refused(docker: FakeProgram, url: str) -> None:
    made = Compose(settings(broker_url=url), IMAGE)
    with pytest.raises(InvalidInput, match=r"broker_url: in .* is the container itself"):
        list(made.apply(deployment(), plan_of(LARGE)))
    assert docker.commands == []


def test_compose_follows_no_load() -> None:
    with pytest.raises(InvalidInput, match="--autoscale: compose scales nothing by itself"):
        adapter().render(deployment(on="compose", autoscale=Autoscale(1, 2)), plan_of(LARGE))


def test_it_is_found_by_its_name_and_names_what_is_wrong() -> None:
    assert isinstance(make_adapter("compose", settings(), IMAGE), Compose)
    with pytest.raises(InvalidInput, match=r"--set image=…: is needed.*; --set project: 'A' must"):
        make_adapter("compose", settings(), {"project": "A"})

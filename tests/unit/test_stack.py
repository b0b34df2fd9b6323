"""compose.yaml and the Dockerfile name what is there: settings, verbs, flags, pools, ports, files.

Nothing here can start them, so each thing that they take from the code is held to it.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ganger import Ganger
from ganger.cli import _commands
from ganger.cli.loading import load
from ganger.compute.deploying import deployment_of, name_from, plan_of
from ganger_broker.settings import Settings, environment_name

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STACK = {n: s for n, s in COMPOSE["services"].items() if s.get("profiles") == ["stack"]}
WORKERS = {n: s for n, s in STACK.items() if s["command"][0] == "worker"}
VARIABLES = {environment_name(name): name for name in Settings.model_fields}


def flags_of(verb: str) -> set[str]:
    """The flags that a verb takes."""
    command = typer.main.get_command(_commands()).commands[verb]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def flags_given(words: list[str]) -> dict[str, str]:
    return {word: value for word, value in pairwise(words) if word.startswith("--")}


def test_without_a_profile_there_are_only_the_servers() -> None:
    assert COMPOSE["services"].keys() - STACK.keys() == {"rabbitmq", "redis"}
    assert sum(service["command"] == ["dispatcher"] for service in STACK.values()) == 2
    assert len(WORKERS) == 3


@pytest.mark.parametrize("name", STACK)
def test_a_service_has_a_command_and_settings_that_there_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = STACK[name]
    verb, *words = service["command"]
    assert flags_given(words).keys() <= flags_of(verb)
    for variable, value in service["environment"].items():
        assert variable in VARIABLES, variable
        monkeypatch.setenv(variable, value)
    settings = Settings.load()  # every value is one
    for server, url in (("rabbitmq", settings.broker_url), ("redis", settings.redis_url)):
        host, port = re.findall(r"([a-z]+):(\d+)/", url)[0]
        assert host == server
        assert f":{port}" in COMPOSE["services"][server]["ports"][0]
        assert service["depends_on"][server] == {"condition": "service_healthy"}
        assert "healthcheck" in COMPOSE["services"][server]
    assert int(service["stop_grace_period"].rstrip("s")) > settings.drain_grace


@pytest.mark.parametrize("name", WORKERS)
def test_a_pool_of_the_stack_is_one_of_its_app(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = WORKERS[name]
    [mount] = service["volumes"]
    folder, inside, _ = mount.split(":")
    monkeypatch.chdir(ROOT / folder)
    assert f"WORKDIR {inside}\n" in DOCKERFILE  # where `ganger worker` looks for modules
    _, target, *words = service["command"]
    given = flags_given(words)
    pool = load(target).pools[given["--pool"]]  # type: ignore[union-attr]
    assert given["--region"] in pool.compute.regions
    assert service["cpus"] == pool.compute.cpus
    assert service["mem_limit"] == f"{pool.compute.memory_mb}m"


def test_the_stack_has_the_replicas_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    app, name = load("compute:app"), name_from("compute:app")
    assert isinstance(app, Ganger)
    planned = plan_of(
        deployment_of(app, "compute:app", name=name, on="compose", now=0, slots=4, folder="")
    )
    given = {}
    for service in WORKERS.values():
        flags = flags_given(service["command"])
        given[flags["--pool"], flags["--region"]] = service["deploy"]["replicas"]
    assert given == {
        (pool.pool.name, region): count
        for pool in planned.pools
        for region, count in pool.per_region.items()
        if count
    }


def test_what_a_dispatcher_measures_is_at_its_port() -> None:
    for name in ("dispatcher-1", "dispatcher-2"):
        service = STACK[name]
        [published] = service["ports"]
        assert published.rpartition(":")[2] == service["environment"]["GANGER_METRICS_PORT"]


def test_the_image_is_of_what_there_is() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path).exists(), path
            assert f"!{path}" in ignored, path
    variables = re.findall(r"\b(GANGER_[A-Z_]+)=", DOCKERFILE)
    assert variables
    assert set(variables) <= VARIABLES.keys()
    extras = re.findall(r"\[(\w+)\]'", DOCKERFILE)
    declared = (ROOT / "pyproject.toml").read_text()
    assert extras
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras)


def test_the_image_runs_as_nobody_in_particular_and_says_how_it_is() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "useradd --uid 10001 --create-home ganger" in last
    assert re.search(r"^USER 10001$", last, re.MULTILINE), "runAsNonRoot takes no names"
    assert re.search(r'^ENTRYPOINT \["ganger"\]$', last, re.MULTILINE)
    assert "$GANGER_HEALTH_FILE" in last.partition("HEALTHCHECK")[2]

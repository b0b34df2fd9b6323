"""How the servers the tests need are found: in order, and never silently not at all."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tools import with_services
from tools.with_services import Missing, Service

DEFAULT = "amqp://guest:guest@127.0.0.1:5672/"
PRIVATE = "amqp://guest:guest@127.0.0.1:1234/"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine on which nothing is there, to add to."""
    machine = SimpleNamespace(answering=set(), installed=False, docker=False, ran=[], stopped=[])

    def run(words: list[str], **_: Any) -> SimpleNamespace:
        machine.ran.append(words)
        if words[:3] == ["/docker", "compose", "up"]:
            machine.answering.add(DEFAULT)
        if words[:2] == ["apt-get", "install"]:
            machine.installed = True
        return SimpleNamespace(returncode=0)

    def which(name: str, **_: Any) -> str | None:
        return f"/{name}" if getattr(machine, name.replace("-", "_"), False) else None

    monkeypatch.delenv("GANGER_BROKER_URL", raising=False)
    monkeypatch.delenv("GANGER_TEST_SERVICES", raising=False)
    monkeypatch.setattr(with_services.shutil, "which", which)
    monkeypatch.setattr(with_services.subprocess, "run", run)
    monkeypatch.setattr(with_services.os, "geteuid", lambda: 0 if machine.apt_get else 1000)
    monkeypatch.setattr(with_services, "find", lambda _: "/found" if machine.installed else None)
    machine.apt_get = False
    return machine


def url(machine: SimpleNamespace) -> str:
    """What is found, and given back at once."""

    def start(_: Path) -> SimpleNamespace:
        return SimpleNamespace(url=PRIVATE, stop=lambda: machine.stopped.append(PRIVATE))

    service = Service(
        "RabbitMQ",
        "GANGER_BROKER_URL",
        DEFAULT,
        machine.answering.__contains__,
        "rabbitmq-server",
        start,  # type: ignore[arg-type]
        "rabbitmq-server",
    )
    with contextlib.ExitStack() as stack:
        return stack.enter_context(service.url())


def test_given_url_comes_first(machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answering |= {DEFAULT, "amqp://elsewhere/"}
    monkeypatch.setenv("GANGER_BROKER_URL", "amqp://elsewhere/")
    assert url(machine) == "amqp://elsewhere/"


def test_given_url_that_does_not_answer_is_an_error(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.answering.add(DEFAULT)
    monkeypatch.setenv("GANGER_BROKER_URL", "amqp://me:secret@elsewhere/")
    with pytest.raises(Missing, match="GANGER_BROKER_URL is set") as raised:
        url(machine)
    assert "secret" not in str(raised.value)


def test_a_listening_server_comes_before_a_private_one(machine: SimpleNamespace) -> None:
    machine.installed = True
    machine.answering.add(DEFAULT)
    assert url(machine) == DEFAULT
    assert not machine.stopped


def test_an_installed_server_is_started_and_ended(machine: SimpleNamespace) -> None:
    machine.installed = machine.docker = True
    assert url(machine) == PRIVATE
    assert machine.stopped == [PRIVATE]
    assert not machine.ran


def test_private_servers_can_be_forced(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.installed = True
    machine.answering.add(DEFAULT)
    monkeypatch.setenv("GANGER_TEST_SERVICES", "private")
    assert url(machine) == PRIVATE


def test_docker_compose_comes_before_packages(machine: SimpleNamespace) -> None:
    machine.docker = machine.apt_get = True
    assert url(machine) == DEFAULT
    assert ["apt-get", "install", "-y", "-qq", "rabbitmq-server"] not in machine.ran


def test_root_on_debian_installs_packages(machine: SimpleNamespace) -> None:
    machine.apt_get = True
    assert url(machine) == PRIVATE
    assert ["apt-get", "install", "-y", "-qq", "rabbitmq-server"] in machine.ran


def test_else_it_says_what_to_do(machine: SimpleNamespace) -> None:
    with pytest.raises(Missing) as raised:
        url(machine)
    for way in ("GANGER_BROKER_URL", "docker compose up", "apt-get install rabbitmq-server"):
        assert way in str(raised.value)


def test_forced_private_servers_do_not_come_from_docker(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.docker = True
    monkeypatch.setenv("GANGER_TEST_SERVICES", "private")
    with pytest.raises(Missing):
        url(machine)
    assert not machine.ran

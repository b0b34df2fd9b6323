"""``ganger doctor``: what is found, how bad it is, and what to do."""

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ganger_broker.rabbitmq import BrokerState
from ganger_broker.settings import Settings
from ganger_broker.topology import Topology
from ganger_dispatcher import doctor
from ganger_dispatcher.cli import checking, commands
from ganger_dispatcher.core.records import Worker, WorkerState
from ganger_dispatcher.doctor import Finding, Status
from ganger_dispatcher.doctor.broker import broker_findings, is_older
from ganger_dispatcher.doctor.fleet import leader_finding, pending_findings, worker_findings
from ganger_dispatcher.doctor.redis_server import RedisServer, redis_findings

TOPOLOGY = Topology("p")
GOOD = {"appendonly": "yes", "maxmemory-policy": "noeviction"}


def brief(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.status.value) for finding in findings]


def told(findings: list[Finding], check: str) -> str:
    """What was found and what to do, of the one finding of this check."""
    (found,) = [finding for finding in findings if finding.check == check]
    return f"{found.found} → {found.to_do}"


def broker(version: str = "3.13.7", **fields: Any) -> list[Finding]:
    messages = {"p.dead": 0, "p.triggers": 1, "p.events": 2}
    return broker_findings(BrokerState(version, **{"messages": messages, **fields}), TOPOLOGY)


def redis(version: str = "7.2.4", mode: str = "standalone", **fields: Any) -> list[Finding]:
    return redis_findings(
        RedisServer(version, mode, 1.0, **{"skew": 0.0, "config": GOOD, **fields})
    )


# ── RabbitMQ ──────────────────────────────────────────────────────────────────────────


def test_a_broker_that_is_well() -> None:
    findings = broker()
    assert brief(findings) == [("broker", "ok"), ("queues", "ok"), ("dead letters", "ok")]
    assert "1 waiting in p.triggers, 2 waiting in p.events" in told(findings, "queues")


def test_a_broker_before_its_first_dispatcher_is_well() -> None:
    findings = broker(missing=["p", "p.triggers", "p.events"], messages={})
    assert brief(findings) == [("broker", "ok"), ("queues", "ok")]
    assert "not declared yet under the prefix 'p'" in told(findings, "queues")


@pytest.mark.parametrize(
    ("version", "older"),
    [("3.9.29", True), ("2.8", True), ("3.10.0", False), ("4.0.2-rc.1", False), ("?", False)],
)
def test_the_version_of_the_broker(version: str, older: bool) -> None:
    assert is_older(version, (3, 10)) is older
    assert (("broker", "wrong") in brief(broker(version))) is older


def test_queues_that_are_missing_or_other() -> None:
    findings = broker(missing=["p.events"])
    assert ("queues", "wrong") in brief(findings)
    assert "missing: p.events" in told(findings, "queues")
    findings = broker(wrong=["queue 'p.dead': inequivalent arg 'x-queue-type'"])
    assert ("queues", "wrong") in brief(findings)
    assert "'x-queue-type' → GANGER_QUEUE_TYPE must be the same" in told(findings, "queues")


def test_dead_letters_are_a_warning_with_where_to_look() -> None:
    findings = broker(messages={"p.dead": 3, "p.triggers": 0, "p.events": 0})
    assert ("dead letters", "warning") in brief(findings)
    assert told(findings, "dead letters").startswith("3 → look at them in queue p.dead")


# ── Redis ─────────────────────────────────────────────────────────────────────────────


def test_a_redis_that_is_well() -> None:
    checks = ["redis", "persistence", "eviction", "clocks"]
    assert brief(redis()) == [(check, "ok") for check in checks]


@pytest.mark.parametrize(
    ("fields", "check", "status", "said"),
    [
        ({"version": "6.2.14"}, "redis", "wrong", "Redis 6.2.14 → Redis 7 or newer is needed"),
        ({"mode": "cluster"}, "redis", "wrong", "a cluster → use one that is no cluster"),
        (
            {"config": {**GOOD, "appendonly": "no"}},
            *("persistence", "warning", "appendonly no → set `appendonly yes`"),
        ),
        (
            {"config": {**GOOD, "maxmemory-policy": "allkeys-lru"}},
            *("eviction", "warning", "allkeys-lru → set `maxmemory-policy noeviction`"),
        ),
        ({"config": None}, "persistence", "warning", "may not be asked"),
        ({"skew": 2.5}, "clocks", "warning", "2.5 s ahead of Redis"),
        ({"skew": -2.5}, "clocks", "warning", "2.5 s behind Redis"),
    ],
)
def test_a_redis_that_is_not(fields: Any, check: str, status: str, said: str) -> None:
    findings = redis(**fields)
    assert (check, status) in brief(findings)
    assert said in told(findings, check)


# ── the fleet ─────────────────────────────────────────────────────────────────────────


def worker(name: str, heard: int, state: WorkerState = WorkerState.READY) -> Worker:
    return Worker(
        id=name,
        incarnation="i",
        name=name,
        slots=1,
        labels={},
        label_seq=0,
        actions=[],
        registered_at=0,
        heartbeat_at=heard * 1000,
        state=state,
    )


def test_who_leads() -> None:
    leader = {"dispatcher": "vm-1", "epoch": "7", "lease_end": "105000"}
    found = leader_finding(leader, 101.0)
    assert (found.status, found.found) == (Status.OK, "vm-1, epoch 7, lease good for 4.0 s")
    found = leader_finding(leader, 125.0)
    assert (found.status, found.to_do) == (Status.WRONG, "start one: ganger dispatcher")
    assert "the last one was vm-1, epoch 7; its lease ended 20 s ago" in found.found
    resigned = leader_finding({**leader, "lease_end": "0"}, 125.0)
    assert resigned.found == "none: the last one was vm-1, epoch 7; it resigned"
    assert leader_finding({}, 1.0).found == "no dispatcher has ever led here"


def test_which_workers_there_are() -> None:
    (none,) = worker_findings([], 100.0, 10.0)
    assert (none.status, none.found) == (Status.WARNING, "none")
    two = [worker("a", 95), worker("b", 99, WorkerState.DRAINING)]
    (well,) = worker_findings(two, 100.0, 10.0)
    assert (well.status, well.found) == (Status.OK, "2 live, 1 of them take no steps now")
    (cut_off,) = worker_findings([worker("a", 95, WorkerState.UNREACHABLE)], 100.0, 10.0)
    assert cut_off.status is Status.WRONG
    assert "1 of them take no steps now; what is sent to these comes back: a" in cut_off.found
    (silent,) = worker_findings([worker(name, 1) for name in "abcde"], 100.0, 10.0)
    assert silent.status is Status.WARNING
    assert "silent for more than 10 s: a, b, c and 2 more" in silent.found


def test_what_waits() -> None:
    assert brief(pending_findings(0, [], 0)) == [("pending", "ok")]
    assert told(pending_findings(3, [], 0), "pending") == "3 waiting for a worker → "
    findings = pending_findings(3, ["r/s"], 2)
    assert brief(findings) == [("pending", "warning"), ("triggers", "warning")]
    assert "1 for what no worker here has: r/s → " in told(findings, "pending")
    assert "ganger explain r/s" in told(findings, "pending")


# ── the verb ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GANGER_{name.upper()}", raising=False)
    monkeypatch.setattr(checking, "configure_logging", lambda _: None)
    app = typer.Typer()
    commands(app)
    return app


def ganger(app: typer.Typer, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *words])
    return result.exit_code, result.stdout


def test_servers_that_are_away_are_each_named(app: typer.Typer) -> None:
    words = ("--broker-url", "amqp://me:secret@127.0.0.1:1/", "--redis-url", "redis://127.0.0.1:1")
    status, text = ganger(app, *words)
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert (status, [line[:9] for line in lines]) == (1, ["✓ setting", "✗ broker ", "✗ redis  "])
    assert "secret" not in text
    assert "start RabbitMQ, or set GANGER_BROKER_URL" in text
    status, text = ganger(app, *words, "--json")
    found = json.loads(text)
    assert (status, [each["status"] for each in found]) == (1, ["ok", "wrong", "wrong"])
    assert list(found[1]) == ["check", "status", "found", "to_do"]


def test_a_bad_setting_is_a_finding(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_LEASE", "soon")
    status, text = ganger(app)
    assert status == 1
    assert text.startswith("✗ settings      GANGER_LEASE: 'soon' must be")


def test_a_misspelt_variable_is_a_warning(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANGER_BROKER", "amqp://elsewhere")
    nowhere = ("--broker-url", "amqp://127.0.0.1:1/", "--redis-url", "redis://127.0.0.1:1")
    _, text = ganger(app, *nowhere)
    assert text.startswith("! settings")
    assert "no setting: GANGER_BROKER: did you mean GANGER_BROKER_URL?" in text


def test_a_broker_in_memory_has_nothing_to_check(app: typer.Typer) -> None:
    status, text = ganger(app, "--broker-url", "memory://")
    assert status == 0
    assert text.startswith("! settings      memory://")


def test_warnings_are_no_failure(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def warned(_: Settings) -> list[Finding]:
        return [Finding("workers", Status.WARNING, "none", "start one")]

    monkeypatch.setattr(checking, "examine", warned)
    status, text = ganger(app)
    assert status == 0
    assert text.splitlines()[1:] == ["! workers       none", " " * 16 + "start one"]


async def test_a_redis_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.01)

    async def silence(_: object) -> None:
        await doctor.asyncio.get_running_loop().create_future()

    monkeypatch.setattr(doctor, "ask_redis", silence)
    settings = Settings.load(broker_url="amqp://127.0.0.1:1/", redis_url="redis://127.0.0.1:1")
    findings = await doctor.examine(settings)
    assert "no answer in 0.01 s" in told(findings, "redis")

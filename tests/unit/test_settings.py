"""Settings: flag, then environment, then default; a bad one is named."""

import re
from datetime import timedelta

import pytest

from ganger_broker.durations import parse_duration
from ganger_broker.errors import InvalidInput, InvalidSetting
from ganger_broker.settings import Settings
from ganger_dispatcher.term import policy_of


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests has settings of their own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GANGER_{name.upper()}", raising=False)


def test_defaults() -> None:
    settings = Settings.load()
    assert settings.broker_url == "amqp://guest:guest@127.0.0.1:5672/"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert (settings.prefix, settings.queue_type, settings.embedded) == ("ganger", "quorum", False)
    assert (settings.heartbeat_interval, settings.worker_timeout) == (2, 10)
    assert (settings.lease, settings.hold, settings.retention) == (5, 60, 86_400)
    assert settings.worker_timeout > 2 * settings.heartbeat_interval


def test_a_flag_goes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GANGER_PREFIX", "from-environment")
    monkeypatch.setenv("GANGER_LEASE", "250ms")
    assert Settings.load().prefix == "from-environment"
    settings = Settings.load(prefix="from-flag", redis_url=None)
    assert (settings.prefix, settings.lease) == ("from-flag", 0.25)
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PREFIX", "a b", "GANGER_PREFIX: 'a b': "),
        ("PREFIX", "", "GANGER_PREFIX: '': "),
        ("BROKER_URL", "http://x", "GANGER_BROKER_URL: 'http://x': "),
        ("REDIS_URL", "localhost", "GANGER_REDIS_URL: 'localhost': "),
        ("QUEUE_TYPE", "fast", "GANGER_QUEUE_TYPE: 'fast': "),
        ("BATCH", "0", "GANGER_BATCH: '0': "),
        ("BATCH", "many", "GANGER_BATCH: 'many': "),
        ("MAX_MESSAGE_BYTES", "10", "GANGER_MAX_MESSAGE_BYTES: '10': "),
        ("LOG_LEVEL", "loud", "GANGER_LOG_LEVEL: 'loud': "),
        ("LEASE", "soon", "GANGER_LEASE: 'soon' must be a positive number of seconds"),
        ("LEASE", "0", "GANGER_LEASE: '0' must be a positive number of seconds"),
        ("LEASE", "-1s", "GANGER_LEASE: '-1s' must be a positive number of seconds"),
    ],
)
def test_a_bad_variable_is_named(
    name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GANGER_{name}", value)
    with pytest.raises(InvalidSetting, match="^" + re.escape(text)):
        Settings.load()


def test_a_bad_flag_and_an_unknown_one_are_named() -> None:
    with pytest.raises(InvalidSetting, match=r"^GANGER_PREFIX: '\?': .*; GANGER_BATCH: 0: "):
        Settings.load(batch=0, prefix="?")
    with pytest.raises(InvalidSetting, match=r"^GANGER_NONSENSE: 1: "):
        Settings.load(nonsense=1)


@pytest.mark.parametrize(
    ("url", "embedded"), [("memory://", True), ("memory://x", True), ("amqps://h/", False)]
)
def test_memory_is_embedded(url: str, embedded: bool) -> None:
    assert Settings.load(broker_url=url).embedded is embedded


def test_the_prefix_is_the_first_word_of_all_names() -> None:
    settings = Settings.load(prefix="p", queue_type="classic", pickup_deadline="2s")
    assert settings.keys().workers == "p:workers"
    topology = settings.topology()
    assert (topology.triggers, topology.queue_type, topology.pickup_deadline) == (
        "p.triggers",
        "classic",
        2,
    )


def test_the_core_s_policy_is_in_milliseconds() -> None:
    policy = policy_of(Settings.load(worker_timeout="1.5s", pickup_deadline="3s", hold="2m"))
    assert (policy.worker_timeout, policy.pickup_deadline, policy.hold) == (1_500, 3_000, 120_000)


# ── durations ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5_400),
        ("2d", 172_800),
        ("1.5h", 5_400),
        (" 3 ", 3),
        ("2.5", 2.5),
        (7, 7),
        (0.1, 0.1),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations_as_people_write_them(given: str | float | timedelta, seconds: float) -> None:
    assert parse_duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given",
    [
        *("", "soon", "5 m", "m5", "1h 30m", "-1s", "0", "0s", "inf", "1e3"),
        *(0, -1, True, None, float("inf"), float("nan"), timedelta(0)),
    ],
)
def test_what_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(InvalidInput, match=r"^timeout: .* must be a positive number of seconds"):
        parse_duration(given, "timeout")  # type: ignore[arg-type]

"""Settings: flag, then environment, then default; a bad one is named."""

import re
from datetime import timedelta

import pytest

from ganger_broker.durations import parse_duration
from ganger_broker.errors import InvalidInput, InvalidSetting
from ganger_broker.settings import Settings, flag_name
from ganger_dispatcher.core.scaling import Scaling
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


def test_the_core_scales_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert policy_of(Settings.load()).scaling == Scaling()
    for name, value in [("UP", "2"), ("DOWN", "1"), ("LEAST", "3"), ("MOST", "4")]:
        monkeypatch.setenv(f"GANGER_SCALE_{name}", value)
    monkeypatch.setenv("GANGER_SCALE_WINDOW", "5m")
    assert policy_of(Settings.load()).scaling == Scaling(300_000, 2, 1, 3, 4)


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
        ("PREFIX", "a b", "'a b' must be 1 to 64 letters, digits, - and _"),
        ("PREFIX", "", "'' must be 1 to 64 letters, digits, - and _"),
        ("QUEUE_TYPE", "fast", "'fast' must be quorum or classic"),
        ("BATCH", "0", "'0' must be a whole number from 1 to 10000"),
        ("BATCH", "many", "'many' must be a whole number from 1 to 10000"),
        ("MAX_MESSAGE_BYTES", "10", "'10' must be a whole number of at least 1024"),
        ("FEED_LENGTH", "-1", "'-1' must be a whole number of at least 0"),
        ("LOG_LEVEL", "loud", "'loud' must be debug, info, warning or error"),
        ("LOG_FORMAT", "xml", "'xml' must be auto, console or json"),
        ("METRICS_PORT", "65536", "'65536' must be a port: a whole number from 0 to 65535"),
        ("SCALE_WINDOW", "0", "'0' must be a positive number of seconds"),
        ("SCALE_UP", "0", "'0' must be a number above 0 and at most 100"),
        ("SCALE_UP", "nan", "'nan' must be a number above 0 and at most 100"),
        ("SCALE_UP", "0.5", "GANGER_SCALE_DOWN: 0.5 must be below GANGER_SCALE_UP, 0.5"),
        ("SCALE_DOWN", "-1", "'-1' must be a number of at least 0"),
        ("SCALE_DOWN", "0.8", "'0.8' must be below GANGER_SCALE_UP, 0.8"),
        ("SCALE_LEAST", "few", "'few' must be a whole number from 0 to 100000"),
        (
            "SCALE_LEAST",
            "1001",
            "GANGER_SCALE_MOST: 1000 must not be below GANGER_SCALE_LEAST, 1001",
        ),
        ("SCALE_MOST", "0", "'0' must be a whole number from 1 to 100000"),
        ("WORKER_TIMEOUT", "3s", "3 s must be at least twice GANGER_HEARTBEAT_INTERVAL, 2 s"),
        ("HEARTBEAT_INTERVAL", "6s", "GANGER_WORKER_TIMEOUT: 10 s must be at least twice"),
        ("LEASE", "soon", "'soon' must be a positive number of seconds"),
        ("LEASE", "0", "'0' must be a positive number of seconds"),
        ("LEASE", "-1s", "'-1s' must be a positive number of seconds"),
    ],
)
def test_a_bad_variable_is_named_with_what_would_be_right(
    name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GANGER_{name}", value)
    said = text if text.startswith("GANGER_") else f"GANGER_{name}: {text}"
    with pytest.raises(InvalidSetting, match="^" + re.escape(said)):
        Settings.load()


BROKER = "must be amqp://user:password@host:port/vhost, amqps://… or memory://"
REDIS = "must be redis://user:password@host:port/db, rediss://…, unix://… or memory://"
PORT = "its port must be a number from 1 to 65535"


@pytest.mark.parametrize(
    ("setting", "url", "text"),
    [
        ("broker_url", "http://x", BROKER),
        ("broker_url", "localhost:5672", BROKER),
        ("broker_url", "amqp:/h", BROKER),
        ("broker_url", "", BROKER),
        ("broker_url", "amqp://", f"{BROKER}: it names no host"),
        ("broker_url", "amqp://h:99999/", f"{BROKER}: {PORT}"),
        ("broker_url", "amqp://h:0/", f"{BROKER}: {PORT}"),
        ("broker_url", "amqp://h:abc/", f"{BROKER}: {PORT}"),
        ("broker_url", "amqp://[::1/", f"{BROKER}: Invalid IPv6 URL"),
        ("broker_url", "amqp://h/?heartbeat=x", "?heartbeat= must be seconds, not 'x'"),
        ("redis_url", "localhost", REDIS),
        ("redis_url", "redis://h:99999/0", f"{REDIS}: {PORT}"),
        (
            *("redis_url", "redis://h:6379/notadb"),
            f"{REDIS}: after the / comes the number of a database, not 'notadb'",
        ),
        ("redis_url", "unix:///r.sock?db=x", "?db= must be the number of a database, not 'x'"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_when_it_is_given(
    setting: str, url: str, text: str
) -> None:
    with pytest.raises(InvalidSetting, match="^" + re.escape(f"{setting}: {url!r} {text}") + "$"):
        Settings.load(**{setting: url})


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("broker_url", "amqp://h"),
        ("broker_url", "amqps://user:pass@h:5671/a%2Fb?heartbeat=10"),
        ("broker_url", "amqp://[::1]:5672/vhost"),
        ("broker_url", "memory://"),
        ("broker_url", "memory://any:thing/at all"),
        ("redis_url", "redis://h"),
        ("redis_url", "redis://h/"),
        ("redis_url", "rediss://user:pass@h:6380/15"),
        ("redis_url", "redis://h?db=3"),
        ("redis_url", "unix:///var/run/redis.sock?db=1"),
        ("redis_url", "memory://x"),
    ],
)
def test_urls_as_they_may_be(setting: str, url: str) -> None:
    assert getattr(Settings.load(**{setting: url}), setting) == url


def test_a_password_is_not_shown() -> None:
    with pytest.raises(InvalidSetting, match=r"'amqp://me:\*\*\*@h:0/' must be") as caught:
        Settings.load(broker_url="amqp://me:se@cret@h:0/")
    assert "cret" not in str(caught.value)


def test_a_bad_setting_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_LEASE", "soon")
    said = r"^prefix: '\?' must be .*; GANGER_LEASE: 'soon' must be .*; batch: 0 must"
    with pytest.raises(InvalidSetting, match=said):
        Settings.load(batch=0, prefix="?")
    with pytest.raises(InvalidSetting, match=r"^--queue-type: 'x' must be quorum or classic; GAN"):
        Settings.load(flag_name, queue_type="x")


def test_a_setting_that_is_none_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidSetting, match=r"^nonsense: there is no such setting; there are bro"):
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
    policy = policy_of(
        Settings.load(
            heartbeat_interval="500ms", worker_timeout="1.5s", pickup_deadline="3s", hold="2m"
        )
    )
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

"""What a program's log looks like."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from ganger_broker.logs import configure_logging
from ganger_broker.settings import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    drivers = {name: logging.getLogger(name).level for name in ("aio_pika", "aiormq")}
    yield
    for name, driver_level in drivers.items():
        logging.getLogger(name).setLevel(driver_level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_one_json_object_a_line_where_nobody_watches() -> None:
    stream = io.StringIO()
    configure_logging(Settings.load(), stream)
    structlog.contextvars.bind_contextvars(run="r1")

    structlog.get_logger().info("step started", step="caption")

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "step started", "level": "info", "run": "r1", "step": "caption"}


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("console", io.StringIO(), False),
        ("json", Terminal(), True),
    ],
    ids=["auto file", "auto terminal", "console", "json"],
)
def test_the_format_is_the_settings(log_format: str, stream: io.StringIO, is_json: bool) -> None:
    configure_logging(Settings.load(log_format=log_format), stream)

    structlog.get_logger().info("hello")

    assert stream.getvalue().startswith("{") is is_json
    assert "hello" in stream.getvalue()


def test_the_level_is_the_settings() -> None:
    stream = io.StringIO()
    configure_logging(Settings.load(log_level="warning"), stream)

    log = structlog.get_logger()
    log.info("unheard")
    log.warning("heard")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["heard"]


def test_libraries_are_heard_from_warning_in_the_same_format() -> None:
    stream = io.StringIO()
    configure_logging(Settings.load(log_level="debug"), stream)
    structlog.contextvars.bind_contextvars(worker="w1")

    logging.getLogger("watchfiles").info("unheard")
    logging.getLogger("asyncio.events").warning("lost %s", "it")

    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["level"], line["logger"], line["worker"]) == (
        "lost it",
        "warning",
        "asyncio.events",
        "w1",
    )


def test_what_the_transport_says_itself_is_not_said_by_its_driver_too() -> None:
    stream = io.StringIO()
    configure_logging(Settings.load(), stream)

    logging.getLogger("aio_pika.connection").warning("lost")
    logging.getLogger("aiormq.connection").error("error when creating transport")

    assert stream.getvalue() == ""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_exceptions_are_told_without_the_values_of_variables(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging(Settings.load(log_format=log_format), stream)
    secret = "".join(["hun", "ter2"])

    try:
        raise ValueError(f"{len(secret)} letters")
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "ValueError: 7 letters" in stream.getvalue()
    assert secret not in stream.getvalue()


def test_warnings_go_the_same_way() -> None:
    stream = io.StringIO()
    configure_logging(Settings.load(), stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old-fashioned", stacklevel=1)
        logging.captureWarnings(False)

    assert "old-fashioned" in json.loads(stream.getvalue().splitlines()[-1])["event"]


def test_a_variable_that_is_nearly_a_setting_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_REDIS_URLS", "redis://elsewhere")
    monkeypatch.setenv("GANGER_STORE_SERVICE_HOST", "10.0.0.7")  # as Kubernetes does
    stream = io.StringIO()
    configure_logging(Settings.load(log_format="json"), stream)
    line = json.loads(stream.getvalue())
    assert (line["name"], line["did_you_mean"]) == ("GANGER_REDIS_URLS", "GANGER_REDIS_URL")


def test_a_line_that_cannot_be_written_costs_nobody_anything() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError("nobody reads")

    configure_logging(Settings.load(), Closed())
    structlog.get_logger().error("said to nobody")

    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    configure_logging(Settings.load(log_format="console"), ascii_only)
    structlog.get_logger().warning("snow: ☃")
    ascii_only.flush()
    assert b"snow: \\u2603" in ascii_only.buffer.getvalue()  # type: ignore[attr-defined]

"""What others wrote reaches a terminal as text: it is never obeyed."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
import typer
from typer.testing import CliRunner

from ganger import Context, Ganger, cli
from ganger.cli import ask
from ganger_broker.crons import Cron
from ganger_broker.labels import LabelValue
from ganger_broker.logs import configure_logging
from ganger_broker.messages import FailureReason, RunError, RunStatus
from ganger_broker.settings import Settings
from ganger_broker.terminal import visible, visible_json
from ganger_dispatcher.cli import checking, commands, matching, showing
from ganger_dispatcher.core.records import KeptLine, RunHeader, Schedule, StepRun, Worker
from ganger_dispatcher.core.states import StepStatus
from ganger_dispatcher.doctor import Finding, Status
from ganger_dispatcher.inspection import StepExplanation

EVIL = "\x1b[31m\x1b]0;pwned\x07\x9b2J\r\u202e\x7f"
SHOWN = r"\x1b[31m\x1b]0;pwned\x07\x9b2J\x0d\u202e\x7f"

ERROR = RunError(FailureReason.STEP_FAILED, f"bad {EVIL}", type=f"Odd{EVIL}")
HEADER = RunHeader(
    *("w", "", "d", RunStatus.FAILED, {}, {}, 1, {}, 0), error=ERROR, queued=f"for {EVIL}"
)
LABELS: dict[str, LabelValue] = {EVIL: EVIL}
WORKER = Worker("w-1", "i", "w", 2, LABELS, 0, ["w:s"], 0, 0, coming={"r/s/1": {"c": EVIL}})
STEP = StepExplanation(
    *("r/s", "pending", "never with this fleet", {}, None, None, []),
    waits_for=f"limit {EVIL}",
    error=ERROR,
)

LOGS = import_module("ganger_dispatcher.cli.logs")  # its package has the verb under this name


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    commands(app)
    return app


def harmless(text: str) -> bool:
    return not set(EVIL) & set(text) - set("[31m]0;pwned2J") and "\\x1b" in text


@pytest.mark.parametrize(
    ("module", "words", "answer"),
    [
        (showing, ["workers"], [WORKER]),
        (showing, ["runs"], ([("r", HEADER, {"s": StepRun(StepStatus.PENDING)})], [])),
        (showing, ["schedules"], [Schedule(EVIL, "w", 0, cron=Cron("* * * * *"))]),
        (LOGS, ["logs", "r"], [KeptLine(0, "r/s/1", 1, "info", f"said {EVIL}")]),
        (matching, ["explain", "r/s"], STEP),
    ],
    ids=["workers", "runs", "schedules", "logs", "explain"],
)
def test_verbs_show_control_characters(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, module: Any, words: list[str], answer: Any
) -> None:
    monkeypatch.setattr(module, "ask", lambda *_: answer)
    text = CliRunner().invoke(app, words, env={"COLUMNS": "300"}).stdout
    assert harmless(text)
    assert SHOWN in text
    as_json = CliRunner().invoke(app, [*words, "--json"]).stdout
    assert not set("\x1b\x07\x9b\r\u202e\x7f") & set(as_json)
    assert EVIL in str(json.loads(as_json)) or repr(EVIL)[1:-1] in str(json.loads(as_json))


def test_match_shows_those_of_labels_and_of_ids(app: typer.Typer, tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    workers = [{"id": f"w{EVIL}", "labels": {EVIL: "x"}}]
    file.write_text(json.dumps({"workers": workers, "desired_worker_labels": {EVIL: "x"}}))
    text = CliRunner().invoke(app, ["match", str(file)], env={"COLUMNS": "300"}).stdout
    assert harmless(text)
    assert f"selected: w{SHOWN}" in text
    assert f'✓ {SHOWN} EQUAL "x"' in text


def test_doctor_shows_them(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("pending", Status.OK, EVIL, f"see {EVIL}")
    monkeypatch.setattr(checking, "_findings", lambda *_: [finding])
    text = CliRunner().invoke(app, ["doctor"]).stdout
    assert harmless(text)
    assert f"see {SHOWN}" in text


# ── trigger ───────────────────────────────────────────────────────────────────────────

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a verb against an app that says and raises what it is asked to."""
    app = Ganger(broker_url=f"memory://{uuid4().hex}")

    @app.workflow()
    class Odd:
        @app.step()
        async def odd(self, context: Context) -> str:
            context.log(f"line {EVIL}", "warning")
            context.put_stream(f"chunk {EVIL}")
            if context.workflow_input():
                raise ValueError(f"two\nlines {EVIL}")
            return EVIL

    worker = app.worker("w")
    worker.register_workflow(Odd())
    monkeypatch.setattr(ask, "_app", lambda *_: app)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))

    def call(*words: str) -> tuple[str, str]:
        with pytest.raises(SystemExit):
            cli.main(words)
        out, err = capsys.readouterr()
        return out, err

    with worker:
        yield call
    app.close()
    structlog.reset_defaults()


def test_a_trigger_s_error_shows_them_and_keeps_its_lines(run: Run) -> None:
    _, err = run("trigger", "odd", "--wait", "--input", '{"fail": 1}')
    assert f"two\nlines {SHOWN}" in err
    assert harmless(err)


def test_what_a_followed_run_says_shows_them(run: Run) -> None:
    out, _ = run("trigger", "odd", "--follow")
    line, chunk, *result = out.splitlines()
    assert (line, chunk) == (f"warning odd: line {SHOWN}", f"chunk {SHOWN}")
    assert not set("\x1b\x07\x9b\r\u202e\x7f") & set(out)
    assert json.loads("".join(result)) == {"odd": EVIL}
    out, _ = run("trigger", "odd", "--follow", "--json")
    assert not set("\x1b\x07\x9b\r\u202e\x7f") & set(out)
    assert json.loads(out.splitlines()[0])["data"] == f"line {EVIL}"


# ── logs for people ───────────────────────────────────────────────────────────────────


def test_a_log_for_people_shows_them() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(Settings.load(log_format="console"), stream)
    try:
        try:
            raise ValueError(f"bad {EVIL}")
        except ValueError:
            structlog.get_logger().exception(f"lost {EVIL}", key=EVIL)
        logging.getLogger("library").warning(f"says {EVIL}")
    finally:
        structlog.reset_defaults()
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(False)
    text = stream.getvalue()
    assert harmless(text)
    assert f"ValueError: bad {SHOWN}\n" in text
    assert f"lost {SHOWN}" in text
    assert f"says {SHOWN}" in text


def test_lines_and_letters_stay_as_they_are() -> None:
    text = "Traceback:\n\tFile «ä» 🚀 [/b] \\x1b"
    assert visible(text) == visible_json(text) == text
    assert visible("\ud800") == r"\ud800"
    assert json.loads(visible_json('"\x7f\u2066"')) == "\x7f\u2066"

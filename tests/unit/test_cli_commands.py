"""The command ``ganger``: what it prints, and its exit status."""

import io
import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from ganger import Context, Ganger, InvalidWorkflow, __version__, cli
from ganger.cli import ask, loading
from ganger_broker.schema import json_schema
from ganger_broker.settings import Settings, environment_name
from ganger_dispatcher.cli import matching

from .cli_tasks import TASKS

PATIENCE = 30.0

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command: exit status, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_version_and_schema(run: Run) -> None:
    assert run("--version") == (0, f"ganger {__version__}\n", "")
    status, out, _ = run("schema")
    assert status == 0
    assert json.loads(out) == json_schema()


def test_help_names_every_verb_and_how_labels_are_read(run: Run) -> None:
    _, out, _ = run("--help")
    for verb in (
        "worker",
        "dev",
        "dispatcher",
        "trigger",
        "cancel",
        "logs",
        "explain",
        "match",
        "doctor",
        "schema",
    ):
        assert verb in out
    _, out, _ = run("worker", "--help")
    assert "memory=512" in out


def test_help_groups_the_verbs_and_tells_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run("--help")
    assert "─ Commands ─" not in out  # a verb without a group would be there
    defaults = Settings.model_fields
    for verb in ("dispatcher", "doctor"):
        _, out, _ = run(verb, "--help")
        for setting in ("broker_url", "redis_url", "prefix"):
            assert f"{environment_name(setting)}; default: {defaults[setting].default}]" in out


@pytest.mark.parametrize("verb", ["trigger", "cancel", "unschedule"])
def test_help_tells_how_long_a_verb_tries(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "default: 30s." in run(verb, "--help")[1].lower()


def test_the_file_that_help_shows_can_be_matched(run: Run, tmp_path: Path) -> None:
    _, _, text = (matching.match.__doc__ or "").partition("FILE holds, say, ")
    file = tmp_path / "fleet.json"
    file.write_text(text)
    status, out, _ = run("match", str(file), "--json")
    assert (status, json.loads(out)["selected"]) == (0, "a")


def test_wrong_use_ends_with_2(run: Run) -> None:
    assert run("frobnicate")[0] == 2
    assert run("worker")[0] == 2
    assert run("trigger", "--nope")[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["worker", "tasks"], "'tasks': must be MODULE:APP"),
        (["worker", "tasks.py:app"], "'tasks.py:app': must be MODULE:APP"),
        (["dev", "a/b:app"], "'a/b:app': must be MODULE:APP"),
        (["worker", "no_such:app"], "there is no module 'no_such' in"),
        (["worker", "no_such.part:app"], "there is no module 'no_such' in"),
        (["dev", "tasks:app", "--label", "memory"], "--label: 'memory' must be KEY=VALUE"),
        (["dev", "tasks:app", "--grace", "soon"], "--grace: 'soon' must be"),
        (["trigger", "caption", "--input", "[]"], "--input: must be a JSON object"),
        (["trigger", "caption", "--metadata", "x"], "--metadata: 'x' is not JSON"),
        (["trigger", "caption", "--broker-url", "x"], "--broker-url: 'x' must be amqp://"),
        (["worker", "tasks:app", "--broker-url", "x"], "--broker-url: 'x' must be amqp://"),
        (["dev", "tasks:app", "--prefix", "a b"], "--prefix: 'a b' must be 1 to 64 letters"),
        (["runs", "--redis-url", "redis://h:0"], "--redis-url: 'redis://h:0' must be redis://"),
        (["dispatcher", "--queue-type", "x"], "--queue-type: 'x' must be quorum or classic"),
        (
            ["trigger", "caption", "--broker-url", "memory://"],
            "--broker-url: memory:// lives in",
        ),
        (["cancel", "r", "--broker-url", "memory://"], "--broker-url: memory:// lives in"),
        (["trigger", "c", "--wait", "--timeout", "x"], "--timeout: 'x' must be"),
        (["trigger", "c", "--timeout", "x"], "--timeout: 'x' must be"),
        (["cancel", "r", "--timeout", "x"], "--timeout: 'x' must be"),
        (["unschedule", "s", "--timeout", "x"], "--timeout: 'x' must be"),
        (["trigger", "c", "--at", "tomorrow"], "--at: 'tomorrow' is no time; write it with its"),
        (
            ["trigger", "c", "--at", "2027-01-01T09:00"],
            "--at: '2027-01-01T09:00' has no time zone; write it with its offset, such as "
            "2027-01-01T09:00+01:00, or Z for UTC",
        ),
    ],
)
def test_a_bad_value_is_one_clear_line_and_2(run: Run, words: list[str], said: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith(f"ganger: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", [["workers"], ["runs"], ["explain", "r/s"]])
def test_a_fleet_inside_another_process_cannot_be_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.setenv("GANGER_BROKER_URL", "memory://mine")
    status, out, err = run(*verb)
    assert (status, out) == (2, "")
    assert err.startswith("ganger: GANGER_BROKER_URL: memory://mine has a Redis of its own")
    status, _, err = run(*verb, "--redis-url", "memory://")
    assert status == 2
    assert err.startswith("ganger: --redis-url: memory:// is a Redis inside one process")
    status, _, err = run(*verb, "--redis-url", "redis://127.0.0.1:1/0")
    assert status == 1  # it was asked for
    assert err.startswith("ganger: Redis: ConnectionError")


def test_a_dispatcher_refuses_a_broker_inside_a_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = run("dispatcher", "--broker-url", "memory://")
    assert status == 2
    assert err.startswith("ganger: --broker-url: memory:// is a broker inside one process")
    monkeypatch.setenv("GANGER_BROKER_URL", "memory://")
    assert run("dispatcher")[2].startswith("ganger: GANGER_BROKER_URL: memory:// is a broker")


def test_dev_refuses_a_redis_beside_a_broker_in_memory(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GANGER_BROKER_URL", raising=False)
    flags = ("--redis-url", "redis://127.0.0.1:6379/0")
    status, _, err = run("dev", f"{folder.stem}:app", *flags)
    assert status == 2
    assert err.startswith("ganger: --redis-url: memory:// has a Redis of its own")
    monkeypatch.setenv("GANGER_BROKER_URL", "amqp://127.0.0.1/")  # the app says memory:// itself
    status, _, err = run("dev", f"{folder.stem}:app", *flags, "--no-reload")
    assert (status, err.startswith("ganger: --redis-url: memory://")) == (2, True)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (":nope", "has no 'nope'; there is app (Ganger), empty (Ganger), named (Worker)"),
        (":Leave", "is type, it must be a Ganger app or a Worker; there is app (Ganger)"),
        (":empty", "has no workflows; declare one with @app.workflow()"),
    ],
)
def test_what_is_not_in_the_module_is_said_with_what_is(
    run: Run, folder: Path, target: str, said: str
) -> None:
    status, _, err = run("worker", folder.stem + target)
    assert status == 2
    assert said in err


def test_a_worker_object_keeps_its_name_and_slots(run: Run, folder: Path) -> None:
    for flag in (["--name", "x"], ["--slots", "2"]):
        status, _, err = run("worker", f"{folder.stem}:named", *flag)
        assert status == 2
        assert f"{flag[0]}: {folder.stem}:named is a Worker, with its own" in err


def test_a_module_that_starts_its_worker_is_told_to_guard_it(run: Run, folder: Path) -> None:
    folder.write_text(TASKS + "\nnamed.start()\n")
    for verb in (["worker"], ["dev", "--no-reload"]):
        status, _, err = run(*verb, f"{folder.stem}:app")
        assert status == 2
        assert f"worker 'own-name': start() was called while {folder.stem!r} was imported" in err
        assert '`if __name__ == "__main__":`' in err
        assert err.count("\n") == 1


def test_a_worker_can_be_started_once_its_module_is_imported(folder: Path) -> None:
    loaded = loading.load(f"{folder.stem}:empty")
    assert isinstance(loaded, Ganger)
    with pytest.raises(InvalidWorkflow, match="has no workflow"):
        loaded.worker("w").start()  # not for being imported


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "def f():\n    import no_such_module_at_all\nf()",
            "Traceback (most recent call last):\n"
            '  File "{path}", line 3, in <module>\n    f()\n'
            '  File "{path}", line 2, in f\n    import no_such_module_at_all\n'
            "ModuleNotFoundError: No module named 'no_such_module_at_all'\n",
        ),
        (
            "x = 1\ndef f(:",
            '  File "{path}", line 2\n    def f(:\n          ^\nSyntaxError: invalid syntax\n',
        ),
    ],
)
def test_a_module_that_cannot_be_imported_shows_where(
    run: Run, folder: Path, text: str, shown: str
) -> None:
    folder.write_text(text)
    status, out, err = run("worker", f"{folder.stem}:app")
    assert (status, out) == (1, "")
    said = f"ganger: {folder.stem!r} cannot be imported:\n" + shown.format(path=folder)
    assert [line for line in err.splitlines() if set(line) - set(" ^~")] == [
        line for line in said.splitlines() if set(line) - set(" ^~")
    ]


@pytest.mark.parametrize("name", ["no_such", "no_such.part", "json.no_such"])
def test_dev_does_not_wait_for_a_module_that_is_not_there(
    run: Run, folder: Path, name: str
) -> None:
    status, _, err = run("dev", f"{name}:app")
    missing = "json.no_such" if "json" in name else "no_such"
    assert (status, err.split(";")[0]) == (
        2,
        f"ganger: there is no module {missing!r} in {folder.parent}",
    )


def test_dev_does_not_watch_what_is_not_there(run: Run, folder: Path) -> None:
    status, _, err = run("dev", f"{folder.stem}:app", "--watch", "/no/such")
    assert (status, err) == (2, "ganger: --watch: there is no /no/such\n")


def test_dev_does_not_trigger_what_the_app_does_not_have(run: Run, folder: Path) -> None:
    target = f"{folder.stem}:app"
    status, _, err = run("dev", target, "--no-reload", "--trigger", "nope")
    assert (status, err) == (
        2,
        f"ganger: --trigger: {target} has no workflow 'nope'; it has leave\n",
    )


def test_verbs_that_are_not_installed_say_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = EntryPoint("dispatcher", "no_such_module:commands", "ganger.commands")
    monkeypatch.setattr(cli, "entry_points", lambda **_: [absent])
    for words in (
        ["dispatcher", "--prefix", "x"],
        ["explain", "r/s"],
        ["match", "f", "--json"],
        ["doctor"],
        ["logs", "r"],
    ):
        status, _, err = run(*words)
        assert status == 1
        assert f"{words[0]} needs: pip install 'ganger[dispatcher]'" in err


# ── programs ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def quiet() -> Iterator[None]:
    """What is logged is not among what is printed."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    yield
    structlog.reset_defaults()


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch, quiet: None) -> Iterator[Ganger]:
    """An app with a worker, which the verbs reach as they reach a broker."""
    app = Ganger(broker_url=f"memory://{uuid4().hex}")

    @app.workflow()
    class Echo:
        @app.step()
        async def echo(self, context: Context) -> Any:
            if context.workflow_input().get("fail"):
                raise ValueError("asked to")
            context.log("a line", "warning")
            context.put_stream("a chunk")
            context.put_stream([1])
            return [context.workflow_input(), context.additional_metadata(), context.priority()]

    worker = app.worker("w", labels={"zone": "a"})
    worker.register_workflow(Echo())
    monkeypatch.setattr(ask, "_app", lambda *_: app)
    with worker:
        yield app
    app.close()


def test_trigger_prints_the_run_or_its_output(run: Run, serving: Ganger) -> None:
    assert run("trigger", "echo", "--run-id", "mine") == (0, "mine\n", "")
    assert run("trigger", "echo", "--run-id", "mine", "--json")[1] == '{\n  "run_id": "mine"\n}\n'
    status, out, _ = run(
        *("trigger", "echo", "--wait", "--timeout", "20s", "--input", '{"a": 1}'),
        *("--metadata", '{"m": 2}', "--priority", "3", "--desired-labels", '{"zone": "a"}'),
    )
    assert (status, json.loads(out)) == (0, {"echo": [{"a": 1}, {"m": 2}, 3]})
    _, out, _ = run("trigger", "echo", "--wait", "--json", "--run-id", "r2")
    assert json.loads(out) == {
        "workflow": "echo",
        "run_id": "r2",
        "status": "succeeded",
        "output": {"echo": [{}, {}, 1]},
    }


def test_following_prints_what_steps_say_and_then_the_output(run: Run, serving: Ganger) -> None:
    status, out, _ = run("trigger", "echo", "--follow", "--timeout", "20s", "--run-id", "r3")
    assert status == 0
    assert out.splitlines()[:3] == ["warning echo: a line", "a chunk", "[1]"]
    assert json.loads("".join(out.splitlines()[3:])) == {"echo": [{}, {}, 1]}
    _, out, _ = run("trigger", "echo", "--follow", "--json", "--run-id", "r4")
    *items, result = [json.loads(line) for line in out.splitlines()]
    assert [(item["seq"], item["kind"], item["data"]) for item in items] == [
        (1, "log", "a line"),
        (2, "chunk", "a chunk"),
        (3, "chunk", [1]),
    ]
    assert (result["run_id"], result["status"]) == ("r4", "succeeded")
    words = ("trigger", "echo", "--follow", "--input", '{"fail": 1}')
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert "ValueError: asked to" in err
    status, out, err = run(*words, "--json")
    assert (status, err) == (1, "")
    assert json.loads(out.splitlines()[-1])["error"]["type"] == "ValueError"


def test_a_run_that_fails_ends_with_1(run: Run, serving: Ganger) -> None:
    words = ("trigger", "echo", "--wait", "--input", '{"fail": 1}')
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert err.startswith("ganger: run ")
    assert "ValueError: asked to" in err
    status, out, err = run(*words, "--json")
    assert (status, err) == (1, "")
    assert json.loads(out)["error"]["type"] == "ValueError"


def test_a_run_that_takes_too_long_ends_with_1_and_can_be_cancelled(
    run: Run, serving: Ganger
) -> None:
    ref = serving.admin.run_workflow(
        "echo", run_id="stuck", desired_worker_labels={"zone": "nowhere"}
    )
    words = ("trigger", "echo", "--run-id", "stuck", "--wait")
    status, _, err = run(*words, "--timeout", "500ms")
    assert status == 1
    assert err == "ganger: run stuck of echo has not ended within 500ms; it goes on\n"
    asked = run("cancel", "stuck", "--reason", "enough")
    assert asked == (0, "asked to cancel run stuck\n", "")
    with pytest.raises(Exception, match="enough"):
        ref.sync_result(timeout=PATIENCE)


def test_a_cancellation_says_what_was_asked_as_json_too(run: Run, serving: Ganger) -> None:
    status, out, _ = run("cancel", "never-was", "--json")
    assert (status, json.loads(out)) == (
        0,
        {"run_id": "never-was", "reason": "cancelled on request", "requested": True},
    )


@pytest.mark.parametrize(
    "words",
    [
        ["trigger", "echo"],
        ["trigger", "echo", "--at", "2027-01-01T09:00+01:00"],
        ["cancel", "r"],
        ["unschedule", "s"],
    ],
)
def test_no_verb_tries_for_ever_where_the_broker_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: None, words: list[str]
) -> None:
    app = Ganger(broker_url="amqp://127.0.0.1:1/")
    monkeypatch.setattr(ask, "_app", lambda *_: app)
    monkeypatch.setattr(ask, "PATIENCE", "200ms")
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert "within 200ms; is the broker up" in err

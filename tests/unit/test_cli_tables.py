"""Tables show what users wrote, and say in words what there is nothing of."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ganger_broker.messages import FailureReason, RunError, RunStatus, Trigger
from ganger_dispatcher.cli import commands, matching, showing
from ganger_dispatcher.core.records import Held, RunHeader, StepRun, Worker
from ganger_dispatcher.core.states import StepStatus
from ganger_dispatcher.inspection import HELD, StepExplanation

WIDE = {"COLUMNS": "140"}


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    commands(app)
    return app


def shown(app: typer.Typer, *words: str, **environment: str) -> str:
    result = CliRunner().invoke(app, words, env={**WIDE, **environment})
    assert result.exit_code == 0, result.output
    return result.stdout


def matched(app: typer.Typer, folder: Path, workers: list[dict[str, Any]], **more: Any) -> str:
    """What ``ganger match`` prints."""
    file = folder / "fleet.json"
    file.write_text(json.dumps({"workers": workers, "desired_worker_labels": {}, **more}))
    return shown(app, "match", str(file))


@pytest.mark.parametrize("zone", ["[/eu]west", "[eu]west", "[bold]"])
def test_brackets_in_labels_are_shown(app: typer.Typer, tmp_path: Path, zone: str) -> None:
    workers = [{"id": zone, "labels": {"zone": zone}}]
    text = matched(app, tmp_path, workers, desired_worker_labels={"zone": zone})
    assert f"selected: {zone}" in text
    assert f'EQUAL "{zone}" (required): "{zone}", met' in text


def test_a_worker_without_the_action_does_not_run_it(app: typer.Typer, tmp_path: Path) -> None:
    workers = [{"id": "a", "actions": ["w:other"], "labels": {"action": "x"}}]
    exists = {"action": {"comparator": "EXISTS"}}
    text = matched(app, tmp_path, workers, action="w:s", desired_worker_labels=exists)
    assert "✗ does not run w:s" in text
    assert '✓ action EXISTS (required): "x", met' in text  # a label of that name is a label


def test_a_file_without_workers_says_so(app: typer.Typer, tmp_path: Path) -> None:
    assert matched(app, tmp_path, []) == "selected: nobody\nthere are no workers in it\n"


def test_a_step_waits_where_there_are_no_workers(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = StepExplanation("r/s", "pending", "never with this fleet", {}, None, None, [])
    monkeypatch.setattr(matching, "ask", lambda *_: waits)
    text = shown(app, "explain", "r/s")
    assert text == "r/s: pending\nnever with this fleet: there are no live workers\n"


def test_a_step_that_rests_or_is_pinned_says_so(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RunError(FailureReason.STEP_FAILED, "the site is away", type="ConnectionError")
    rests = StepExplanation(
        "r/s", "backoff", None, {}, None, None, [], retry_at=1_700_000_000_000, error=error
    )
    monkeypatch.setattr(matching, "ask", lambda *_: rests)
    said = shown(app, "explain", "r/s").splitlines()
    assert said[:2] == ["r/s: backoff", "ConnectionError: the site is away"]
    assert re.fullmatch(r"it will be tried again at \d\d:\d\d:\d\d", said[2])
    waits = StepExplanation("r/s", "pending", "never with this fleet", {}, None, None, [], "gone-1")
    monkeypatch.setattr(matching, "ask", lambda *_: waits)
    text = shown(app, "explain", "r/s")
    assert "sticky (HARD) and pinned to gone-1, which was lost or has left" in text


def a_run(run_id: str, **fields: Any) -> tuple[str, RunHeader, dict[str, StepRun]]:
    header = RunHeader(
        **{
            "workflow": "caption",
            "version": "",
            "definition": "d",
            "status": RunStatus.RUNNING,
            "input": {},
            "metadata": {},
            "priority": 1,
            "desired_worker_labels": {},
            "created_at": 0,
            **fields,
        }
    )
    return run_id, header, {"caption": StepRun(StepStatus.PENDING)}


def test_a_run_s_id_can_be_copied_whole_from_a_narrow_terminal(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = "0123456789abcdef" * 2
    monkeypatch.setattr(showing, "ask", lambda *_: ([a_run(run_id)], []))
    assert run_id in shown(app, "runs", COLUMNS="80")
    long = "x" * 128
    monkeypatch.setattr(showing, "ask", lambda *_: ([a_run(long)], []))
    assert shown(app, "runs", COLUMNS="80").count("x") == 128  # in pieces, but all of it


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunError(FailureReason.STEP_FAILED, "too big", type="ValueError"), "ValueError: too big"),
        (RunError(FailureReason.STEP_FAILED, "", type="ValueError"), "ValueError "),
        (RunError(FailureReason.WORKER_LOST, "lost 5 times"), "lost 5 times"),
        (RunError(FailureReason.WORKER_LOST, ""), FailureReason.WORKER_LOST.value),
    ],
)
def test_a_run_says_why_it_failed(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, error: RunError, said: str
) -> None:
    failed = a_run("r", status=RunStatus.FAILED, error=error, finished_at=61_000)
    monkeypatch.setattr(showing, "ask", lambda *_: ([failed], []))
    text = shown(app, "runs")
    assert said in text
    assert "took 0:01:01" in text


def held(number: int) -> Held:
    trigger = Trigger(f"w{number}", {"n": number}, run_id=f"h{number}", priority=2)
    return Held(f"h{number}", trigger, 1_700_000_000_000)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 trigger is held, as no worker has registered w0; ganger runs --held shows more"),
        (5, "5 triggers are held, as no worker has registered w0, w1, w2 and 2 more; ganger runs"),
    ],
)
def test_runs_say_that_triggers_are_held(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, count: int, said: str
) -> None:
    waiting = [held(number) for number in range(count)]
    monkeypatch.setattr(showing, "ask", lambda *_: ([], waiting))
    text = shown(app, "runs")
    assert text.startswith(f"there are no runs\n{said}")
    monkeypatch.setattr(showing, "ask", lambda *_: ([a_run("r1")], waiting))
    assert said in shown(app, "runs")
    [run] = json.loads(shown(app, "runs", "--json"))  # runs, and nothing that is none
    assert run["run_id"] == "r1"


def test_held_triggers_are_shown_with_their_workflow_and_end(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "ask", lambda *_: [held(0), held(1), held(2)])
    text = shown(app, "runs", "--held", "--limit", "2")
    assert re.search(r"│ h0 +│ w0 +│ 2023-11-1\d \d\d:\d\d:20 │", text)
    assert "h2" not in text
    assert "and 1 more; --limit shows more" in text
    assert json.loads(shown(app, "runs", "--held", "--json"))[1] == {
        "run_id": "h1",
        "workflow": "w1",
        "held_until": 1_700_000_000_000,
        "input": {"n": 1},
        "metadata": {},
        "priority": 2,
        "desired_worker_labels": {},
        "parent": None,
    }
    monkeypatch.setattr(showing, "ask", lambda *_: [])
    assert shown(app, "runs", "--held") == "no trigger is held\n"


def test_a_held_trigger_is_explained(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = StepExplanation(
        *("h/s", HELD, None, {}, None, None, []),
        waits_for="a worker with the workflow 'w'; none has registered it",
        held_until=1_700_000_000_000,
    )
    monkeypatch.setattr(matching, "ask", lambda *_: waits)
    first, second, third = shown(app, "explain", "h/s").splitlines()
    assert first == "h/s: held"
    assert second == "it waits for a worker with the workflow 'w'; none has registered it"
    assert re.fullmatch(
        r"it is held until \d\d:\d\d:20 \(GANGER_HOLD\), and dead-lettered then", third
    )


def test_a_step_that_runs_says_what_it_waits_for(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = StepExplanation("r/s", "running", None, {}, "a", None, [], waits_for="a slot again")
    monkeypatch.setattr(matching, "ask", lambda *_: waits)
    assert shown(app, "explain", "r/s") == "r/s: running on a\nit waits for a slot again\n"


def a_worker(name: str, **fields: Any) -> Worker:
    return Worker(
        **{
            "id": name,
            "incarnation": "1",
            "name": name,
            "slots": 2,
            "labels": {},
            "label_seq": 0,
            "actions": ["w:s"],
            "registered_at": 0,
            "heartbeat_at": 0,
            **fields,
        }
    )


def test_workers_show_what_they_use_where_one_has_said_it(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        a_worker("a", memory_mb=411.7, cpus=0.96),
        a_worker("b", memory_mb=12.0),
        a_worker("c"),
    ]
    monkeypatch.setattr(showing, "ask", lambda *_: found)
    text = shown(app, "workers")
    assert re.search(r"│ a +│ ready │ 0/2 +│ 412 MB +│", text)
    assert re.search(r"│ +│ +│ +│ 1\.0 cpus +│", text)
    assert re.search(r"│ b +│ ready │ 0/2 +│ 12 MB +│", text)
    told = json.loads(shown(app, "workers", "--json"))
    assert [(each["memory_mb"], each["cpus"]) for each in told][:2] == [(411.7, 0.96), (12.0, None)]
    monkeypatch.setattr(showing, "ask", lambda *_: found[2:])
    assert "uses" not in shown(app, "workers")

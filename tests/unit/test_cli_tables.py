"""Tables show what users wrote, and say in words what there is nothing of."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ganger_dispatcher.cli import commands, matching
from ganger_dispatcher.inspection import StepExplanation

WIDE = {"COLUMNS": "140"}


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    commands(app)
    return app


def matched(app: typer.Typer, folder: Path, workers: list[dict[str, Any]], **more: Any) -> str:
    """What ``ganger match`` prints."""
    file = folder / "fleet.json"
    file.write_text(json.dumps({"workers": workers, "desired_worker_labels": {}, **more}))
    result = CliRunner().invoke(app, ["match", str(file)], env=WIDE)
    assert result.exit_code == 0
    return result.stdout


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
    result = CliRunner().invoke(app, ["explain", "r/s"], env=WIDE)
    assert result.stdout == ("r/s: pending\nnever with this fleet: there are no live workers\n")

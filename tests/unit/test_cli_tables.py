"""Tables show what users wrote, brackets included."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ganger_dispatcher.cli import commands


@pytest.mark.parametrize("zone", ["[/eu]west", "[eu]west", "[bold]"])
def test_brackets_in_labels_are_shown(tmp_path: Path, zone: str) -> None:
    app = typer.Typer()
    commands(app)
    file = tmp_path / "fleet.json"
    workers = [{"id": zone, "labels": {"zone": zone}}]
    file.write_text(json.dumps({"workers": workers, "desired_worker_labels": {"zone": zone}}))
    result = CliRunner().invoke(app, ["match", str(file)], env={"COLUMNS": "140"})
    assert result.exit_code == 0
    assert f"selected: {zone}" in result.stdout
    assert f'EQUAL "{zone}" (required): "{zone}", met' in result.stdout

"""Fixtures of the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from .cli_tasks import TASKS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a module of its own in it; both are forgotten after."""
    name = f"tasks_{uuid4().hex}"
    path = tmp_path / f"{name}.py"
    path.write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield path
    sys.modules.pop(name, None)

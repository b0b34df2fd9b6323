"""Fixtures: an app in this process, a fleet of the test kit, a folder for the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ganger import Ganger
from ganger.compute.regions import _known
from ganger.testing import Fleet

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


@pytest.fixture
def app() -> Iterator[Ganger]:
    """An app with a broker of its own in this process."""
    made = Ganger(broker_url=f"memory://{uuid4().hex}")
    yield made
    made.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Workers in this process, on a time of their own: what sleeps in a step takes none of ours."""
    with Fleet() as made:
        yield made


@pytest.fixture(autouse=True)
def _regions_of_the_table() -> Iterator[None]:
    """What a test adds to the regions is forgotten after it."""
    known = dict(_known())
    yield
    _known().clear()
    _known().update(known)

"""Fixtures: an app in this process, a fleet of the test kit, a folder for the command line."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from ganger import Ganger, embedded
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
def _dispatchers_end() -> Iterator[None]:
    """What a dispatcher in this process does when the process ends, it does when the test ends.

    Those of all tests before would go on beside the next one: with its time, and in its counts.
    """
    with pytest.MonkeyPatch.context() as patch, ExitStack() as at_exit:
        patch.setattr(embedded, "_running", {})
        patch.setattr(embedded, "atexit", SimpleNamespace(register=at_exit.callback))
        patch.setattr(embedded, "ignore_signals", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _regions_of_the_table() -> Iterator[None]:
    """What a test adds to the regions is forgotten after it."""
    known = dict(_known())
    yield
    _known().clear()
    _known().update(known)

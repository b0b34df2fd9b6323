"""A replica's container: what it is called with, its variables, and whether it is well."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from ganger.cli import main
from ganger.compute.container import (
    arguments,
    environment,
    is_not_stuck,
    is_well,
    seconds_to_stop,
)
from ganger_broker.settings import Settings

from .cases import deployment, settings

RIGHT = 0


def test_the_worker_verb_takes_what_it_is_called_with(capsys: pytest.CaptureFixture[str]) -> None:
    called = arguments(deployment(target="no_such_tasks:app"), "shared-1cpu-256mb-fra", "fra")
    with pytest.raises(SystemExit):
        main([*called, "--id", "etl-0"])
    said = capsys.readouterr().err  # that there is no such app, and nothing of the flags
    assert "no_such_tasks" in said
    assert "option" not in said.lower()


def test_the_variables_make_the_settings_again_and_hold_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = Settings(
        broker_url="amqp://me:secret@host/",
        redis_url="redis://:secret@host/0",
        prefix="blue",
        queue_type="classic",
        pickup_deadline=2.5,
        drain_grace=90.0,
        log_format="json",
    )
    variables = environment(given)
    assert "secret" not in str(variables)
    for name in list(os.environ):
        if name.startswith("GANGER_"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    again = Settings.load()
    assert again.health_file is not None
    ours = {"broker_url", "redis_url", "health_file"}
    assert again.model_dump(exclude=ours) == given.model_dump(exclude=ours)


def test_settings_at_their_defaults_are_not_repeated() -> None:
    assert list(environment(settings())) == ["GANGER_DRAIN_GRACE", "GANGER_HEALTH_FILE"]


def test_it_is_ended_well_after_its_steps_grace() -> None:
    assert seconds_to_stop(settings(drain_grace=30.0)) == 45
    assert seconds_to_stop(settings(drain_grace=0.2)) > 6  # what leaving takes at most


@pytest.mark.parametrize(
    ("age", "well", "kept"),
    [(None, False, True), (0, True, True), (60, False, True), (600, False, False)],
    ids=["not there yet", "fresh", "silent a while", "stuck"],
)
def test_health_is_a_file_that_is_touched(
    tmp_path: Path, age: int | None, well: bool, kept: bool
) -> None:
    given = settings(worker_timeout=10.0)
    file = tmp_path / "health"
    if age is not None:
        file.touch()
        os.utime(file, (time.time() - age,) * 2)

    def status(test: str) -> int:
        here = test.replace(environment(given)["GANGER_HEALTH_FILE"], str(file))
        return subprocess.run(["sh", "-c", here], check=False, capture_output=True).returncode

    assert (status(is_well(given)) == RIGHT) is well
    assert (status(is_not_stuck(given)) == RIGHT) is kept

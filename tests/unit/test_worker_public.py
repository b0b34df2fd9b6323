"""What ``from ganger import …`` offers, and nothing by accident."""

import subprocess
import sys
from importlib.resources import files
from types import ModuleType

import pytest

import ganger
from ganger import Ganger, InvalidInput, InvalidLabel, InvalidSetting, Settings
from ganger_broker import errors


def test_all_is_what_there_is() -> None:
    public = {
        name
        for name, value in vars(ganger).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | {"__version__"} == set(ganger.__all__)
    assert ganger.__all__ == sorted(ganger.__all__)


def test_it_says_that_it_is_typed() -> None:
    assert files("ganger").joinpath("py.typed").is_file()


def test_every_exported_error_is_in_the_one_tree() -> None:
    raised = [
        value
        for name in ganger.__all__
        if isinstance(value := getattr(ganger, name), type) and issubclass(value, Exception)
    ]
    by_steps = {ganger.NonRetryable, ganger.RetryAfter}  # what users raise, not Ganger
    assert by_steps < set(raised)
    assert all(issubclass(error, errors.GangerError) for error in set(raised) - by_steps)


def test_a_worker_imports_neither_numpy_nor_redis_nor_the_dispatcher() -> None:
    code = (
        "import sys, ganger; "
        "print([m for m in ('numpy', 'redis', 'ganger_dispatcher') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_settings_come_from_flags_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANGER_PREFIX", "from-env")
    assert Ganger().settings.prefix == "from-env"
    assert Ganger(prefix="flag").settings.prefix == "flag"
    given = Settings.load(prefix="given")
    assert Ganger(given).settings is given
    assert Ganger(given, queue_type="classic").settings.queue_type == "classic"
    assert Ganger(given, queue_type="classic").settings.prefix == "given"
    with pytest.raises(InvalidSetting, match=r"^broker_url: "):
        Ganger(broker_url="http://nope")


def test_what_a_worker_is_given_is_checked_where_it_is_given() -> None:
    app = Ganger(broker_url="memory://")
    with pytest.raises(InvalidLabel, match=r"labels\.memory"):
        app.worker("w", labels={"memory": None})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="slots: 0 must be a whole number from 1 to 4096"):
        app.worker("w", slots=0)
    with pytest.raises(InvalidInput, match="it must be 1 to 128 letters"):
        app.worker("no spaces")
    with pytest.raises(InvalidInput, match="it must be 1 to 128 letters"):
        app.worker("w", worker_id="")
    with pytest.raises(InvalidInput, match=r"worker: id 'w:labels'; .*letters, digits and _ \. -"):
        app.worker("w", worker_id="w:labels")
    with pytest.raises(InvalidInput, match="name: '' must be a text that is not empty"):
        app.worker("", worker_id="w")
    for options in ({"worker_id": "x" * 5000}, {"slots": "x" * 5000}):
        with pytest.raises(InvalidInput) as caught:
            app.worker("w", **options)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 300
    assert app.worker("w", worker_id="w.1").id == "w.1"
    assert app.worker("w").id != app.worker("w").id

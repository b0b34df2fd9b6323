"""``MODULE:APP`` from the command line: the app or worker that it names."""

import importlib
import os
import sys
from types import ModuleType

from ganger.app import Ganger
from ganger.importing import importing
from ganger.worker import Worker
from ganger_broker.errors import InvalidInput

__all__ = ["load", "split_target"]


def load(target: str) -> Ganger | Worker:
    """Import the app or worker; the current directory is on the path.

    Raises:
        InvalidInput: there is no such module or object, or it is neither; the text says
            what there is.
    """
    module_name, name = split_target(target)
    module = _module(module_name)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise InvalidInput(f"{target!r}: {module_name} has no {name!r}; {_there_is(module)}")
        found = getattr(found, part)
    if not isinstance(found, Ganger | Worker):
        kind = type(found).__name__
        raise InvalidInput(
            f"{target!r}: is {kind}, it must be a Ganger app or a Worker; {_there_is(module)}"
        )
    return found


def split_target(target: str) -> tuple[str, str]:
    """The module's name and the object's.

    Raises:
        InvalidInput: it is not written so.
    """
    module, _, name = target.partition(":")
    if not (module and name) or "/" in module or module.endswith(".py"):
        raise InvalidInput(f"{target!r}: must be MODULE:APP, such as tasks:app or shop.tasks:app")
    return module, name


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with importing(name):
            return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise  # it is there, and imports one that is not
        there = sorted(file[:-3] for file in os.listdir(here) if file.endswith(".py"))
        raise InvalidInput(
            f"there is no module {missing!r} in {here}; "
            + (f"there are {', '.join(there)}" if there else "there are no Python files")
        ) from exc


def _there_is(module: ModuleType) -> str:
    found = [
        f"{name} ({type(value).__name__})"
        for name, value in vars(module).items()
        if isinstance(value, Ganger | Worker)
    ]
    return f"there is {', '.join(found)}" if found else "there is no Ganger app or Worker in it"

"""``MODULE:APP`` from the command line: the app or worker that it names."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from traceback import StackSummary, TracebackException
from types import ModuleType

from ganger.app import Ganger
from ganger.importing import importing
from ganger.worker import Worker
from ganger_broker.errors import GangerError, InvalidInput

__all__ = ["BrokenModule", "check_there", "load", "split_target"]


class BrokenModule(GangerError):
    """The user's module raises when it is imported; the text shows where."""


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


def check_there(target: str) -> None:
    """See that there is such a module, without importing it.

    Raises:
        InvalidInput: there is not.
    """
    parts = split_target(target)[0].split(".")
    _put_here_on_path()
    places: Sequence[str] | None = None
    for number in range(len(parts)):
        name = ".".join(parts[: number + 1])
        spec = _spec(name, places)
        if spec is None:
            raise InvalidInput(_no_module(name))
        places = spec.submodule_search_locations or []


def _spec(name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    found = (finder.find_spec(name, places) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _module(name: str) -> ModuleType:
    _put_here_on_path()
    try:
        with importing(name):
            return importlib.import_module(name)
    except GangerError:
        raise
    except Exception as exc:
        missing = exc.name or "" if isinstance(exc, ModuleNotFoundError) else None
        if missing is not None and (missing == name or name.startswith(f"{missing}.")):
            raise InvalidInput(_no_module(missing)) from exc
        raise BrokenModule(f"{name!r} cannot be imported:\n{_users_part(exc)}") from exc


def _put_here_on_path() -> None:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def _no_module(name: str) -> str:
    here = os.getcwd()
    there = sorted(file[:-3] for file in os.listdir(here) if file.endswith(".py"))
    return f"there is no module {name!r} in {here}; " + (
        f"there are {', '.join(there)}" if there else "there are no Python files"
    )


def _users_part(exc: Exception) -> str:
    """The traceback from the user's module on; what imports it is of no interest."""
    told = TracebackException.from_exception(exc)
    frames = list(told.stack)
    while frames and frames[0].filename in (__file__, importlib.__file__):
        del frames[0]
    frames = [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
    if frames:
        told.stack = StackSummary.from_list(frames)
        return "".join(told.format()).rstrip()
    return "".join(told.format_exception_only()).rstrip()


def _there_is(module: ModuleType) -> str:
    found = [
        f"{name} ({type(value).__name__})"
        for name, value in vars(module).items()
        if isinstance(value, Ganger | Worker)
    ]
    return f"there is {', '.join(found)}" if found else "there is no Ganger app or Worker in it"

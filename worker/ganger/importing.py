"""Whether the command line imports a user's module just now: no worker may start meanwhile.

A module that calls ``worker.start()`` at its top level would run that worker, without the
flags of the command, and the import would return when it has ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ganger_broker.errors import InvalidInput

__all__ = ["check_not_importing", "importing"]

_module: ContextVar[str | None] = ContextVar("importing", default=None)


@contextmanager
def importing(module: str) -> Iterator[None]:
    """While this lasts ``check_not_importing`` raises."""
    token = _module.set(module)
    try:
        yield
    finally:
        _module.reset(token)


def check_not_importing(what: str) -> None:
    """Raise where the command line is importing a module, in whose top level this is called.

    Raises:
        InvalidInput: it is; the text says how to guard the call.
    """
    module = _module.get()
    if module is not None:
        raise InvalidInput(
            f"{what} was called while {module!r} was imported, which would start it without "
            'the flags given here; put the call under `if __name__ == "__main__":`'
        )

"""The dispatcher inside this process, found through its entry point.

``ganger`` never imports ``ganger_dispatcher``: a worker install does not have it.
"""

import atexit
import contextlib
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol

from ganger_broker.errors import MissingExtra
from ganger_broker.leaving import ignore_signals
from ganger_broker.settings import MEMORY_URL, Settings

from .background import BackgroundLoop

__all__ = ["Embedded", "adopt", "embedded_settings", "ensure_dispatcher", "load_part", "release"]

STOP_PATIENCE = 5.0
"""Seconds that a dispatcher has to give back its lease when the process ends."""


class Embedded(Protocol):
    """What the entry point ``ganger.embedded`` gives for some settings."""

    async def start(self) -> None:
        """Returns when it leads and consumes."""

    async def stop(self) -> None:
        """Returns when it has stopped."""

    async def explain(self, step_run: str) -> dict[str, Any]:
        """Why a step run waits."""


_running: dict[tuple[str, str], Embedded] = {}
_lock = threading.Lock()


def embedded_settings(settings: Settings) -> Settings:
    """These settings, with Redis in memory where the broker is.

    Whatever ``GANGER_REDIS_URL`` says: what goes through a broker in memory concerns this
    process only, and each such broker has a Redis of its own. Two that shared one would
    have one leader, and the other's dispatcher would stand by for ever.
    """
    if settings.embedded and not settings.redis_url.startswith(MEMORY_URL):
        return settings.model_copy(update={"redis_url": settings.broker_url})
    return settings


def ensure_dispatcher(settings: Settings) -> Embedded:
    """The dispatcher of these settings' broker URL and prefix: one in a process.

    It has a thread of its own and stays until the process ends. Blocks until it leads.

    Raises:
        MissingExtra: it is not installed.
        GangerError: it could not start.
    """
    key = (settings.broker_url, settings.prefix)
    with _lock:
        if key not in _running:
            make = load_part("ganger.embedded", "memory://")
            dispatcher: Embedded = make(embedded_settings(settings))
            loop = BackgroundLoop("ganger-dispatcher")
            loop.call(dispatcher.start())
            atexit.register(_stop, loop, dispatcher)
            _running[key] = dispatcher
        return _running[key]


def adopt(settings: Settings, dispatcher: Embedded) -> None:
    """Have this one, which leads already, be the dispatcher of these settings."""
    with _lock:
        _running[settings.broker_url, settings.prefix] = dispatcher


def release(settings: Settings) -> None:
    """Forget the dispatcher that was adopted for these settings."""
    with _lock:
        _running.pop((settings.broker_url, settings.prefix), None)


def load_part(group: str, what: str) -> Callable[..., Any]:
    """What the dispatcher's side offers under this group of entry points.

    Raises:
        MissingExtra: it is not installed; ``what`` needs it.
    """
    found = entry_points(group=group)
    if not found:
        raise MissingExtra(f"{what} needs the dispatcher: pip install 'ganger[embedded]'")
    try:
        part: Callable[..., Any] = next(iter(found)).load()
    except ImportError as exc:
        raise MissingExtra(
            f"{what} needs the dispatcher: pip install 'ganger[embedded]' ({exc})"
        ) from exc
    return part


def _stop(loop: BackgroundLoop, dispatcher: Embedded) -> None:
    ignore_signals()  # the process ends
    with contextlib.suppress(Exception):
        loop.submit(dispatcher.stop()).result(STOP_PATIENCE)

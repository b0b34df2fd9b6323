"""What operators look for in a log, of all that happens: workers that come and go, dead letters."""

from collections.abc import Iterable

from structlog.typing import FilteringBoundLogger

from .core.effects import Effect, Note

__all__ = ["log_for_operators"]

_INFO = {"worker_joined", "worker_draining", "worker_paused", "worker_resumed", "worker_left"}
_WARNING = {
    *("worker_lost", "worker_killed", "worker_unreachable", "worker_refused", "worker_twice"),
    "dead",
}
_NAMES = {"dead": "dead_lettered"}


def log_for_operators(
    log: FilteringBoundLogger, effects: Iterable[Effect], *, embedded: bool = False
) -> None:
    """Log what the feed has of this; called once it is stored. ``embedded``: the workers are in
    this process, and say themselves that they come and go."""
    for effect in effects:
        if isinstance(effect, Note):
            if effect.kind in _INFO and not embedded:
                log.info(effect.kind, **effect.fields)
            elif effect.kind in _WARNING:
                log.warning(_NAMES.get(effect.kind, effect.kind), **effect.fields)

"""From settings to a transport: the one place that knows which adapters there are."""

import threading

from .memory import MemoryBroker, MemoryTransport
from .rabbitmq import HEARTBEAT, RabbitTransport
from .settings import Settings
from .transport import Transport

__all__ = ["drop_memory_broker", "memory_broker", "open_transport", "put_memory_broker"]

_brokers: dict[str, MemoryBroker] = {}
_brokers_lock = threading.Lock()


_SOON = 5
"""Seconds between heartbeats of what must be missed soon."""


def open_transport(settings: Settings, name: str, *, missed_soon: bool = False) -> Transport:
    """A transport of ``settings.broker_url``, not connected yet.

    ``name`` is what the broker's operator sees. ``missed_soon``: the broker is to notice within
    seconds that it is cut off, rather than to bear with an event loop that is held up.
    ``memory://`` and, say, ``memory://other`` are two brokers, each shared by all of this process.
    """
    if settings.embedded:
        return MemoryTransport(memory_broker(settings.broker_url), name=name)
    heartbeat = _SOON if missed_soon else HEARTBEAT
    return RabbitTransport(settings.broker_url, name=name, heartbeat=heartbeat)


def memory_broker(url: str) -> MemoryBroker:
    """The broker in this process of a ``memory://…`` URL."""
    with _brokers_lock:
        return _brokers.setdefault(url, MemoryBroker())


def put_memory_broker(url: str, broker: MemoryBroker) -> None:
    """Have this one be the broker of a URL that nobody uses yet."""
    with _brokers_lock:
        _brokers[url] = broker


def drop_memory_broker(url: str) -> None:
    """Forget the broker of a URL, with all that is in it."""
    with _brokers_lock:
        _brokers.pop(url, None)

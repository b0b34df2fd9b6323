"""From settings to a transport: the one place that knows which adapters there are."""

import threading

from .memory import MemoryBroker, MemoryTransport
from .rabbitmq import RabbitTransport
from .settings import Settings
from .transport import Transport

__all__ = ["drop_memory_broker", "memory_broker", "open_transport", "put_memory_broker"]

_brokers: dict[str, MemoryBroker] = {}
_brokers_lock = threading.Lock()


def open_transport(settings: Settings, name: str) -> Transport:
    """A transport of ``settings.broker_url``, not connected yet.

    ``name`` is what the broker's operator sees. ``memory://`` and, say, ``memory://other``
    are two brokers, each shared by all of this process.
    """
    if settings.embedded:
        return MemoryTransport(memory_broker(settings.broker_url), name=name)
    return RabbitTransport(settings.broker_url, name=name)


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

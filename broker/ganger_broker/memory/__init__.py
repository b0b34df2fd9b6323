"""The transport within one process: the embedded mode, and the fake for tests.

A ``MemoryBroker`` behaves as RabbitMQ does where Ganger depends on it; the same contract
suite holds both. Any number of transports, on any event loops in any threads, share one.
"""

from .broker import MemoryBroker
from .transport import MemorySubscription, MemoryTransport

__all__ = ["MemoryBroker", "MemorySubscription", "MemoryTransport"]

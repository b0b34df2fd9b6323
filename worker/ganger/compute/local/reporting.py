"""What the supervisor says of its replicas' workers to the dispatcher."""

from collections.abc import Sequence

from ganger.publishing import publish_until_confirmed
from ganger_broker.codec import encode
from ganger_broker.messages import WorkerKilled, WorkerPaused, WorkerResumed
from ganger_broker.settings import Settings
from ganger_broker.transport import Outgoing
from ganger_broker.transports import open_transport

__all__ = ["Word", "tell"]

Word = WorkerKilled | WorkerPaused | WorkerResumed
"""What is said of a worker by who keeps its process."""


async def tell(settings: Settings, words: Sequence[Word]) -> None:
    """Say it.

    Raises:
        TransportError: the broker does not take it.
    """
    topology = settings.topology()
    transport = open_transport(settings, "supervisor")
    await transport.connect()
    try:
        messages = [
            Outgoing(topology.exchange, topology.event_key(word.worker), encode([word]))
            for word in words
        ]
        await publish_until_confirmed(transport, topology, messages)
    finally:
        await transport.close()

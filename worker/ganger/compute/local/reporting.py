"""Telling the dispatcher why a replica's process is gone."""

from ganger.publishing import publish_until_confirmed
from ganger_broker.codec import encode
from ganger_broker.messages import FailureReason, WorkerKilled
from ganger_broker.settings import Settings
from ganger_broker.transport import Outgoing
from ganger_broker.transports import open_transport

__all__ = ["tell_killed"]


async def tell_killed(settings: Settings, worker: str, incarnation: str, why: str) -> None:
    """Say that this worker's process was stopped for its memory.

    Raises:
        TransportError: the broker does not take it.
    """
    topology = settings.topology()
    event = WorkerKilled(worker, incarnation, FailureReason.OUT_OF_MEMORY, why)
    transport = open_transport(settings, f"supervisor of {worker}")
    await transport.connect()
    try:
        message = Outgoing(topology.exchange, topology.event_key(worker), encode([event]))
        await publish_until_confirmed(transport, topology, [message])
    finally:
        await transport.close()

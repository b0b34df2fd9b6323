"""A look at a broker: its version, and whether what Ganger declares is there, and so."""

from dataclasses import dataclass, field

from ganger_broker.errors import TransportError
from ganger_broker.topology import Exchange, Queue, Topology

from .session import ConnectionLost, Session

__all__ = ["BrokerState", "inspect_broker"]


@dataclass
class BrokerState:
    """What was found. ``messages``: how many lie in each queue that is there."""

    version: str
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What is there with other arguments, in the broker's words."""
    messages: dict[str, int] = field(default_factory=dict)


async def inspect_broker(url: str, topology: Topology) -> BrokerState:
    """Connect once, look, and declare nothing that is not there.

    Raises:
        TransportError: it cannot be reached, or refuses.
    """
    session = await Session.open(url, "doctor")
    try:
        state = BrokerState(session.version)
        for item in topology.shared():
            if isinstance(item, Exchange | Queue):
                await _inspect(session, item, state)
        return state
    finally:
        await session.close()


async def _inspect(session: Session, item: Exchange | Queue, state: BrokerState) -> None:
    count = await session.look_up(item)
    if count is None:
        state.missing.append(item.name)
        return
    if isinstance(item, Queue):
        state.messages[item.name] = count
    try:
        await session.declare([item])  # the only way in which the broker compares arguments
    except ConnectionLost:
        raise
    except TransportError as exc:
        state.wrong.append(str(exc))

"""Publishing that does not give up: what no queue would take is tried again."""

from collections.abc import Sequence

import structlog
from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing, Published, Transport

__all__ = ["publish_until_confirmed"]

_log = structlog.get_logger(__name__)

_MOST_WAIT = 5.0
"""Seconds between two tries, at most."""


async def publish_until_confirmed(
    transport: Transport, topology: Topology, messages: Sequence[Outgoing]
) -> bool:
    """Publish, and publish again what was returned or refused, until all is confirmed.

    A returned message means that somebody deleted the shared queues, so they are declared
    again first. False when it took more than one try: the order may have suffered.

    Raises:
        TransportClosed: the transport was closed meanwhile.
        TransportError: a message cannot be packed.
    """
    left = list(messages)

    async def attempt() -> bool:
        outcomes = await transport.publish(left)
        left[:] = [
            replace(message, new=False)
            for message, outcome in zip(left, outcomes, strict=True)
            if outcome is not Published.CONFIRMED
        ]
        if Published.RETURNED in outcomes:
            await transport.declare(topology.shared())
        return not left

    if await attempt():  # nearly always: worth doing without the machinery
        return True

    def log_try(state: RetryCallState) -> None:
        keys = sorted({message.routing_key for message in left})
        _log.warning("publishing again", left=len(left), keys=keys, tries=state.attempt_number)

    retrying = AsyncRetrying(
        retry=retry_if_result(lambda done: not done),
        wait=wait_random_exponential(multiplier=0.1, max=_MOST_WAIT),
        before=log_try,
    )
    await retrying(attempt)
    return False

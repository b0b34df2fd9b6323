"""Checks of RabbitMQ."""

import re

from ganger_broker.errors import TransportError
from ganger_broker.rabbitmq import BrokerState, inspect_broker
from ganger_broker.settings import Settings
from ganger_broker.topology import Topology

from .findings import Finding, Status

__all__ = ["broker_findings", "check_broker", "is_older"]

_OLDEST = (3, 10)
"""RabbitMQ whose quorum queues know a message's time to live."""


async def check_broker(settings: Settings) -> list[Finding]:
    """Is it there, new enough, and does it hold what Ganger declares?"""
    topology = settings.topology()
    try:
        state = await inspect_broker(settings.broker_url, topology)
    except TransportError as exc:
        advice = "start RabbitMQ, or set GANGER_BROKER_URL to where it is"
        return [Finding("broker", Status.WRONG, str(exc), advice)]
    return broker_findings(state, topology)


def broker_findings(state: BrokerState, topology: Topology) -> list[Finding]:
    """What the state of a broker means."""
    return [_version(state), *_declared(state, topology), *_dead(state, topology)]


def _version(state: BrokerState) -> Finding:
    found = f"RabbitMQ {state.version}"
    if is_older(state.version, _OLDEST):
        return Finding("broker", Status.WRONG, found, "RabbitMQ 3.10 or newer is needed")
    return Finding("broker", Status.OK, found)


def _declared(state: BrokerState, topology: Topology) -> list[Finding]:
    if state.wrong:
        advice = (
            "GANGER_QUEUE_TYPE must be the same for all of a deployment; to change it, stop the "
            "dispatchers and delete the queue when it is empty"
        )
        return [Finding("queues", Status.WRONG, said, advice) for said in state.wrong]
    if topology.triggers in state.missing and topology.events in state.missing:
        text = f"not declared yet under the prefix {topology.prefix!r}"
        return [Finding("queues", Status.OK, f"{text}; the first dispatcher does it")]
    if state.missing:
        text = f"missing: {', '.join(state.missing)}"
        advice = "somebody deleted it; a dispatcher declares it again when it starts"
        return [Finding("queues", Status.WRONG, text, advice)]
    waiting = [
        f"{state.messages[name]} waiting in {name}" for name in (topology.triggers, topology.events)
    ]
    return [Finding("queues", Status.OK, f"declared as they must be; {', '.join(waiting)}")]


def _dead(state: BrokerState, topology: Topology) -> list[Finding]:
    count = state.messages.get(topology.dead)
    if count is None:
        return []
    if not count:
        return [Finding("dead letters", Status.OK, "none")]
    advice = (
        f"look at them in queue {topology.dead} (rabbitmqadmin get queue={topology.dead}): the "
        "headers ganger-reason and ganger-detail say why nobody could take them"
    )
    return [Finding("dead letters", Status.WARNING, str(count), advice)]


def is_older(version: str, oldest: tuple[int, int]) -> bool:
    """Whether it is; False where the version cannot be read."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < oldest

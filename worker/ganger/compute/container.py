"""What a replica's container is, whatever runs it: its command, environment, health and end."""

from math import ceil

from ganger_broker.deployments import Deployment
from ganger_broker.settings import Settings, environment_name

__all__ = [
    "BROKER_URL",
    "PROGRAM",
    "arguments",
    "environment",
    "handed_on",
    "is_not_stuck",
    "is_well",
    "seconds_to_stop",
]

PROGRAM = "ganger"
BROKER_URL = environment_name("broker_url")
"""Every target gives it by reference: it holds a password."""

HEALTH_FILE = "/tmp/ganger-health"  # noqa: S108  # in the container, where anybody may write
LEAVING = 15
"""Seconds beyond the grace of its steps that a worker has to say goodbye in."""
STUCK = 12
"""Silences, each long enough for a worker to be lost, until it is started anew. A broker that
is away must be no reason to throw running steps away, and it is back before that."""

_OF_THE_CONTAINER = {"broker_url", "redis_url", "health_file", "drain_grace"}
"""Settings that are not handed on: secrets, and those that every container has."""


def arguments(deployment: Deployment, pool: str, region: str) -> list[str]:
    """What ``ganger`` is called with."""
    place = ["--pool", pool, "--region", region]
    return ["worker", deployment.target, *place, "--slots", str(deployment.slots)]


def environment(settings: Settings) -> dict[str, str]:
    """Variables that hold no secret: what is handed on, and the file it is watched by."""
    return handed_on(settings) | {environment_name("health_file"): HEALTH_FILE}


def handed_on(settings: Settings) -> dict[str, str]:
    """The settings that are not at their defaults (a worker that declares its queues otherwise
    than the dispatcher is refused by the broker), and how long it drains for, as who ends it
    has to wait for that."""
    changed = {
        environment_name(name): _text(getattr(settings, name))
        for name, field in Settings.model_fields.items()
        if name not in _OF_THE_CONTAINER and getattr(settings, name) != field.default
    }
    changed[environment_name("drain_grace")] = _text(settings.drain_grace)
    return dict(sorted(changed.items()))


def _text(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def seconds_to_stop(settings: Settings) -> int:
    """Seconds from SIGTERM to SIGKILL: longer than a worker drains for."""
    return ceil(settings.drain_grace) + LEAVING


def is_well(settings: Settings) -> str:
    """For ``sh -c``: whether the broker has confirmed a heartbeat lately; no Python starts."""
    return _touched_within(ceil(settings.worker_timeout))


def is_not_stuck(settings: Settings) -> str:
    """For ``sh -c``: whether it is worth keeping. One that has not reached the broker yet is:
    starting it anew would not help it."""
    lately = _touched_within(ceil(settings.worker_timeout * STUCK))
    return f"[ ! -e {HEALTH_FILE} ] || {{ {lately}; }}"


def _touched_within(seconds: int) -> str:
    return f"at=$(stat -c %Y {HEALTH_FILE}) && [ $(($(date +%s) - at)) -lt {seconds} ]"

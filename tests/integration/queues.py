"""Queues for tests, each with a name of its own."""

import secrets

from ganger_broker.topology import Queue, QueueType

__all__ = ["a_queue"]


def a_queue(queue_type: QueueType = "classic", **arguments: object) -> Queue:
    given = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
    return Queue(f"test-{secrets.token_hex(6)}", {"x-queue-type": queue_type, **given})

"""A program that knows nothing of Ganger: raw JSON through pika."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pika

PATIENCE = 30


class Publisher:
    """Publishes triggers and reads their results, all as plain JSON."""

    def __init__(self, connection: pika.BlockingConnection, prefix: str) -> None:
        self.channel = connection.channel()
        self.graveyard = connection.channel()  # pika consumes one queue a channel
        self.channel.confirm_delivery()
        self.prefix = prefix
        self.replies = self.channel.queue_declare("", exclusive=True).method.queue

    def publish(self, key: str, body: bytes | dict, **properties: Any) -> None:
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        properties = {"content_type": "application/json", "delivery_mode": 2, **properties}
        self.channel.basic_publish(
            self.prefix, key, body, pika.BasicProperties(**properties), mandatory=True
        )

    def trigger(self, workflow: str, correlation_id: str = "", **fields: Any) -> None:
        self.publish(
            f"trigger.{workflow}",
            {"workflow": workflow, **fields},
            reply_to=self.replies,
            correlation_id=correlation_id,
        )

    def result(self) -> tuple[str, dict]:
        """The next result: correlation id and body."""
        for _, properties, body in self.channel.consume(
            self.replies, auto_ack=True, inactivity_timeout=PATIENCE
        ):
            assert body is not None, "no result came"
            read = json.loads if properties.content_type == "application/json" else msgpack.unpackb
            return properties.correlation_id, read(body)
        raise AssertionError("the reply queue is gone")

    def result_within(self, seconds: float) -> dict | None:
        """The next result's body, where one comes in time."""
        for _, _, body in self.channel.consume(
            self.replies, auto_ack=True, inactivity_timeout=seconds
        ):
            return None if body is None else json.loads(body)
        raise AssertionError("the reply queue is gone")

    def streamed(self) -> tuple[list[dict], dict]:
        """What is streamed until the next result, and that."""
        items = []
        while True:
            _, message = self.result()
            if message.get("type") != "stream_item":
                return items, message
            items.append(message)

    def dead(self) -> tuple[dict, bytes]:
        """The next dead letter: headers and body."""
        queue = f"{self.prefix}.dead"
        for _, properties, body in self.graveyard.consume(
            queue, auto_ack=True, inactivity_timeout=PATIENCE
        ):
            assert body is not None, "no dead letter came"
            return properties.headers, body
        raise AssertionError("the dead-letter queue is gone")


@contextmanager
def publisher(broker_url: str, prefix: str) -> Iterator[Publisher]:
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    try:
        yield Publisher(connection, prefix)
    finally:
        connection.close()

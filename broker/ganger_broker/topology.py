"""Names and arguments of every exchange and queue.

Declared alike by whoever comes first. ``prefix`` (``GANGER_PREFIX``) is the first word
of every name. Shared queues are quorum queues by default; queues that belong to one
worker or one client are classic, durable, and expire when their owner stays away.
Nothing here is refused by RabbitMQ 4.x, and all of it is taken by 3.10.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Binding", "Exchange", "Queue", "QueueType", "Topology"]

QueueType = Literal["quorum", "classic"]

DELIVERY_LIMIT = 20
"""Deliveries of one message before a quorum queue dead-letters it: ends a crash loop."""


@dataclass(frozen=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["topic", "direct", "fanout"]


@dataclass(frozen=True)
class Queue:
    """A durable queue; ``arguments`` are RabbitMQ's ``x-`` arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Binding:
    """Messages of ``exchange`` whose routing key matches ``key`` go to ``queue``."""

    exchange: str
    queue: str
    key: str


@dataclass(frozen=True)
class Topology:
    """All names of one deployment.

    ``pickup_deadline``: seconds an assignment may lie in a worker's queue before it goes
    back to the dispatcher. ``worker_queue_expires``: seconds a worker's queue outlives
    its consumer.
    """

    prefix: str = "ganger"
    queue_type: QueueType = "quorum"
    pickup_deadline: float = 10.0
    worker_queue_expires: float = 300.0

    @property
    def exchange(self) -> str:
        """Topic exchange for what programs and workers publish."""
        return self.prefix

    @property
    def work_exchange(self) -> str:
        """Direct exchange from the dispatcher to the workers, by worker id."""
        return f"{self.prefix}.work"

    @property
    def dead(self) -> str:
        """Exchange and queue of the messages nobody could take, each with its reason."""
        return f"{self.prefix}.dead"

    @property
    def triggers(self) -> str:
        """Queue of what programs publish: triggers, events and cancellations."""
        return f"{self.prefix}.triggers"

    @property
    def events(self) -> str:
        """Queue of what workers publish, and of assignments that came back."""
        return f"{self.prefix}.events"

    def trigger_key(self, workflow: str) -> str:
        """Routing key of a trigger."""
        return f"trigger.{workflow}"

    def cancel_key(self, run_id: str) -> str:
        """Routing key of a request to cancel a run."""
        return f"cancel.{run_id}"

    def push_key(self, event: str) -> str:
        """Routing key of an event that may start runs."""
        return f"event-push.{event}"

    def schedule_key(self, workflow: str) -> str:
        """Routing key of a request for runs at some times."""
        return f"schedule.{workflow}"

    def unschedule_key(self, schedule_id: str) -> str:
        """Routing key of a request to delete a schedule."""
        return f"unschedule.{schedule_id}"

    @property
    def schedules_key(self) -> str:
        """Routing key of a request for all schedules."""
        return "schedules"

    def event_key(self, worker: str) -> str:
        """Routing key of a worker's events."""
        return f"event.{worker}"

    def returned_key(self, worker: str) -> str:
        """Routing key of assignments that expired in a worker's queue."""
        return f"returned.{worker}"

    def worker_queue(self, worker: str) -> str:
        """The queue that only this worker consumes."""
        return f"{self.prefix}.worker.{worker}"

    def reply_queue(self, client: str) -> str:
        """The queue in which one client gets its results."""
        return f"{self.prefix}.reply.{client}"

    def shared(self) -> list[Exchange | Queue | Binding]:
        """What everybody declares before anything else, in order."""
        return [
            Exchange(self.exchange, "topic"),
            Exchange(self.work_exchange, "direct"),
            Exchange(self.dead, "fanout"),
            Queue(self.dead, {"x-queue-type": self.queue_type}),
            Binding(self.dead, self.dead, ""),
            Queue(self.triggers, self._shared_arguments()),
            Binding(self.exchange, self.triggers, "trigger.#"),
            Binding(self.exchange, self.triggers, "cancel.#"),
            Binding(self.exchange, self.triggers, "event-push.#"),
            Binding(self.exchange, self.triggers, "schedule.#"),
            Binding(self.exchange, self.triggers, "unschedule.#"),
            Binding(self.exchange, self.triggers, self.schedules_key),
            Queue(self.events, self._shared_arguments()),
            Binding(self.exchange, self.events, "event.#"),
            Binding(self.exchange, self.events, "returned.#"),
        ]

    def for_worker(self, worker: str) -> list[Exchange | Queue | Binding]:
        """A worker's own queue, dead-lettered back to the dispatcher."""
        queue = Queue(
            self.worker_queue(worker),
            {
                "x-queue-type": "classic",
                "x-message-ttl": round(self.pickup_deadline * 1000),
                "x-expires": round(self.worker_queue_expires * 1000),
                "x-dead-letter-exchange": self.exchange,
                "x-dead-letter-routing-key": self.returned_key(worker),
            },
        )
        return [queue, Binding(self.work_exchange, queue.name, worker)]

    def for_client(self, client: str) -> list[Exchange | Queue | Binding]:
        """A client's reply queue, reached through the default exchange by its name."""
        return [
            Queue(
                self.reply_queue(client),
                {"x-queue-type": "classic", "x-expires": round(self.worker_queue_expires * 1000)},
            )
        ]

    def _shared_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "x-queue-type": self.queue_type,
            "x-dead-letter-exchange": self.dead,
        }
        if self.queue_type == "quorum":
            arguments["x-delivery-limit"] = DELIVERY_LIMIT
        return arguments

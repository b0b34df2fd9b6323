"""A program and a worker that are nothing but messages, for tests of what is between them."""

import asyncio
from typing import Any

from ganger_broker.codec import JSON, decode_reply, decode_to_worker, encode
from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import (
    Event,
    Heartbeat,
    Outcome,
    RunResult,
    StepFinished,
    StepStarted,
    Trigger,
    WorkerRegistered,
)
from ganger_broker.settings import Settings
from ganger_broker.to_worker import Assignment
from ganger_broker.transport import Delivery, Outgoing
from ganger_broker.transports import open_transport
from ganger_dispatcher.embedded import EmbeddedDispatcher
from ganger_dispatcher.service import Dispatcher

__all__ = ["ADD", "Outside"]

LIMIT = 1_000_000
ADD = WorkflowDefinition("add", [StepDefinition("add")])


class Outside:
    """A program and a worker, as messages; and the dispatchers between them."""

    def __init__(self, **flags: Any) -> None:
        self.settings = Settings.load(**flags)
        self.topology = self.settings.topology()
        self.transport = open_transport(self.settings, "outside")
        self._publishing = open_transport(self.settings, "publishing")
        self.assigned: asyncio.Queue[Assignment] = asyncio.Queue()
        self.results: asyncio.Queue[RunResult] = asyncio.Queue()
        self.dead: asyncio.Queue[Delivery] = asyncio.Queue()
        self.queue_deleted = asyncio.Event()
        self.transport.on_reconnect(self.queue_deleted.set)
        self.dispatchers: list[EmbeddedDispatcher] = []

    async def open(self) -> None:
        topology, transport = self.topology, self.transport
        await transport.connect()
        await self._publishing.connect()
        await transport.declare(topology.shared() + topology.for_client("program"))
        await transport.consume(
            topology.reply_queue("program"), self._result, prefetch=10, no_ack=True
        )
        await transport.consume(topology.dead, self.dead.put_nowait, prefetch=10, no_ack=True)
        await self.dispatch()

    async def dispatch(self) -> EmbeddedDispatcher:
        dispatcher = EmbeddedDispatcher(self.settings)
        await dispatcher.start()
        self.dispatchers.append(dispatcher)
        return dispatcher

    @property
    def dispatcher(self) -> Dispatcher:
        """The first one itself: the process holds others, of tests before, which go on."""
        return self.dispatchers[0]._dispatcher

    async def reopen(self) -> None:
        """Publish on a new connection: an old one may know what is not there any more."""
        await self._publishing.close()
        self._publishing = open_transport(self.settings, "publishing")
        await self._publishing.connect()

    async def close(self) -> None:
        for dispatcher in self.dispatchers:
            await dispatcher.stop()
        await self._publishing.close()
        await self.transport.close()

    def _result(self, delivery: Delivery) -> None:
        self.results.put_nowait(decode_reply(delivery.body, delivery.content_type, LIMIT))

    def _assigned(self, delivery: Delivery) -> None:
        message = decode_to_worker(delivery.body, LIMIT)
        if isinstance(message, Assignment):
            self.assigned.put_nowait(message)

    async def declare(self, worker: str) -> None:
        """What a worker does before it registers."""
        await self.transport.declare(self.topology.for_worker(worker))
        queue = self.topology.worker_queue(worker)
        await self.transport.consume(queue, self._assigned, prefetch=10, no_ack=True)

    async def join(self, worker: str, *workflows: WorkflowDefinition, slots: int = 2) -> None:
        """Register, by default with the workflow ``add``, and consume what is assigned."""
        await self.declare(worker)
        known = list(workflows) or [ADD]
        await self.say(WorkerRegistered(worker, "1", name=worker, slots=slots, workflows=known))

    async def say(self, *events: Event) -> None:
        key = self.topology.event_key(events[0].worker)
        await self.publish(Outgoing(self.topology.exchange, key, encode(list(events))))

    async def publish(self, message: Outgoing) -> None:
        """Publish; returns when the broker has confirmed it."""
        await self._publishing.publish([message])

    async def beat(self, worker: str, *attempts: str) -> None:
        """Send heartbeats, until cancelled."""
        while True:
            await self.say(Heartbeat(worker, "1", list(attempts)))
            await asyncio.sleep(0.5)

    async def trigger(
        self,
        run_id: str | None = None,
        body: bytes | None = None,
        reply_to: str | None = None,
        *,
        new: bool = False,
    ) -> None:
        message = Outgoing(
            self.topology.exchange,
            self.topology.trigger_key("add"),
            body or encode(Trigger("add", run_id=run_id), JSON),
            content_type=JSON,
            reply_to=reply_to or self.topology.reply_queue("program"),
            correlation_id=run_id,
            new=new,
        )
        await self.publish(message)

    async def work(self, worker: str) -> Assignment:
        """Do the next step that is assigned."""
        assignment = await self.assigned.get()
        await self.say(
            StepStarted(worker, "1", assignment.attempt),
            StepFinished(worker, "1", assignment.attempt, Outcome.SUCCEEDED, {"sum": 3}),
        )
        return assignment

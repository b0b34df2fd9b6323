"""A dispatcher that follows the test's script, on a broker in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ganger.live_labels import LiveLabels
from ganger.runtime import WorkerRuntime
from ganger.workflow import bind, declaration_of
from ganger_broker.codec import decode_events, encode
from ganger_broker.memory import MemoryBroker, MemorySubscription, MemoryTransport
from ganger_broker.messages import Event, StepFinished, StepStarted, WorkerLeft, WorkerRegistered
from ganger_broker.settings import Settings
from ganger_broker.to_worker import Assignment
from ganger_broker.transport import Delivery, Outgoing, Published, Subscription

__all__ = ["PATIENCE", "FakeDispatcher", "FlakyTransport", "Working", "ended", "working"]

PATIENCE = 10.0
"""Seconds until what should have happened counts as not happening."""

E = TypeVar("E")


class FakeDispatcher:
    """Hears all events and says what the test tells it to."""

    def __init__(self, settings: Settings, broker: MemoryBroker) -> None:
        self.broker = broker
        self.settings = settings
        self.topology = settings.topology()
        self.bodies: list[list[Event]] = []
        self.registered: WorkerRegistered | None = None
        self._transport = MemoryTransport(broker)
        self._came = asyncio.Event()
        self._subscription: Subscription

    @property
    def events(self) -> list[Event]:
        """All that came, in order."""
        return [event for body in self.bodies for event in body]

    async def open(self) -> None:
        await self._transport.connect()
        await self._transport.declare(self.topology.shared())
        self._subscription = await self._transport.consume(
            self.topology.events, self._receive, prefetch=1000
        )

    async def close(self) -> None:
        await self._transport.close()

    def _receive(self, delivery: Delivery) -> None:
        if not delivery.routing_key.startswith("returned."):
            events = decode_events(delivery.body, self.settings.max_message_bytes)
            self.bodies.append(events)
            for event in events:
                if isinstance(event, WorkerRegistered):
                    self.registered = event
        self._subscription.ack([delivery])
        self._came.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for events that make it hold."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._came.clear()
                await self._came.wait()

    async def hear(self, kind: type[E], count: int = 1) -> list[E]:
        """The first ``count`` events of a kind, or more."""
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def ended(self, attempt: str) -> StepFinished:
        """How an attempt ended."""
        await self.until(lambda: any(e.attempt == attempt for e in self.of(StepFinished)))
        return next(e for e in self.of(StepFinished) if e.attempt == attempt)

    async def began(self, attempt: str) -> None:
        await self.until(lambda: any(e.attempt == attempt for e in self.of(StepStarted)))

    async def send(self, message: object, worker: str = "w") -> None:
        """Send a message, or a raw body, to the worker's queue."""
        body = message if isinstance(message, bytes) else encode(message)
        outcomes = await self._transport.publish(
            [Outgoing(self.topology.work_exchange, worker, body)]
        )
        assert outcomes == [Published.CONFIRMED]

    async def assign(self, action: str, attempt: str = "", **fields: Any) -> str:
        """Give the worker an attempt of ``<workflow>:<step>``; its id."""
        workflow, _, step = action.partition(":")
        assert self.registered is not None
        attempt = attempt or f"run/{step}/1"
        fields.setdefault("incarnation", self.registered.incarnation)
        fields.setdefault("run_id", attempt.partition("/")[0])
        await self.send(Assignment(attempt=attempt, workflow=workflow, step=step, **fields))
        return attempt


class FlakyTransport(MemoryTransport):
    """Does first with what is published what the script says, waits where the gate is shut,
    and notes what is acknowledged."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.script: list[Published] = []
        self.published: list[Outgoing] = []
        self.acknowledged: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something published or acknowledged that makes it hold."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        self.published += messages
        self._changed.set()
        await self.gate.wait()
        if self.script:
            return [self.script.pop(0) for _ in messages]
        return await super().publish(messages)

    async def consume(self, *args: Any, **options: Any) -> MemorySubscription:
        subscription = await super().consume(*args, **options)
        acknowledge = subscription.ack

        def ack(deliveries: Sequence[Delivery]) -> None:
            self.acknowledged += [delivery.body for delivery in deliveries]
            acknowledge(deliveries)
            self._changed.set()

        subscription.ack = ack  # type: ignore[method-assign]
        return subscription


class Working:
    """A running worker, the dispatcher that it talks to, and its transport."""

    def __init__(
        self,
        dispatcher: FakeDispatcher,
        runtime: WorkerRuntime,
        labels: LiveLabels,
        transport: FlakyTransport,
    ) -> None:
        self.dispatcher = dispatcher
        self.runtime = runtime
        self.labels = labels
        self.transport = transport
        self.running: asyncio.Task[None]

    async def left(self) -> None:
        """Wait until the worker has ended, and its goodbye has arrived."""
        async with asyncio.timeout(PATIENCE):
            await self.running
        await self.dispatcher.hear(WorkerLeft)


def settings_for_tests(**flags: Any) -> Settings:
    """In memory, and without heartbeats unless a test wants some."""
    given = {"broker_url": "memory://", "heartbeat_interval": 3600, "worker_timeout": 7200}
    return Settings.load(**{**given, **flags})


@asynccontextmanager
async def working(
    workflow: object,
    *,
    slots: int = 4,
    grace: float = PATIENCE,
    labels: Any = None,
    reserved: Any = None,
    **flags: Any,
) -> AsyncIterator[Working]:
    """A worker with one workflow, registered; it is stopped by force at the end."""
    settings = settings_for_tests(**flags)
    dispatcher = FakeDispatcher(settings, MemoryBroker())
    await dispatcher.open()
    transport = FlakyTransport(dispatcher.broker)
    live = LiveLabels(labels, reserved)
    runtime = WorkerRuntime(
        settings,
        transport,
        worker_id="w",
        name="worker",
        slots=slots,
        labels=live,
        workflows=[declaration_of(workflow).definition],
        steps=bind(workflow),
    )
    found = Working(dispatcher, runtime, live, transport)
    found.running = asyncio.create_task(runtime.run(grace))
    try:
        await dispatcher.hear(WorkerRegistered)
        async with asyncio.timeout(PATIENCE):
            await runtime.ready.wait()
        yield found
    finally:
        runtime.stop(force=True)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(found.running, return_exceptions=True)
        await dispatcher.close()


async def ended(found: Working, action: str, **fields: Any) -> StepFinished:
    """Assign an attempt and wait for its end."""
    attempt = await found.dispatcher.assign(action, **fields)
    return await found.dispatcher.ended(attempt)

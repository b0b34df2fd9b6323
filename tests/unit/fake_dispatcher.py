"""A dispatcher that follows the test's script, on a broker in memory."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ganger.live_labels import LiveLabels
from ganger.runtime import WorkerRuntime
from ganger.workflow import bind, declaration_of
from ganger_broker.codec import decode_events, encode
from ganger_broker.memory import MemoryBroker, MemoryTransport
from ganger_broker.messages import (
    Assignment,
    Event,
    StepFinished,
    StepStarted,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_broker.settings import Settings
from ganger_broker.transport import Delivery, Outgoing, Published, Subscription

__all__ = ["PATIENCE", "FakeDispatcher", "FlakyTransport", "run_worker", "working"]

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

    def depth(self, queue: str) -> int:
        return self.broker.depth(queue)


class FlakyTransport(MemoryTransport):
    """Says first what the script says of what is published, and loses connections on order."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.script: list[Published] = []
        self.published: list[Outgoing] = []
        self.gate: asyncio.Event | None = None
        self._callbacks: list[Callable[[], Any]] = []

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        if self.script:
            return [self.script.pop(0) for _ in messages]
        self.published += messages
        if self.gate is not None:
            await self.gate.wait()
        return await super().publish(messages)

    def on_reconnect(self, callback: Callable[[], Any]) -> None:
        self._callbacks.append(callback)

    async def reconnect(self) -> None:
        """As if the connection had been lost and were back."""
        for callback in self._callbacks:
            result = callback()
            if result is not None:
                await result


class Working:
    """A running worker, the dispatcher that it talks to, and its transport."""

    def __init__(self, dispatcher: FakeDispatcher, runtime: WorkerRuntime, labels: LiveLabels):
        self.dispatcher = dispatcher
        self.runtime = runtime
        self.labels = labels
        self.transport: FlakyTransport
        self.running: asyncio.Task[None]

    async def left(self) -> None:
        """Wait until the worker has ended by itself."""
        async with asyncio.timeout(PATIENCE):
            await self.running


def settings_for_tests(**flags: Any) -> Settings:
    return Settings.load(**{"broker_url": "memory://", "heartbeat_interval": 3600, **flags})


def make_runtime(
    broker: MemoryBroker, workflow: object, settings: Settings, slots: int = 4, **labels: Any
) -> tuple[WorkerRuntime, FlakyTransport, LiveLabels]:
    transport = FlakyTransport(broker)
    live = LiveLabels(labels)
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
    return runtime, transport, live


@asynccontextmanager
async def working(
    workflow: object, *, slots: int = 4, grace: float = PATIENCE, labels: Any = None, **flags: Any
) -> Any:
    """A worker with one workflow, registered; it is stopped by force at the end."""
    settings = settings_for_tests(**flags)
    dispatcher = FakeDispatcher(settings, MemoryBroker())
    await dispatcher.open()
    runtime, transport, live = make_runtime(
        dispatcher.broker, workflow, settings, slots, **(labels or {})
    )
    found = Working(dispatcher, runtime, live)
    found.transport = transport
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


async def run_worker(found: Working) -> WorkerLeft:
    """Stop the worker, and its goodbye."""
    found.runtime.stop()
    await found.left()
    return (await found.dispatcher.hear(WorkerLeft))[-1]

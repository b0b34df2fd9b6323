"""The dispatcher's shell, on the in-memory broker and a Redis in this process."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from ganger_broker.codec import JSON, decode_result, decode_to_worker, encode
from ganger_broker.messages import (
    Assignment,
    Event,
    Outcome,
    RunResult,
    StepDefinition,
    StepFinished,
    StepStarted,
    Trigger,
    WorkerRegistered,
    WorkflowDefinition,
)
from ganger_broker.settings import Settings
from ganger_broker.transport import Delivery, Outgoing
from ganger_broker.transports import open_transport
from ganger_dispatcher.core import Core
from ganger_dispatcher.embedded import EmbeddedDispatcher

LIMIT = 1_000_000
ADD = WorkflowDefinition("add", [StepDefinition("add")])


class Outside:
    """A program and a worker, as messages; and the dispatchers between them."""

    def __init__(self, **flags: Any) -> None:
        url = f"memory://{uuid4().hex}"
        self.settings = Settings.load(broker_url=url, redis_url=url, prefix="t", **flags)
        self.topology = self.settings.topology()
        self.transport = open_transport(self.settings, "outside")
        self.assigned: asyncio.Queue[Assignment] = asyncio.Queue()
        self.results: asyncio.Queue[RunResult] = asyncio.Queue()
        self.dead: asyncio.Queue[Delivery] = asyncio.Queue()
        self.queue_deleted = asyncio.Event()
        self.transport.on_reconnect(self.queue_deleted.set)
        self.dispatchers: list[EmbeddedDispatcher] = []

    async def open(self) -> None:
        topology, transport = self.topology, self.transport
        await transport.connect()
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

    async def close(self) -> None:
        for dispatcher in self.dispatchers:
            await dispatcher.stop()
        await self.transport.close()

    def _result(self, delivery: Delivery) -> None:
        self.results.put_nowait(decode_result(delivery.body, delivery.content_type, LIMIT))

    def _assigned(self, delivery: Delivery) -> None:
        message = decode_to_worker(delivery.body, LIMIT)
        if isinstance(message, Assignment):
            self.assigned.put_nowait(message)

    async def join(self, worker: str) -> None:
        await self.transport.declare(self.topology.for_worker(worker))
        queue = self.topology.worker_queue(worker)
        await self.transport.consume(queue, self._assigned, prefetch=10, no_ack=True)
        await self.say(WorkerRegistered(worker, "1", name=worker, slots=2, workflows=[ADD]))

    async def say(self, *events: Event) -> None:
        key = self.topology.event_key(events[0].worker)
        await self.transport.publish([Outgoing(self.topology.exchange, key, encode(list(events)))])

    async def trigger(self, run_id: str | None = None, body: bytes | None = None) -> None:
        message = Outgoing(
            self.topology.exchange,
            self.topology.trigger_key("add"),
            body or encode(Trigger("add", run_id=run_id), JSON),
            content_type=JSON,
            reply_to=self.topology.reply_queue("program"),
            correlation_id=run_id,
        )
        await self.transport.publish([message])

    async def work(self, worker: str) -> Assignment:
        """Do the next step that is assigned."""
        assignment = await self.assigned.get()
        await self.say(
            StepStarted(worker, "1", assignment.attempt),
            StepFinished(worker, "1", assignment.attempt, Outcome.SUCCEEDED, {"sum": 3}),
        )
        return assignment


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    outside = Outside(worker_timeout="500ms", lease="300ms")
    await outside.open()
    yield outside
    await outside.close()


async def test_a_trigger_becomes_a_step_and_a_result(outside: Outside) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    assert (await outside.work("w")).attempt == "r1/add/1"
    result = await outside.results.get()
    assert (result.run_id, result.status, result.output) == ("r1", "succeeded", {"add": {"sum": 3}})


async def test_a_trigger_that_comes_again_after_the_end_gets_the_same_result(
    outside: Outside,
) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    await outside.work("w")
    first = await outside.results.get()
    await outside.trigger("r1")
    assert await outside.results.get() == first
    assert outside.assigned.empty()


async def test_the_only_worker_is_lost_too(outside: Outside) -> None:
    await outside.join("silent")
    await outside.trigger("r1")
    assert (await outside.assigned.get()).attempt == "r1/add/1"
    await outside.queue_deleted.wait()
    await outside.join("next")
    assert (await outside.work("next")).attempt == "r1/add/2"
    assert (await outside.results.get()).status == "succeeded"


async def test_what_the_core_cannot_handle_is_dead_lettered_and_the_rest_goes_on(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = Core.handle

    def failing(self: Core, fact: Any, now: int) -> Any:
        if getattr(fact, "run_id", None) == "poison":
            raise RuntimeError("a defect")
        return handle(self, fact, now)

    monkeypatch.setattr(Core, "handle", failing)
    await outside.trigger("poison")
    dead = await outside.dead.get()
    assert dead.headers["ganger-reason"] == "internal_error"
    assert "a defect" in dead.headers["ganger-detail"]
    assert (await outside.results.get()).status == "failed"
    await outside.join("w")
    await outside.trigger("good")
    assert (await outside.work("w")).run_id == "good"
    assert (await outside.results.get()).run_id == "good"


async def test_a_standby_goes_on_where_the_leader_stopped(outside: Outside) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    assignment = await outside.assigned.get()
    await outside.dispatchers.pop().stop()
    await outside.trigger("r2")
    await outside.say(StepFinished("w", "1", assignment.attempt, Outcome.SUCCEEDED, {}))
    await outside.dispatch()
    again = {(await outside.assigned.get()).attempt for _ in range(2)}
    # r1 was assigned when the leader stopped, so it is sent again; the worker knows it
    assert again == {"r1/add/1", "r2/add/1"}
    assert (await outside.results.get()).run_id == "r1"

"""The dispatcher, when others meddle with its queues or name impossible addresses."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aiormq
import pika
import pytest
from structlog.testing import capture_logs
from tools.private_servers import PrivateRabbit

from ganger import Context, Ganger
from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import (
    FailureReason,
    Outcome,
    StepFinished,
    StepStarted,
    WorkerRegistered,
)
from ganger_broker.topology import Queue
from ganger_broker.transport import Delivery
from ganger_dispatcher.store import open_redis
from tests.inbox import PATIENCE
from tests.outside import ADD, Outside

REDIS_URL = os.environ.get("GANGER_REDIS_URL", "redis://127.0.0.1:6379/0")


OUTAGE = 60.0
"""Seconds until RabbitMQ must be back and everything with it."""


@pytest.fixture
async def outside(rabbit: PrivateRabbit) -> AsyncIterator[Outside]:
    prefix = f"test-{secrets.token_hex(6)}"
    outside = Outside(
        broker_url=rabbit.url, redis_url=REDIS_URL, prefix=prefix, worker_timeout="4s"
    )
    await outside.open()
    yield outside
    await outside.close()
    redis = open_redis(REDIS_URL)
    async for key in redis.scan_iter(f"{prefix}:*", count=10_000):
        await redis.delete(key)
    await redis.aclose()


def publish(outside: Outside, key: str, body: bytes = b"{}", **properties: Any) -> None:
    """Publish as another program would, with properties that Ganger's own client never gives."""
    with pika.BlockingConnection(pika.URLParameters(outside.settings.broker_url)) as connection:
        given = pika.BasicProperties(content_type="application/json", delivery_mode=2, **properties)
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(outside.topology.exchange, key, body, given, mandatory=True)


async def finishes(outside: Outside, run_id: str) -> bool:
    """Whether a run that is triggered now is worked on and answered."""
    await outside.trigger(run_id)
    async with asyncio.timeout(PATIENCE):
        await outside.work("w")
        result = await outside.results.get()
    return (result.run_id, result.status) == (run_id, "succeeded")


async def test_an_impossible_reply_address_costs_nobody_elses_answer(outside: Outside) -> None:
    """RabbitMQ closes the connection of whoever publishes to a made-up direct-reply address."""
    await outside.join("w")
    await outside.trigger("r1", reply_to="amq.rabbitmq.reply-to.g1h2AA.bogus")
    async with asyncio.timeout(PATIENCE):
        assert (await outside.work("w")).attempt == "r1/add/1"

    assert await finishes(outside, "r2")


async def test_a_dead_letter_queue_that_somebody_deleted_is_there_again(outside: Outside) -> None:
    await outside.join("w")
    await outside.transport.delete_queue(outside.topology.dead)

    await outside.trigger(body=b"no trigger")

    async with asyncio.timeout(PATIENCE):
        assert (await outside.results.get()).status == "failed"
    assert await finishes(outside, "r1")
    topology = outside.topology
    await outside.transport.declare(topology.shared())
    await outside.transport.consume(topology.dead, outside.dead.put_nowait, prefetch=1)
    async with asyncio.timeout(PATIENCE):
        assert (await outside.dead.get()).body == b"no trigger"


@pytest.mark.parametrize("timestamp", [10**15, 10**18, 2**62])
async def test_a_trigger_with_a_timestamp_that_is_no_date_is_taken(
    outside: Outside, timestamp: int
) -> None:
    await outside.join("w")
    body = b'{"workflow": "add", "run_id": "r1"}'

    await asyncio.to_thread(publish, outside, "trigger.add", body, timestamp=timestamp)

    async with asyncio.timeout(PATIENCE):
        assert (await outside.work("w")).run_id == "r1"
    assert outside.dead.empty()


async def test_a_trigger_with_an_address_that_is_no_text_is_dead_lettered(
    outside: Outside,
) -> None:
    await outside.join("w")
    body = b'{"workflow": "add", "run_id": "r1"}'
    address = {
        "reply_to": outside.topology.reply_queue("program"),
        "correlation_id": b"\xff\xfe",
    }

    await asyncio.to_thread(publish, outside, "trigger.add", body, **address)

    async with asyncio.timeout(PATIENCE):
        dead = await outside.dead.get()
        assert (await outside.results.get()).status == "failed"
    assert dead.body == body
    assert dead.headers["ganger-reason"] == "malformed"
    assert dead.headers["ganger-detail"] == "its properties: correlation_id: cannot be decoded"
    assert await finishes(outside, "r2")


async def test_a_reply_queue_that_is_full_costs_nobody_elses_answer(
    rabbit: PrivateRabbit, outside: Outside
) -> None:
    name = f"full-{secrets.token_hex(6)}"
    connection = await aiormq.connect(rabbit.url)
    channel = await connection.channel()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.queue_declare(name, arguments=full)
    await channel.basic_publish(b"", routing_key=name)
    await outside.join("w")
    await outside.trigger("r1", reply_to=name)
    async with asyncio.timeout(PATIENCE):
        assert (await outside.work("w")).run_id == "r1"

    with capture_logs() as logs:
        for number in range(2, 25):  # more than a quorum queue delivers one message
            assert await finishes(outside, f"r{number}")
    assert not [line for line in logs if line["event"] == "taking_over"]

    came: asyncio.Queue[Delivery] = asyncio.Queue()
    await outside.transport.consume(name, came.put_nowait, prefetch=1, no_ack=True)
    async with asyncio.timeout(PATIENCE):
        assert [b"r1" in (await came.get()).body for _ in range(2)] == [False, True]
    await channel.queue_delete(name)
    await connection.close()


@pytest.mark.parametrize("headers", [27_000, 32_000])
async def test_a_dead_letter_that_would_fit_no_frame_is_one_all_the_same(
    outside: Outside, headers: int
) -> None:
    """Both the headers it came with and the name of the field that is wrong are long."""
    await outside.join("w")
    body = '{"workflow": "add", "%s": 1}' % ("\U0001f600" * 1_900)
    given = {"long": "\U0001f600" * headers}

    with capture_logs() as logs:
        await asyncio.to_thread(publish, outside, "trigger.add", body.encode(), headers=given)
        async with asyncio.timeout(PATIENCE):
            assert (await outside.dead.get()).headers["ganger-reason"] == "malformed"
        assert await finishes(outside, "r1")
    assert not [line for line in logs if line["event"] in ("taking_over", "connection lost")]
    redis = open_redis(REDIS_URL)
    assert int(await redis.hget(outside.settings.keys().stats, "messages_dead")) == 1
    await redis.aclose()
    assert outside.dead.empty()


async def test_a_leader_that_is_cut_off_gets_nothing_of_what_comes(outside: Outside) -> None:
    """Its consumers are there until the broker notices; it would not process what it gets."""
    topology = outside.topology
    for queue in (topology.triggers, topology.events):
        await outside.transport.consume(queue, lambda _: None, prefetch=1000)
    await outside.join("w")

    for number in range(10):
        assert await finishes(outside, f"r{number}")


async def test_no_worker_is_lost_while_the_broker_stands_still(
    rabbit: PrivateRabbit, outside: Outside
) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    async with asyncio.timeout(PATIENCE):
        assignment = await outside.assigned.get()
    await outside.say(StepStarted("w", "1", assignment.attempt))
    beating = asyncio.create_task(outside.beat("w", assignment.attempt))

    rabbit.freeze()
    try:
        await asyncio.sleep(8)  # twice the time after which a silent worker is lost
    finally:
        rabbit.thaw()
    await outside.say(StepFinished("w", "1", assignment.attempt, Outcome.SUCCEEDED, {"sum": 3}))

    async with asyncio.timeout(PATIENCE):
        assert (await outside.results.get()).status == "succeeded"
    beating.cancel()
    redis = open_redis(REDIS_URL)
    assert await redis.hget(outside.settings.keys().stats, "workers_lost") is None
    await redis.aclose()


async def test_the_only_worker_is_lost_where_nobody_else_says_anything(outside: Outside) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    async with asyncio.timeout(PATIENCE):
        assert (await outside.assigned.get()).attempt == "r1/add/1"
        await outside.queue_deleted.wait()


async def test_what_waits_while_nobody_leads_is_not_ended_before_the_workers_are_heard(
    outside: Outside,
) -> None:
    late = WorkflowDefinition("late", [StepDefinition("s", schedule_timeout=3.0)])
    await outside.join("w", ADD, late, slots=1)
    await outside.trigger("first")
    async with asyncio.timeout(PATIENCE):
        assert (await outside.assigned.get()).run_id == "first"
    await outside.trigger("second", body=b'{"workflow": "late", "run_id": "second"}')
    redis = open_redis(REDIS_URL)
    async with asyncio.timeout(PATIENCE):
        while not await redis.zcard(outside.settings.keys().pending):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await redis.aclose()
    await outside.dispatchers.pop().stop()

    await outside.say(
        StepStarted("w", "1", "first/add/1"),
        StepFinished("w", "1", "first/add/1", Outcome.SUCCEEDED, {"sum": 3}),
    )
    await asyncio.sleep(3.5)  # its time would be over; and its worker has been idle
    await outside.dispatch()

    async with asyncio.timeout(PATIENCE):
        given = [await outside.assigned.get()]
        while given[-1].run_id == "first":  # what may not have been picked up is sent again
            given.append(await outside.assigned.get())
    assert given[-1].run_id == "second"


async def test_it_stops_while_the_broker_is_away_however_much_it_has_to_say(
    rabbit: PrivateRabbit, outside: Outside
) -> None:
    late = WorkflowDefinition("late", [StepDefinition("s", schedule_timeout=2.0)])
    await asyncio.to_thread(rabbit.restart)  # a queue made moments before a kill may not come back
    await outside.say(
        WorkerRegistered("w", "1", name="w", slots=1, workflows=[late], draining=True)
    )
    for _ in range(40):
        await outside.trigger(body=b'{"workflow": "late"}')
    await asyncio.to_thread(rabbit.kill)
    try:
        await asyncio.sleep(4)  # their time is over, and nobody can be told
        async with asyncio.timeout(30):
            await outside.dispatchers.pop().stop()
    finally:
        await asyncio.to_thread(rabbit.start)
    await outside.dispatch()
    async with asyncio.timeout(OUTAGE):
        results = [await outside.results.get() for _ in range(40)]
    reasons = {result.error.reason for result in results if result.error is not None}
    assert reasons == {FailureReason.SCHEDULING_TIMED_OUT}
    assert len({result.run_id for result in results}) == 40, "each of them is told of its own"


@pytest.mark.parametrize("what", ["exchange", "binding"])
async def test_a_worker_that_nothing_leads_to_any_more_is_found_again(
    rabbit: PrivateRabbit, outside: Outside, what: str
) -> None:
    settings, topology = outside.settings, outside.topology
    app = Ganger(broker_url=rabbit.url, redis_url=settings.redis_url, prefix=settings.prefix)

    @app.workflow(name="add")
    class Add:
        @app.step()
        async def add(self, context: Context) -> dict[str, int]:
            return {"sum": 3}

    worker = app.worker("w", worker_id="w")
    worker.register_workflow(Add())
    connection = await aiormq.connect(rabbit.url)
    channel = await connection.channel()
    async with worker:
        if what == "exchange":
            await channel.exchange_delete(topology.work_exchange)
        else:
            queue = topology.worker_queue("w")
            await channel.queue_unbind(queue, topology.work_exchange, routing_key="w")

        await outside.trigger("r1")

        async with asyncio.timeout(PATIENCE):
            assert (await outside.results.get()).status == "succeeded"
    await connection.close()


@pytest.mark.parametrize("which", ["triggers", "events"])
async def test_a_queue_that_is_made_anew_at_once_is_consumed_again(
    rabbit: PrivateRabbit, outside: Outside, which: str
) -> None:
    """RabbitMQ leaves consumers on the remains of the old one, and says nothing."""
    await outside.join("w")
    assert await finishes(outside, "r1")
    topology = outside.topology
    name = getattr(topology, which)
    [queue] = [q for q in topology.shared() if isinstance(q, Queue) and q.name == name]
    connection = await aiormq.connect(rabbit.url)
    channel = await connection.channel()

    await channel.queue_delete(name)
    await channel.queue_declare(name, durable=True, arguments=queue.arguments)
    await connection.close()
    await outside.transport.declare(topology.shared())  # with its bindings
    await outside.reopen()

    assert await finishes(outside, "r2")

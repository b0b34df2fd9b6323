"""The dispatcher's shell, on the in-memory broker and a Redis in this process."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import capture_logs

from ganger_broker.codec import encode
from ganger_broker.errors import StoreRefused
from ganger_broker.messages import Outcome, PushEvent, StepFinished, WorkerRegistered
from ganger_broker.schedules import ScheduleRuns
from ganger_broker.settings import Settings
from ganger_broker.topology import Queue
from ganger_broker.transport import Outgoing
from ganger_broker.transports import open_transport
from ganger_dispatcher import service
from ganger_dispatcher.core import Core, core
from ganger_dispatcher.core.effects import Count, Note, StoreRun
from ganger_dispatcher.operator_log import log_for_operators
from ganger_dispatcher.service import Dispatcher
from ganger_dispatcher.stopping import done_unless
from ganger_dispatcher.store import RedisStore, open_redis
from tests.outside import ADD, Outside


@pytest.fixture(autouse=True)
def all_is_logged() -> None:
    """Whatever commands were run by tests before these."""
    structlog.reset_defaults()


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    url = f"memory://{uuid4().hex}"
    outside = Outside(
        broker_url=url,
        redis_url=url,
        prefix="t",
        heartbeat_interval="250ms",
        worker_timeout="500ms",
        lease="300ms",
    )
    await outside.open()
    yield outside
    await outside.close()


async def test_a_trigger_becomes_a_step_and_a_result(outside: Outside) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    assert (await outside.work("w")).attempt == "r1/add/1"
    result = await outside.results.get()
    assert (result.run_id, result.status, result.output) == ("r1", "succeeded", {"add": {"sum": 3}})


@pytest.mark.parametrize("batches", [0, 3])
async def test_an_event_waits_for_a_worker_that_came_before_it_while_nobody_led(
    outside: Outside, batches: int
) -> None:
    await outside.dispatchers.pop().stop()
    for _ in range(batches * outside.settings.batch):
        await outside.publish(
            Outgoing(outside.topology.exchange, outside.topology.event_key("x"), encode([]))
        )
    await outside.declare("w")
    flows = [replace(ADD, on_events=["k"])]
    await outside.say(WorkerRegistered("w", "1", name="w", slots=2, workflows=flows))
    event = encode(PushEvent(event_id="e"))
    exchange, key = outside.topology.exchange, outside.topology.push_key("k")
    await outside.publish(Outgoing(exchange, key, event))
    await outside.dispatch()
    assignment = await outside.work("w")
    assert assignment.metadata == {"event": "k"}
    again = Outgoing(exchange, key, event, reply_to=outside.topology.reply_queue("program"))
    await outside.publish(again)
    assert (await outside.results.get()).run_id == assignment.run_id
    await outside.publish(again)  # it has ended, and is known to the store alone
    assert (await outside.results.get()).run_id == assignment.run_id
    assert outside.assigned.empty()


async def test_a_redis_that_was_set_back_is_begun_from_anew(outside: Outside) -> None:
    await outside.join("w")
    await outside.trigger("kept")
    await outside.work("w")
    await outside.results.get()
    redis, keys = open_redis(outside.settings.redis_url), outside.settings.keys()
    set_back = {key: await redis.dump(key) async for key in redis.scan_iter(f"{keys.prefix}:*")}
    await outside.trigger("forgotten")
    await outside.work("w")
    await outside.results.get()
    with capture_logs() as logs:
        await redis.flushdb()
        for key, value in set_back.items():
            await redis.restore(key, 0, value)
        await outside.trigger("next")
        assert (await outside.work("w")).attempt == "next/add/1"
        assert (await outside.results.get()).status == "succeeded"
    assert "redis_was_set_back" in {line["event"] for line in logs}
    assert await redis.hget(keys.run("next"), "workflow") == b"add"
    assert await redis.exists(keys.run("forgotten")) == 0
    await outside.trigger("forgotten")  # as nothing is known of it, it runs again
    assert (await outside.work("w")).attempt == "forgotten/add/1"


async def test_a_redis_that_was_set_back_while_it_ends_is_no_failure(outside: Outside) -> None:
    await outside.join("w")
    await outside.trigger("r1")
    await outside.work("w")
    await outside.results.get()
    redis, keys = open_redis(outside.settings.redis_url), outside.settings.keys()
    await redis.hset(keys.leader, "batch", "another")  # what was sent is still to be noted
    dispatcher = outside.dispatchers.pop()
    await dispatcher.stop()
    await outside.dispatch()
    await outside.trigger("r2")
    assert (await outside.work("w")).attempt == "r2/add/1"


def test_the_log_tells_of_workers_and_dead_letters() -> None:
    kinds = ["worker_joined", "placed", "worker_lost", "dead", "worker_twice"]
    with capture_logs() as logs:
        notes = [Note(kind, {"n": kind}) for kind in kinds]
        log_for_operators(structlog.get_logger(), [Count("n"), *notes])
        log_for_operators(structlog.get_logger(), [notes[0]], embedded=True)
    assert [(line["event"], line["n"], line["log_level"]) for line in logs] == [
        ("worker_joined", "worker_joined", "info"),
        ("worker_lost", "worker_lost", "warning"),
        ("dead_lettered", "dead", "warning"),
        ("worker_twice", "worker_twice", "warning"),
    ]


async def test_a_lost_worker_is_in_the_log(outside: Outside) -> None:
    with capture_logs() as logs:
        await outside.join("w")
        await outside.queue_deleted.wait()  # it never beats
    assert [line["worker"] for line in logs if line["event"] == "worker_lost"] == ["w"]


async def test_a_run_that_is_broken_in_redis_ends_no_leadership(outside: Outside) -> None:
    redis, keys = open_redis(outside.settings.redis_url), outside.settings.keys()
    await redis.hset(keys.run("r1"), "status", "succeeded")
    await outside.join("w")
    await outside.trigger("r1")
    assert (await outside.work("w")).attempt == "r1/add/1"
    assert (await outside.results.get()).status == "succeeded"
    assert len(outside.dispatchers) == 1


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


async def test_a_new_trigger_is_not_looked_up(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(*_: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(outside.dispatcher._store, "ended", ended)
    await outside.join("w")
    await outside.trigger("r1", new=True)
    await outside.trigger("r1", new=True)  # a copy: the run is known
    assert (await outside.work("w")).attempt == "r1/add/1"
    assert (await outside.results.get()).run_id == "r1"


async def test_a_copy_that_is_said_to_be_new_starts_nothing_anew(outside: Outside) -> None:
    """However the copy came: by a line that was thought dead, moved by an operator's shovel."""
    await outside.join("w")
    await outside.trigger("r1", new=True)
    await outside.work("w")
    first = await outside.results.get()
    await outside.trigger("r1", new=True)
    await outside.trigger("r2", new=True)
    assert await outside.results.get() == first
    assert (await outside.work("w")).attempt == "r2/add/1"
    assert (await outside.results.get()).run_id == "r2"
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


async def test_a_wake_up_that_the_core_cannot_handle_is_let_be_and_the_rest_goes_on(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    failed = asyncio.Event()

    def failing(_: Any, name: str) -> None:
        tried.append(name)
        failed.set()
        raise RuntimeError("a defect")

    monkeypatch.setitem(core._DUE, "schedule", failing)
    request = ScheduleRuns("add", [datetime(2020, 1, 1, tzinfo=UTC)], "past")
    key = outside.topology.schedule_key("add")
    message = Outgoing(outside.topology.exchange, key, encode(request))
    await outside.transport.publish([message])
    await failed.wait()
    await outside.join("w")
    await outside.trigger("good")
    assert (await outside.work("w")).run_id == "good"
    assert (await outside.results.get()).run_id == "good"
    assert tried == ["past"]


async def test_what_redis_refuses_again_and_again_is_kept_and_not_given_back(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back each time, it would be over its queue's delivery limit after 20 of them."""
    store, refusals = outside.dispatcher._store, iter(range(25))
    commit = store.commit

    async def refuse(epoch: int, effects: Any, *rest: Any, **named: Any) -> None:
        effects = list(effects)
        if any(isinstance(effect, StoreRun) for effect in effects) and next(refusals, None):
            raise StoreRefused("OOM command not allowed")
        await commit(epoch, effects, *rest, **named)

    monkeypatch.setattr(store, "commit", refuse)
    monkeypatch.setattr(service, "_PAUSE", 0.0)
    await outside.join("w")
    next(refusals)  # 0 would count as none left
    await outside.trigger("r1")
    assert (await outside.work("w")).run_id == "r1"
    assert (await outside.results.get()).status == "succeeded"
    assert next(refusals, None) is None
    assert outside.dead.empty()


async def test_terms_that_end_one_after_the_other_rest_longer_each_time(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    enough = asyncio.Event()

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 8:
            enough.set()
        await asyncio.sleep(0)

    async def refuse(*_: Any, **__: Any) -> None:
        raise StoreRefused("OOM command not allowed")

    monkeypatch.setattr(outside.dispatcher, "_rest", rest)
    monkeypatch.setattr(service, "_STEADY", float("inf"))  # however slow this machine is
    monkeypatch.setattr(outside.dispatcher._store, "commit", refuse)
    await outside.trigger("r1")
    await enough.wait()
    assert rests[:8] == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]


async def test_work_that_a_cancellation_was_lost_in_is_cancelled_again() -> None:
    cancelled: list[str] = []
    begun = asyncio.Event()

    async def connecting() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("lost")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("again")

    stop = asyncio.Event()
    working = asyncio.create_task(done_unless(stop, connecting()))
    await begun.wait()
    stop.set()
    async with asyncio.timeout(20):
        assert await working is False
    assert cancelled == ["lost", "again"]


async def test_it_can_be_stopped_while_it_connects() -> None:
    settings = Settings.load(broker_url="amqp://guest:guest@127.0.0.1:1/", redis_url="memory://x")
    store = RedisStore(open_redis(settings.redis_url), settings.keys())
    dispatcher = Dispatcher(settings, open_transport(settings, "early"), store)
    running = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0.3)
    dispatcher.stop()
    async with asyncio.timeout(2):
        await running
    await store.close()


async def test_a_queue_that_somebody_made_otherwise_ends_no_leadership(outside: Outside) -> None:
    with capture_logs() as logs:
        await outside.transport.delete_queue(outside.topology.dead)
        await outside.transport.declare([Queue(outside.topology.dead, {"x-max-length": 1})])
        await asyncio.sleep(1)  # it looks several times
    said = [line for line in logs if line["event"] == "declared_otherwise"]
    assert len(said) == 1
    await outside.join("w")
    await outside.trigger("r1")
    assert (await outside.work("w")).run_id == "r1"
    assert (await outside.results.get()).status == "succeeded"


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

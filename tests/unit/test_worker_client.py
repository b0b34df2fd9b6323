"""Triggering runs and getting their results."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ganger import InvalidInput, RunCancelled, RunFailed, TransportClosed, WorkflowRunRef
from ganger.client import Client
from ganger_broker.codec import decode_cancel, decode_trigger, encode
from ganger_broker.memory import MemoryBroker, MemoryTransport
from ganger_broker.messages import (
    CancelRun,
    FailureReason,
    RunError,
    RunResult,
    RunStatus,
    StreamItem,
    Trigger,
)
from ganger_broker.settings import Settings
from ganger_broker.transport import Delivery, Outgoing, Published, Subscription
from tests.unit.fake_dispatcher import PATIENCE, FlakyTransport

SETTINGS = Settings.load(broker_url="memory://", max_message_bytes=4096)


class Program:
    """A client, its transport, and what a dispatcher would get from it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.transport = FlakyTransport(self.broker)
        self.client = Client(SETTINGS, self.transport)
        self.deliveries: list[Delivery] = []
        self.came = asyncio.Event()
        self._dispatcher = MemoryTransport(self.broker)
        self._subscription: Subscription

    async def open(self) -> None:
        await self._dispatcher.connect()
        topology = SETTINGS.topology()
        await self._dispatcher.declare(topology.shared())
        self._subscription = await self._dispatcher.consume(
            topology.triggers, self._receive, prefetch=100
        )
        await self.client.connect()

    async def close(self) -> None:
        await self.client.close()
        await self._dispatcher.close()

    def _receive(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._subscription.ack([delivery])
        self.came.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.came.clear()
                await self.came.wait()

    async def answer(self, delivery: Delivery, result: Any) -> None:
        body = result if isinstance(result, bytes) else encode(result)
        message = Outgoing(
            "", delivery.reply_to or "", body, correlation_id=delivery.correlation_id
        )
        assert await self._dispatcher.publish([message]) == [Published.CONFIRMED]


@asynccontextmanager
async def program() -> AsyncIterator[Program]:
    found = Program()
    await found.open()
    try:
        yield found
    finally:
        await found.close()


def succeeded(run_id: str, output: dict[str, Any]) -> RunResult:
    return RunResult("caption", run_id, RunStatus.SUCCEEDED, output)


async def run_and_answer(found: Program, result: RunResult) -> WorkflowRunRef:
    ref = await found.client.trigger(Trigger("caption", run_id="r1"))
    await found.until(lambda: len(found.deliveries) == 1)
    await found.answer(found.deliveries[0], result)
    return ref


async def test_a_trigger_says_who_wants_the_result() -> None:
    async with program() as found:
        trigger = Trigger("caption", {"a": 1}, "r1", {"m": 2}, 3, {"memory": 512})
        ref = await found.client.trigger(trigger)
        await found.until(lambda: len(found.deliveries) == 1)
        delivery = found.deliveries[0]
        assert delivery.routing_key == "trigger.caption"
        assert decode_trigger(delivery.body, delivery.content_type, 10_000) == trigger
        assert delivery.correlation_id == "r1"
        assert delivery.reply_to == SETTINGS.topology().reply_queue(found.client.id)
        assert (ref.run_id, ref.workflow_run_id) == ("r1", "r1")
        await found.answer(delivery, succeeded("r1", {"s": [1]}))
        assert await ref.result(PATIENCE) == {"s": [1]}
        assert await ref.result() == {"s": [1]}  # as often as it is asked for


async def test_a_failed_run_raises_with_step_attempt_and_exception() -> None:
    error = RunError(
        FailureReason.STEP_FAILED, "it broke", "look", "r1/look/2", "Boom", "Traceback …"
    )
    result = RunResult("caption", "r1", RunStatus.FAILED, error=error)
    async with program() as found:
        ref = await run_and_answer(found, result)
        with pytest.raises(RunFailed) as caught:
            await ref.result(PATIENCE)
        assert str(caught.value) == (
            "run r1 of caption failed in step look (attempt r1/look/2): "
            "Boom: it broke [STEP_FAILED]"
        )
        assert caught.value.result == result
        assert caught.value.__notes__ == ["Traceback …"]
        assert not isinstance(caught.value, RunCancelled)


async def test_a_cancelled_run_raises_run_cancelled() -> None:
    error = RunError(FailureReason.SCHEDULING_TIMED_OUT, "no worker could take it within 1 s")
    async with program() as found:
        ref = await run_and_answer(
            found, RunResult("caption", "r1", RunStatus.CANCELLED, error=error)
        )
        with pytest.raises(RunCancelled, match="cancelled: no worker could take it"):
            await ref.result(PATIENCE)


async def test_a_refused_trigger_is_answered_by_its_correlation() -> None:
    error = RunError(FailureReason.INVALID_TRIGGER, "$.workflow: …")
    async with program() as found:
        ref = await run_and_answer(found, RunResult(None, None, RunStatus.FAILED, error=error))
        with pytest.raises(RunFailed, match="INVALID_TRIGGER"):
            await ref.result(PATIENCE)


async def test_a_result_that_cannot_be_read_is_an_error_and_not_a_silence() -> None:
    async with program() as found:
        ref = await found.client.trigger(Trigger("caption", run_id="r1"))
        await found.until(lambda: len(found.deliveries) == 1)
        await found.answer(found.deliveries[0], b"\xc1")
        with pytest.raises(InvalidInput, match="is not valid application/msgpack"):
            await ref.result(PATIENCE)


async def test_a_result_that_takes_too_long_is_a_time_out_and_still_comes() -> None:
    async with program() as found:
        ref = await found.client.trigger(Trigger("caption", run_id="r1"))
        with pytest.raises(TimeoutError, match=r"run r1 of caption .* within 0\.01 s; it goes on"):
            await ref.result(0.01)
        await found.until(lambda: len(found.deliveries) == 1)
        await found.answer(found.deliveries[0], succeeded("r1", {}))
        assert await ref.result(PATIENCE) == {}


async def test_the_same_run_id_is_the_same_run_for_both_who_wait() -> None:
    async with program() as found:
        one = await found.client.trigger(Trigger("caption", run_id="r1"))
        other = await found.client.trigger(Trigger("caption", run_id="r1"))
        await found.until(lambda: len(found.deliveries) == 2)
        await found.answer(found.deliveries[0], succeeded("r1", {"n": 1}))
        assert await one.result(PATIENCE) == await other.result(PATIENCE) == {"n": 1}


async def test_a_result_larger_than_a_trigger_may_be_is_taken() -> None:
    async with program() as found:
        ref = await run_and_answer(found, succeeded("r1", {"a": "x" * 4000, "b": "y" * 4000}))
        assert len((await ref.result(PATIENCE))["b"]) == 4000


async def test_a_trigger_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async with program() as found:
        with pytest.raises(InvalidInput, match="at most 4096 are taken"):
            await found.client.trigger(Trigger("caption", {"a": "x" * 5000}))
        assert found.transport.published == []


async def test_after_a_lost_connection_it_asks_again_for_what_is_awaited() -> None:
    async with program() as found:
        done = await run_and_answer(found, succeeded("r1", {}))
        await done.result(PATIENCE)
        waiting = await found.client.trigger(Trigger("caption", {"a": 1}, "r2"))
        await found.client.trigger(Trigger("caption", run_id="r3"))  # nobody can ask for it
        await found.until(lambda: len(found.deliveries) == 3)
        await found.transport.lose_connection()
        await found.until(lambda: len(found.deliveries) == 4)
        again = found.deliveries[3]
        assert again.correlation_id == "r2"
        assert again.body == found.deliveries[1].body
        await found.answer(again, succeeded("r2", {"late": True}))
        assert await waiting.result(PATIENCE) == {"late": True}


async def test_a_trigger_that_no_queue_took_is_published_again() -> None:
    async with program() as found:
        found.transport.script = [Published.RETURNED, Published.REFUSED]
        await found.client.trigger(Trigger("caption", run_id="r1"))
        await found.until(lambda: len(found.deliveries) == 1)
        assert found.deliveries[0].correlation_id == "r1"


async def test_cancel_asks_for_it() -> None:
    async with program() as found:
        await found.client.cancel(CancelRun("r1", "changed my mind"))
        await found.until(lambda: len(found.deliveries) == 1)
        delivery = found.deliveries[0]
        assert delivery.routing_key == "cancel.r1"
        request = decode_cancel(delivery.body, delivery.content_type, 10_000)
        assert request == CancelRun("r1", "changed my mind")


async def test_who_waits_when_the_client_closes_is_told_and_the_queue_is_gone() -> None:
    async with program() as found:
        ref = await found.client.trigger(Trigger("caption", run_id="r1"))
        waiting = asyncio.create_task(ref.result())
        await asyncio.sleep(0)
        await found.client.close()
        with pytest.raises(TransportClosed, match="the client was closed"):
            await waiting
        assert SETTINGS.topology().reply_queue(found.client.id) not in found.broker.queues()


async def test_a_result_may_be_had_from_a_thread_but_not_block_its_own_loop() -> None:
    async with program() as found:
        ref = await run_and_answer(found, succeeded("r1", {"n": 1}))
        with pytest.raises(RuntimeError, match=r"await result\(\)"):
            ref.sync_result(1)
        assert await asyncio.to_thread(ref.sync_result, PATIENCE) == {"n": 1}
        other_loop: list[Any] = []
        thread = threading.Thread(
            target=lambda: other_loop.append(asyncio.run(ref.result(PATIENCE)))
        )
        thread.start()
        await asyncio.to_thread(thread.join)
        assert other_loop == [{"n": 1}]


# ── streams ───────────────────────────────────────────────────────────────────────────


def chunk(seq: int, attempt: str = "r1/s/1") -> StreamItem:
    return StreamItem("r1", "s", attempt, seq, 1_000, "chunk", f"{attempt} says {seq}")


async def streaming(found: Program) -> tuple[WorkflowRunRef, Delivery]:
    ref = await found.client.trigger(Trigger("caption", run_id="r1", stream=True))
    await found.until(lambda: len(found.deliveries) == 1)
    return ref, found.deliveries[0]


async def test_a_stream_yields_what_comes_in_order_and_ends_with_the_run() -> None:
    async with program() as found:
        ref, delivery = await streaming(found)
        assert decode_trigger(delivery.body, delivery.content_type, 10_000).stream
        await found.answer(delivery, chunk(1))
        read = [await anext(items := ref.stream())]
        for item in (chunk(2), chunk(2), chunk(1), chunk(1, "r1/s/2"), chunk(2, "r1/s/2")):
            await found.answer(delivery, item)  # those that come twice are given once
        await found.answer(delivery, succeeded("r1", {"s": 1}))
        await found.answer(delivery, chunk(3, "r1/s/2"))
        read += [item async for item in items]
        assert read == [chunk(1), chunk(2), chunk(1, "r1/s/2"), chunk(2, "r1/s/2")]
        assert await ref.result(PATIENCE) == {"s": 1}
        assert [item async for item in ref.stream()] == []


async def test_what_came_before_the_stream_is_read_is_there_and_a_failed_run_ends_it() -> None:
    async with program() as found:
        ref, delivery = await streaming(found)
        await found.answer(delivery, chunk(1))
        error = RunError(FailureReason.STEP_FAILED, "it broke")
        await found.answer(delivery, RunResult("caption", "r1", RunStatus.FAILED, error=error))
        with pytest.raises(RunFailed, match="it broke"):
            await ref.result(PATIENCE)
        assert [item async for item in ref.stream()] == [chunk(1)]


async def test_a_run_that_was_not_started_with_stream_has_none() -> None:
    async with program() as found:
        ref = await found.client.trigger(Trigger("caption", run_id="r1"))
        with pytest.raises(InvalidInput, match=r"stream\(\): run r1 is not streamed; start"):
            ref.stream()
        with pytest.raises(InvalidInput, match=r"sync_stream\(\): run r1 is not streamed"):
            ref.sync_stream()
        # the same run again, by somebody who streams it: what comes from now on
        again = await found.client.trigger(Trigger("caption", run_id="r1", stream=True))
        await found.until(lambda: len(found.deliveries) == 2)
        await found.answer(found.deliveries[1], chunk(7))
        await found.answer(found.deliveries[0], succeeded("r1", {}))
        assert [item async for item in again.stream()] == [chunk(7)]


async def test_a_stream_can_be_read_from_a_thread_and_from_another_loop() -> None:
    async with program() as found:
        ref, delivery = await streaming(found)
        for seq in (1, 2):
            await found.answer(delivery, chunk(seq))

        async def elsewhere() -> Any:
            return await anext(ref.stream())

        assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == chunk(1)
        with pytest.raises(RuntimeError, match=r"sync_stream\(\) would block the event loop"):
            next(ref.sync_stream())
        await found.answer(delivery, chunk(3))
        await found.answer(delivery, succeeded("r1", {}))
        left = await asyncio.to_thread(lambda: list(ref.sync_stream()))
        assert left == [chunk(2), chunk(3)]  # an iteration given up takes nothing along


async def test_closing_the_client_ends_a_stream_with_an_error() -> None:
    async with program() as found:
        ref, _ = await streaming(found)
        reading = asyncio.create_task(anext(ref.stream()))
        await asyncio.sleep(0)
        await found.client.close()
        with pytest.raises(TransportClosed):
            await reading

"""What steps say while they run: lines to be kept, items for those who stream the run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ganger import Context, InvalidInput, step_stream
from ganger_broker.codec import JSON, MSGPACK, decode_reply
from ganger_broker.memory import MemoryTransport
from ganger_broker.messages import Outcome, ReplyAddress, StepFinished, StepLogged, StreamItem
from ganger_broker.to_worker import CancelAttempt
from ganger_broker.topology import Queue
from ganger_broker.transport import Delivery
from tests.unit.fake_dispatcher import PATIENCE, Working, working
from tests.unit.steps import Scripted


class Listener:
    """Somebody who streams a run: two queues, one for each content type."""

    def __init__(self, found: Working) -> None:
        self._transport = MemoryTransport(found.dispatcher.broker)
        self.deliveries: list[Delivery] = []
        self.came = asyncio.Event()
        self.addresses = [
            ReplyAddress("replies.json", "c1", JSON, stream=True),
            ReplyAddress("replies.msgpack", "c2", MSGPACK, stream=True),
        ]

    async def open(self) -> None:
        await self._transport.connect()
        queues = [Queue(address.reply_to) for address in self.addresses]
        await self._transport.declare(queues)
        for queue in queues:
            await self._transport.consume(queue.name, self._receive, prefetch=9_999, no_ack=True)

    async def close(self) -> None:
        await self._transport.close()

    def _receive(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.came.set()

    def items(self, kind: str = MSGPACK) -> list[StreamItem]:
        found = [
            decode_reply(each.body, each.content_type, 10**7)
            for each in self.deliveries
            if each.content_type == kind
        ]
        assert all(isinstance(item, StreamItem) for item in found)
        return [item for item in found if isinstance(item, StreamItem)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.came.clear()
                await self.came.wait()


@asynccontextmanager
async def listening(found: Working) -> AsyncIterator[Listener]:
    listener = Listener(found)
    await listener.open()
    try:
        yield listener
    finally:
        await listener.close()


def lines(found: Working) -> list[tuple[int, str, str]]:
    return [
        (line.seq, line.level, line.message)
        for event in found.dispatcher.of(StepLogged)
        for line in event.lines
    ]


async def ended(found: Working, action: str, **fields: Any) -> StepFinished:
    attempt = await found.dispatcher.assign(action, **fields)
    return await found.dispatcher.ended(attempt)


def both(say: Callable[[Context], Any]) -> Any:
    """The same step twice, as ``async def`` and in a thread."""

    async def say_async(context: Context) -> Any:
        return say(context)

    return Scripted(say_async, say)


def speak(context: Context) -> None:
    context.log("begins")
    context.put_stream("chunk")
    context.log("goes on", "warning", n=1, who="me")
    context.put_stream({"n": [1, None]})


ACTIONS = pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])


# ── lines ─────────────────────────────────────────────────────────────────────────────


@ACTIONS
async def test_lines_are_told_before_the_step_s_end_streamed_or_not(action: str) -> None:
    async with working(both(speak)) as found:
        await ended(found, action, attempt="r/s/1")
        kinds = [type(event) for event in found.dispatcher.events[-2:]]
        assert kinds == [StepLogged, StepFinished]
        assert lines(found) == [
            (1, "info", "begins"),
            (3, "warning", "goes on n=1 who='me'"),
        ]
        assert found.dispatcher.of(StepLogged)[0].attempt == "r/s/1"


async def test_lines_are_told_while_the_step_runs() -> None:
    scripted: Any = None

    async def say(context: Context) -> None:
        context.log("it runs")
        await scripted.release.wait()

    scripted = Scripted(say)
    async with working(scripted) as found:
        attempt = await found.dispatcher.assign("scripted:a")
        await found.dispatcher.hear(StepLogged)
        assert not found.dispatcher.of(StepFinished)
        scripted.release.set()
        await found.dispatcher.ended(attempt)
        assert lines(found) == [(1, "info", "it runs")]


@ACTIONS
async def test_ten_thousand_lines_are_a_few_events_with_the_newest(
    action: str,
) -> None:
    def babble(context: Context) -> None:
        for number in range(10_000):
            context.log(f"line {number}")

    async with working(both(babble)) as found:
        await ended(found, action)
        told = lines(found)
        assert told[-1_000:] == [(n + 1, "info", f"line {n}") for n in range(9_000, 10_000)]
        assert [seq for seq, *_ in told] == sorted(seq for seq, *_ in told)
        assert len(found.dispatcher.of(StepLogged)) <= len(told) / 50


async def test_a_line_is_cut_and_made_text_and_its_level_is_checked() -> None:
    async def say(context: Context) -> None:
        context.log("x" * 5_000, "error")
        context.log("\ud800")
        context.log(ValueError("an object"))  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="level: 'loud' must be one of debug, info, warn"):
            context.log("no", level="loud")  # type: ignore[arg-type]

    async with working(Scripted(say)) as found:
        end = await ended(found, "scripted:a")
        assert end.outcome is Outcome.SUCCEEDED, end
        told = lines(found)
        assert told[0] == (1, "error", "x" * 3_999 + "…")
        assert [message for *_, message in told[1:]] == [r"\ud800", "an object"]


async def test_lines_fit_the_largest_message_taken() -> None:
    def babble(context: Context) -> None:
        for _ in range(50):
            context.log("é" * 4_000)

    async with working(both(babble), max_message_bytes=2_048) as found:
        end = await ended(found, "scripted:a")
        assert end.outcome is Outcome.SUCCEEDED
        assert len(lines(found)) == 50


async def test_what_a_step_logs_while_it_is_left_to_others_is_told() -> None:
    async def say(context: Context) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            context.log("cleaning up")

    async with working(Scripted(say), grace=0) as found:
        await found.dispatcher.began(await found.dispatcher.assign("scripted:a"))
        found.runtime.stop()
        await found.left()
        assert lines(found) == [(1, "info", "cleaning up")]


# ── items ─────────────────────────────────────────────────────────────────────────────


@ACTIONS
async def test_who_streams_the_run_gets_all_of_it_in_order_in_his_content_type(
    action: str,
) -> None:
    async with working(both(speak)) as found, listening(found) as listener:
        await ended(found, action, attempt="r/s/2", stream_to=listener.addresses)
        # the end is told when the broker has the items
        for kind in (JSON, MSGPACK):
            items = listener.items(kind)
            assert [(i.seq, i.kind, i.level, i.data) for i in items] == [
                (1, "log", "info", "begins"),
                (2, "chunk", None, "chunk"),
                (3, "log", "warning", "goes on n=1 who='me'"),
                (4, "chunk", None, {"n": [1, None]}),
            ]
            assert {(i.run_id, i.attempt) for i in items} == {("r", "r/s/2")}
        assert {each.correlation_id for each in listener.deliveries} == {"c1", "c2"}


async def test_items_come_while_the_step_runs() -> None:
    scripted: Any = None

    async def say(context: Context) -> None:
        context.put_stream("now")
        await scripted.release.wait()

    scripted = Scripted(say)
    async with working(scripted) as found, listening(found) as listener:
        attempt = await found.dispatcher.assign("scripted:a", stream_to=listener.addresses)
        await listener.until(lambda: len(listener.deliveries) == 2)
        assert not found.dispatcher.of(StepFinished)
        scripted.release.set()
        await found.dispatcher.ended(attempt)


async def test_where_nobody_listens_the_step_goes_on() -> None:
    nobody = [ReplyAddress("there.is.no.such.queue", stream=True)]
    async with working(both(speak)) as found:
        end = await ended(found, "scripted:a", stream_to=nobody)
        assert end.outcome is Outcome.SUCCEEDED
        assert len(lines(found)) == 2


@ACTIONS
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"raw", "put_stream: bytes are not taken, as JSON has none; decode them"),
        ({"a": [object()]}, r"put_stream: \$.a\[0\]: builtins.object has no JSON form"),
        ("x" * 300_000, "put_stream: is 300,0.. bytes packed, at most 262,144 are taken"),
        (float("nan"), r"put_stream: \$: nan has no JSON form"),
    ],
    ids=["bytes", "object", "too large", "nan"],
)
async def test_what_cannot_be_a_chunk_is_refused_also_where_nobody_listens(
    action: str, data: Any, said: str
) -> None:
    def say(context: Context) -> str:
        with pytest.raises(InvalidInput, match=said):
            context.put_stream(data)
        return "seen"

    async with working(both(say)) as found:
        end = await ended(found, action)
        assert end.output == "seen", end.error


MUCH = "x" * 100_000


async def test_a_thread_waits_while_too_much_is_unsent_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_stream, "MAX_UNSENT_BYTES", 250_000)
    sent: list[int] = []
    begun, goes_on = threading.Event(), threading.Event()

    def say(context: Context) -> None:
        begun.set()
        goes_on.wait(PATIENCE)
        for number in range(10):
            context.put_stream(MUCH)
            sent.append(number)

    async with working(Scripted(None, say)) as found, listening(found) as listener:
        attempt = await found.dispatcher.assign("scripted:t", stream_to=listener.addresses[1:])
        await found.dispatcher.began(attempt)
        await asyncio.to_thread(begun.wait, PATIENCE)
        found.transport.gate.clear()  # the broker confirms nothing
        goes_on.set()
        await found.transport.until(
            lambda: any(m.exchange == "" for m in found.transport.published)
        )
        assert len(sent) <= 3
        found.transport.gate.set()
        await found.dispatcher.ended(attempt)
        assert [item.seq for item in listener.items()] == list(range(1, 11))


async def test_a_thread_that_waits_for_room_is_let_go_when_its_step_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_stream, "MAX_UNSENT_BYTES", 250_000)

    def say(context: Context) -> None:
        while not context.cancelled:
            context.put_stream(MUCH)

    async with working(Scripted(None, say)) as found, listening(found) as listener:
        attempt = await found.dispatcher.assign("scripted:t", stream_to=listener.addresses[1:])
        await listener.until(lambda: len(listener.deliveries) > 20)
        await found.dispatcher.send(CancelAttempt(attempt, "enough"))
        end = await found.dispatcher.ended(attempt)
        assert end.outcome is Outcome.CANCELLED


async def test_an_async_step_is_told_to_await_where_too_much_is_unsent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_stream, "MAX_UNSENT_BYTES", 250_000)

    async def say(context: Context) -> None:
        for _ in range(3):
            context.put_stream(MUCH)
        with pytest.raises(InvalidInput, match="bytes are not sent yet; `await context"):
            context.put_stream(MUCH)
        context.log("a line never fails")
        for _ in range(10):
            await context.async_put_stream(MUCH)

    async with working(Scripted(say)) as found, listening(found) as listener:
        end = await ended(found, "scripted:a", stream_to=listener.addresses[1:])
        assert end.outcome is Outcome.SUCCEEDED, end.error
        assert len(lines(found)) == 1
        assert sum(item.data == MUCH for item in listener.items()) == 13


async def test_the_worker_s_end_waits_for_the_items_of_steps_that_have_ended() -> None:
    async def say(context: Context) -> None:
        for number in range(1_000):
            context.put_stream(number)
        found.runtime.stop()

    async with working(Scripted(say)) as found, listening(found) as listener:
        await found.dispatcher.assign("scripted:a", stream_to=listener.addresses[1:])
        await found.left()
        assert [item.data for item in listener.items()] == list(range(1_000))
        assert found.dispatcher.of(StepFinished)[0].outcome is Outcome.SUCCEEDED


async def test_chunks_of_a_step_s_own_threads_are_all_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_stream, "MAX_UNSENT_BYTES", 1_000)

    async def say(context: Context) -> None:
        def in_thread() -> None:
            for _ in range(200):
                context.put_stream("thread")

        async def on_loop() -> None:
            for _ in range(200):
                await context.async_put_stream("loop")

        await asyncio.gather(on_loop(), *(asyncio.to_thread(in_thread) for _ in range(3)))

    async with working(Scripted(say)) as found, listening(found) as listener:
        end = await ended(found, "scripted:a", stream_to=listener.addresses[1:])
        assert end.outcome is Outcome.SUCCEEDED, end.error
        items = listener.items()
        assert [item.seq for item in items] == list(range(1, 801))
        assert sum(item.data == "loop" for item in items) == 200

"""Streams and logs over real servers and real processes."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import pytest

from ganger import Ganger

from .fleet import Fleet, name_of
from .processes import PATIENCE, ganger, ganger_json
from .publisher import publisher

VOICE = {"voice": 1}


@pytest.fixture
async def app(broker_url: str, prefix: str) -> AsyncIterator[Ganger]:
    """A program."""
    app = Ganger(broker_url=broker_url, prefix=prefix)
    yield app
    await app.admin.aio.close()


def said(items: list[dict]) -> list[tuple]:
    return [(item["attempt"], item["seq"], item["kind"], item["data"]) for item in items]


def talked(attempt: str, chunks: int) -> list[tuple]:
    line = (attempt, 1, "log", "line 0")
    return [line, *((attempt, n + 2, "chunk", {"chunk": n}) for n in range(chunks))]


async def test_a_json_program_reads_the_stream_of_a_lost_worker_and_of_the_next(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    await fleet.dispatcher()
    await fleet.worker("mute", {"other": 1})
    await fleet.worker("lost", VOICE)
    with publisher(broker_url, prefix) as program:
        wish = {"chunks": 3, "stay": True}
        program.trigger("talk", "it", run_id="it", input=wish, stream=True)
        first = [program.result() for _ in range(4)]
        assert {came_for for came_for, _ in first} == {"it"}
        while len(await ganger_json("logs", "it", **fleet.environment)) < 1:
            pass  # it gathers lines for a moment
        await fleet.worker("next", VOICE)
        fleet.processes["lost"].signal(signal.SIGKILL)
        items, result = program.streamed()
    assert said([item for _, item in first]) == talked("it/talk/1", 3)
    assert said(items) == talked("it/talk/2", 3)
    assert result["status"] == "succeeded"
    assert name_of(result["output"]["talk"]["worker"]) == "next"
    kept = await ganger_json("logs", "it", **fleet.environment)
    assert [(line["attempt"], line["seq"], line["message"]) for line in kept] == [
        ("it/talk/1", 1, "line 0"),
        ("it/talk/2", 1, "line 0"),
    ]
    status, text = await ganger("logs", "it", **fleet.environment)
    assert status == 0
    assert [line.split(" ", 1)[1] for line in text.splitlines()] == [
        "info    talk/1: line 0",
        "info    talk/2: line 0",
    ]


async def test_many_items_come_in_order_and_before_the_result(fleet: Fleet, app: Ganger) -> None:
    await fleet.dispatcher()
    await fleet.worker("w", VOICE)
    async with asyncio.timeout(PATIENCE):
        run = await app.admin.aio.run_workflow("talk", {"chunks": 5_000}, stream=True)
        items = [item async for item in run.stream()]
        assert "talk" in await run.result()
    assert [item.seq for item in items] == list(range(1, 5_002))
    assert [item.data["chunk"] for item in items[1:]] == list(range(5_000))


async def test_a_step_that_logs_very_much_keeps_its_worker_and_the_newest_lines(
    fleet: Fleet, app: Ganger
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "3s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    await fleet.dispatcher()
    await fleet.worker("w", VOICE)
    async with asyncio.timeout(PATIENCE):
        run = await app.admin.aio.run_workflow("talk", {"lines": 10_000}, stream=True)
        streamed = [item async for item in run.stream()]
        await run.result()
    assert {item.attempt for item in streamed} == {f"{run.run_id}/talk/1"}
    kept = await ganger_json("logs", run.run_id, **fleet.environment)
    assert [line["message"] for line in kept] == [f"line {n}" for n in range(9_000, 10_000)]


async def test_following_a_trigger_prints_what_its_steps_say_and_then_the_result(
    fleet: Fleet,
) -> None:
    await fleet.dispatcher()
    await fleet.worker("w", VOICE)
    words = ("trigger", "talk", "--run-id", "it", "--input", '{"chunks": 2}', "--follow")
    status, text = await ganger(*words, **fleet.environment)
    assert status == 0
    assert text.splitlines()[:3] == ["info    talk: line 0", '{"chunk":0}', '{"chunk":1}']
    assert "talk" in json.loads("\n".join(text.splitlines()[3:]))
    status, text = await ganger(*words[:3], "again", *words[4:], "--json", **fleet.environment)
    *items, result = [json.loads(line) for line in text.splitlines()]
    assert said(items) == talked("again/talk/1", 2)
    assert (result["run_id"], result["status"]) == ("again", "succeeded")


async def test_logs_of_a_run_that_is_not_there_and_of_a_silent_one(fleet: Fleet) -> None:
    await fleet.dispatcher()
    await fleet.worker("w", VOICE)
    status, text = await ganger("logs", "nobody", **fleet.environment)
    assert (status, text) == (2, "ganger: there is no run 'nobody' (or its retention is over)\n")
    await ganger("trigger", "plain", "--run-id", "it", "--wait", **fleet.environment)
    assert await ganger_json("logs", "it", **fleet.environment) == []
    status, text = await ganger("logs", "it", **fleet.environment)
    assert (status, text) == (0, "its steps have logged nothing\n")


async def test_a_stream_without_an_address_is_refused_with_the_field_s_name(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    with publisher(broker_url, prefix) as program:
        program.publish("trigger.talk", {"workflow": "talk", "stream": True})
        headers, _ = program.dead()
    assert headers["ganger-reason"] == "malformed"
    assert headers["ganger-detail"].startswith("$.stream: needs a reply_to")


async def test_where_the_reader_is_gone_the_run_and_its_worker_go_on(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    await fleet.worker("w", VOICE)
    with publisher(broker_url, prefix) as program:
        wish = {"workflow": "talk", "run_id": "it", "input": {"chunks": 100}, "stream": True}
        program.publish("trigger.talk", wish, reply_to="there.is.no.such.queue")
        program.trigger("talk", "after", run_id="after", stream=True)
        items, result = program.streamed()
    assert said(items) == talked("after/talk/1", 0)
    assert result["status"] == "succeeded"
    runs = await ganger_json("runs", **fleet.environment)
    assert {run["run_id"]: run["status"] for run in runs}["after"] == "succeeded"
    assert len(await ganger_json("logs", "it", **fleet.environment)) == 1

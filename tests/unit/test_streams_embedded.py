"""Streams and logs, the whole way in one process, with required labels and a worker lost."""

import asyncio
from typing import Any

import pytest

from ganger import Context, Ganger, InvalidInput, RunFailed, StreamItem
from ganger.embedded import ensure_dispatcher

PATIENCE = 20.0
GPU = {"gpu": {"value": 1, "comparator": "GREATER_THAN_OR_EQUAL"}}


def declare(app: Ganger) -> type:
    @app.workflow()
    class Talk:
        @app.step(desired_worker_labels=GPU, retries=1)
        async def think(self, context: Context) -> str:
            context.log(f"on {context.worker.name()}", "debug")
            for number in range(3):
                context.put_stream({"n": number})
            if context.workflow_input().get("stay") == context.worker.name():
                await asyncio.Event().wait()
            if context.workflow_input().get("fail") and context.retry_count() == 0:
                raise ConnectionError("once")
            return context.worker.name()

        @app.step(parents=["think"])
        def speak(self, context: Context) -> str:
            context.log("in a thread")
            context.put_stream("said")
            return "said"

    return Talk


def said(items: list[StreamItem]) -> list[tuple[str, int, Any]]:
    return [(item.attempt.partition("/")[2], item.seq, item.data) for item in items]


THOUGHTS = [(n + 2, {"n": n}) for n in range(3)]


def of(attempt: str, *first: tuple[int, Any]) -> list[tuple[str, int, Any]]:
    return [(attempt, seq, data) for seq, data in [*first, *THOUGHTS]]


SPOKEN = [("speak/1", 1, "in a thread"), ("speak/1", 2, "said")]


async def kept(app: Ganger, run_id: str) -> list[tuple[str, str, str]]:
    lines = await ensure_dispatcher(app.settings).logs(run_id)
    return [(line["attempt"].partition("/")[2], line["level"], line["message"]) for line in lines]


async def test_a_lost_worker_s_items_stay_and_its_successor_s_follow(app: Ganger) -> None:
    plain = app.worker("plain")
    first, second = (app.worker(name, labels={"gpu": 1}) for name in ("first", "second"))
    talk = declare(app)
    for worker in (plain, first, second):
        worker.register_workflow(talk)
    async with plain, first, asyncio.timeout(PATIENCE):
        run = await app.admin.aio.run_workflow(talk, {"stay": "first"}, stream=True)
        items = run.stream()
        read = [await anext(items) for _ in range(4)]
        async with second:
            first.stop(force=True)
            read += [item async for item in items]
            assert (await run.result())["think"] == "second"
        assert said(read) == [
            *of("think/1", (1, "on first")),
            *of("think/2", (1, "on second")),
            *SPOKEN,
        ]
        assert [item.kind for item in read[:2]] == ["log", "chunk"]
        assert await kept(app, run.run_id) == [
            ("think/1", "debug", "on first"),
            ("think/2", "debug", "on second"),
            ("speak/1", "info", "in a thread"),
        ]
    await app.admin.aio.close()


async def test_a_retry_begins_its_stream_anew_and_lines_are_kept_of_any_run(app: Ganger) -> None:
    worker = app.worker("gpu", labels={"gpu": 1})
    worker.register_workflow(declare(app))
    async with worker, asyncio.timeout(PATIENCE):
        run = await app.admin.aio.run_workflow("talk", {"fail": True}, stream=True)
        read = [item async for item in run.stream()]
        assert said(read) == [
            *of("think/1", (1, "on gpu")),
            *of("think/2", (1, "on gpu")),
            *SPOKEN,
        ]
        quiet = await app.admin.aio.run_workflow("talk")
        await quiet.result()
        with pytest.raises(InvalidInput, match="start it with stream=True"):
            quiet.stream()
        assert await kept(app, quiet.run_id) == [
            ("think/1", "debug", "on gpu"),
            ("speak/1", "info", "in a thread"),
        ]
    await app.admin.aio.close()


def test_a_program_that_blocks_and_functions_stream_too(app: Ganger) -> None:
    @app.task(desired_worker_labels=GPU, retries=0)
    def count(input: dict[str, Any], context: Context) -> int:
        for number in range(100):
            context.put_stream(number)
        if input.get("fail"):
            raise ValueError("at the end")
        return 100

    worker = app.worker("gpu", labels={"gpu": 2})
    worker.register_workflow(count)
    with worker:
        run = count.run_no_wait({}, stream=True)
        assert [item.data for item in run.sync_stream()] == list(range(100))
        assert run.sync_result(PATIENCE) == {"count": 100}
        failed = count.run_no_wait({"fail": True}, stream=True)
        assert [item.data for item in failed.sync_stream()] == list(range(100))
        with pytest.raises(RunFailed, match="at the end"):
            failed.sync_result(PATIENCE)


async def test_a_run_that_waits_for_its_labels_streams_when_they_come(app: Ganger) -> None:
    worker = app.worker("w", labels={"gpu": 0})
    worker.register_workflow(declare(app))
    async with worker, asyncio.timeout(PATIENCE):
        run = await app.admin.aio.run_workflow("talk", stream=True)
        worker.upsert_labels({"gpu": 1})
        assert len([item async for item in run.stream()]) == 6
    await app.admin.aio.close()


async def test_children_are_not_streamed(app: Ganger) -> None:
    talk = declare(app)

    @app.task()
    async def parent(input: dict[str, Any], context: Context) -> str:
        with pytest.raises(InvalidInput, match="stream: is not for children"):
            await context.aio.spawn_workflow(talk, stream=True)
        return "refused"

    worker = app.worker("w")
    worker.register_workflow(parent)
    async with worker:
        assert await parent.aio_run(timeout=PATIENCE) == "refused"
    await app.admin.aio.close()

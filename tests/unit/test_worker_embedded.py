"""The whole way in one process: dispatcher, workers and programs on memory://."""

import asyncio
import queue
import threading
from typing import Any
from uuid import uuid4

import pytest

from ganger import (
    Context,
    Ganger,
    InvalidInput,
    InvalidLabel,
    InvalidWorkflow,
    MissingExtra,
    RunCancelled,
    RunFailed,
    embedded,
)
from ganger_broker.settings import Settings

PATIENCE = 20.0


def declare(app: Ganger) -> type:
    @app.workflow(schedule_timeout="30s")
    class Caption:
        @app.step(
            retries=1,
            desired_worker_labels={
                "model": {"value": "new", "weight": 10},
                "memory": {"value": 256, "comparator": "GREATER_THAN"},
            },
        )
        async def caption(self, context: Context) -> dict[str, Any]:
            swapped = context.worker.get_labels().get("model") != "new"
            if swapped:
                context.worker.upsert_labels({"model": "unset"})
                context.worker.upsert_labels({"model": "new"})
            if context.workflow_input().get("fail"):
                raise ValueError(f"attempt {context.retry_count()}")
            return {"worker": context.worker.name(), "swapped": swapped}

    return Caption


async def test_a_step_goes_where_its_labels_say_and_a_swap_is_seen(app: Ganger) -> None:
    caption = declare(app)
    small = app.worker("small", labels={"model": "new", "memory": 128})
    large = app.worker("large", labels={"model": "old", "memory": 512})
    for worker in (small, large):
        worker.register_workflow(caption)
    async with small, large:
        results = []
        for _ in range(2):
            run = await app.admin.aio.run_workflow(caption)
            results.append(await run.result(PATIENCE))
        assert results == [
            {"caption": {"worker": "large", "swapped": True}},
            {"caption": {"worker": "large", "swapped": False}},
        ]
        assert large.get_labels() == {"model": "new", "memory": 512}
        run = await app.admin.aio.run_workflow(caption, desired_worker_labels={"memory": 128})
        assert (await run.result(PATIENCE))["caption"]["worker"] == "small"
    await app.admin.aio.close()


def test_a_program_without_a_loop_does_it_all_blocking(app: Ganger) -> None:
    worker = app.worker("w", labels={"memory": 512})
    worker.register_workflow(declare(app)())
    with worker:
        run = app.admin.run_workflow("caption", {}, run_id="mine", priority=3, metadata={"a": 1})
        assert run.run_id == "mine"
        assert run.sync_result(timeout=PATIENCE)["caption"]["worker"] == "w"
        with pytest.raises(RunFailed, match="ValueError: attempt 1") as caught:
            app.admin.run_workflow("caption", {"fail": True}).sync_result(timeout=PATIENCE)
        assert "mine" not in str(caught.value)
        again = app.admin.run_workflow("caption", {"fail": True}, run_id="mine")
        assert again.sync_result(timeout=PATIENCE)["caption"]["worker"] == "w"
    app.close()
    assert app.admin.run_workflow("caption").run_id  # it opens again


async def test_a_pending_run_is_released_by_a_label_or_cancelled(app: Ganger) -> None:
    worker = app.worker("w", labels={"memory": 1})
    worker.register_workflow(declare(app)())
    async with worker:
        cancelled = await app.admin.aio.run_workflow("caption")
        released = await app.admin.aio.run_workflow("caption")
        await app.admin.aio.cancel(cancelled.run_id, "not wanted")
        with pytest.raises(RunCancelled, match="not wanted"):
            await cancelled.result(PATIENCE)
        worker.upsert_labels({"memory": 512})
        assert (await released.result(PATIENCE))["caption"]["worker"] == "w"
    await app.admin.aio.close()


async def test_a_trigger_may_come_before_its_worker(app: Ganger) -> None:
    caption = declare(app)
    run = await app.admin.aio.run_workflow(caption)
    worker = app.worker("late", labels={"memory": 512})
    worker.register_workflow(caption)
    async with worker:
        assert (await run.result(PATIENCE))["caption"]["worker"] == "late"
    await app.admin.aio.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workflow": "No"}, "workflow: 'No' must be a workflow's name"),
        ({"run_id": "a b"}, "run_id: 'a b' must be 1 to 128 letters"),
        ({"priority": 4}, "priority: 4 must be 1, 2 or 3"),
        ({"input": {"a": b""}}, "input.a: builtins.bytes has no JSON form"),
        ({"input": []}, "input: [] must be a map"),
        ({"metadata": {1: 1}}, "metadata: the key 1 must be a string"),
    ],
)
def test_what_a_trigger_is_given_is_checked_where_it_is_given(
    app: Ganger, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        app.admin.run_workflow(**{"workflow": "caption", **options})
    assert said in str(caught.value)


def test_a_bad_desired_label_of_a_trigger_is_named(app: Ganger) -> None:
    with pytest.raises(InvalidLabel, match=r"desired_worker_labels\.memory\.weight: 0"):
        app.admin.run_workflow("caption", desired_worker_labels={"memory": {"weight": 0}})


def test_what_is_no_workflow_cannot_be_run(app: Ganger) -> None:
    with pytest.raises(InvalidWorkflow, match="is not a workflow"):
        app.admin.run_workflow(object())


async def test_a_worker_needs_a_workflow_and_runs_once_at_a_time(app: Ganger) -> None:
    worker = app.worker("w")
    with pytest.raises(InvalidWorkflow, match="has no workflow"):
        await worker.run()
    with pytest.raises(InvalidWorkflow, match="has no workflow"):
        async with worker:
            pass
    worker.register_workflow(declare(app)())
    async with worker:
        with pytest.raises(InvalidInput, match="is running already"):
            await worker.run()
    async with worker:  # and again, as a new incarnation
        assert worker.get_labels() == {}


def test_start_works_until_it_is_stopped(app: Ganger) -> None:
    worker = app.worker("w", labels={"memory": 512})
    worker.register_workflow(declare(app)())
    thread = threading.Thread(target=worker.start)
    thread.start()
    try:
        run = app.admin.run_workflow("caption")
        assert run.sync_result(timeout=PATIENCE)["caption"]["worker"] == "w"
    finally:
        worker.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


async def test_an_error_in_the_block_does_not_wait_for_what_runs(app: Ganger) -> None:
    started = asyncio.Event()

    @app.workflow()
    class Endless:
        @app.step()
        async def run(self, context: Context) -> None:
            started.set()
            await asyncio.get_running_loop().create_future()

    worker = app.worker("w")
    worker.register_workflow(Endless)

    async def fail_beside_it() -> None:
        async with asyncio.timeout(PATIENCE), worker:
            await app.admin.aio.run_workflow(Endless)
            await started.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_beside_it()
    await app.admin.aio.close()


def test_one_dispatcher_serves_a_url(app: Ganger) -> None:
    first = embedded.ensure_dispatcher(app.settings)
    assert embedded.ensure_dispatcher(app.settings) is first
    other = Ganger(broker_url=f"memory://{uuid4().hex}")
    assert embedded.ensure_dispatcher(other.settings) is not first


def test_redis_is_in_memory_where_the_broker_is() -> None:
    def redis_of(**flags: str) -> str:
        return embedded.embedded_settings(Settings.load(**flags)).redis_url

    assert redis_of(broker_url="memory://mine") == "memory://mine"
    assert redis_of(broker_url="memory://a", redis_url="redis://there/0") == "memory://a"
    assert redis_of(broker_url="memory://a", redis_url="memory://b") == "memory://b"
    assert redis_of(broker_url="amqp://there/").startswith("redis://")


def test_without_the_dispatcher_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def load(self) -> Any:
            raise ImportError("No module named 'numpy'")

    settings = Settings.load(broker_url=f"memory://{uuid4().hex}")
    for found in ([], [Broken()]):
        monkeypatch.setattr(embedded, "entry_points", lambda found=found, **_: found)
        with pytest.raises(MissingExtra, match=r"pip install 'ganger\[embedded\]'"):
            embedded.ensure_dispatcher(settings)


async def test_blocking_the_loop_of_a_worker_for_a_result_is_refused(app: Ganger) -> None:
    @app.workflow()
    class Child:
        @app.step()
        async def child(self, context: Context) -> int:
            return 1

    @app.workflow()
    class Parent:
        @app.step()
        async def blocks(self, context: Context) -> str:
            run = app.admin.run_workflow("child", {})
            with pytest.raises(RuntimeError) as caught:
                run.sync_result(PATIENCE)
            return str(caught.value)

        @app.step()
        def waits(self, context: Context) -> dict[str, Any]:
            return app.admin.run_workflow("child", {}).sync_result(PATIENCE)

    worker = app.worker("w")
    worker.register_workflow(Parent())
    worker.register_workflow(Child())
    async with worker:
        run = await app.admin.aio.run_workflow("parent", {})
        found = await run.result(PATIENCE)
        await app.admin.aio.close()
    assert "await result()" in found["blocks"]
    assert found["waits"] == {"child": 1}


async def test_a_worker_too_large_to_register_is_told_so() -> None:
    app = Ganger(broker_url=f"memory://{uuid4().hex}", max_message_bytes=2000)
    labels = {f"label-{number}": "v" * 100 for number in range(30)}

    @app.workflow()
    class Small:
        @app.step()
        async def small(self, context: Context) -> None: ...

    worker = app.worker("w", labels=labels)
    worker.register_workflow(Small())
    with pytest.raises(InvalidWorkflow, match=r"a registration of 3,\d+ bytes, at most 2,000"):
        await worker.run()


async def test_a_worker_with_another_definition_of_the_same_version_is_refused_loudly(
    app: Ganger,
) -> None:
    def declared(timeout: str, version: str = "") -> type:
        other = Ganger(app.settings)

        @other.workflow(version=version)
        class Same:
            @other.step(timeout=timeout)
            async def same(self, context: Context) -> str:
                return context.worker.name()

        return Same

    first, second, third = app.worker("first"), app.worker("second"), app.worker("third")
    first.register_workflow(declared("10s"))
    second.register_workflow(declared("20s"))
    third.register_workflow(declared("20s", "2"))
    async with first:
        with pytest.raises(InvalidWorkflow, match=r"workflow 'same', version '': worker first-"):
            await asyncio.wait_for(second.run(), PATIENCE)
        async with third:
            run = await app.admin.aio.run_workflow("same", {})
            assert (await run.result(PATIENCE))["same"] in ("first", "third")
    await app.admin.aio.close()


def test_events_start_runs_from_a_program_that_blocks(app: Ganger) -> None:
    ran: queue.Queue[str] = queue.Queue()

    @app.workflow(on_events=["n:*"])
    class Count:
        @app.step()
        def count(self, context: Context) -> None:
            ran.put(f"{context.additional_metadata()['event']} {context.workflow_input()}")

    worker = app.worker("w")
    worker.register_workflow(Count())
    with worker:
        ids = app.event.bulk_push([("n:1", {"a": 1}), ("n:2", {})])
        assert len(set(ids)) == 2
        assert app.event.bulk_push([("n:4", {}, {"event_id": "four"})] * 2) == ["four", "four"]
        assert app.event.push("n:3", event_id="mine", priority=3) == "mine"
        said = sorted(ran.get(timeout=PATIENCE) for _ in range(4))
    assert said == ["n:1 {'a': 1}", "n:2 {}", "n:3 {}", "n:4 {}"]
    assert ran.empty()


@pytest.mark.parametrize(
    ("key", "payload", "fields", "said"),
    [
        ("a b", {}, {}, "key: 'a b' must have 1 to 200 bytes"),
        ("a*", {}, {}, "key: 'a*' must"),
        ("", {}, {}, "key: '' must"),
        (1, {}, {}, "key: 1 must"),
        ("a", [], {}, "payload: [] must be a map"),
        ("a", {"x": {1}}, {}, "payload.x: "),
        ("a", {}, {"priority": 4}, "priority: 4 must be 1, 2 or 3"),
        ("a", {}, {"event_id": "a b"}, "event_id: 'a b' must be 1 to 128"),
        ("a", {}, {"desired_worker_labels": {"x": None}}, "desired_worker_labels.x"),
        ("a", {"x": "y" * 5_000_000}, {}, "payload: the event 'a' has 5000"),
    ],
)
def test_what_an_event_is_given_is_checked_where_it_is_given(
    app: Ganger, key: Any, payload: Any, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        app.event.push(key, payload, **fields)
    assert said in str(caught.value)


def test_of_many_events_a_bad_one_is_named_and_none_is_pushed(app: Ganger) -> None:
    with pytest.raises(InvalidInput, match=r"events\[1\]: key: 'no good'"):
        app.event.bulk_push([("fine", {}), ("no good", {})])


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ("k", "events: 'k' must be a list of (key, payload) or (key, payload, fields)"),
        (None, "events: None must be a list of"),
        ({"k": {}}, "events: {'k': {}} must be a list of"),
        (["k"], "events[0]: 'k' must be (key, payload) or (key, payload, fields)"),
        ([5], "events[0]: 5 must be (key, payload)"),
        ([("k", {}), ("k",)], "events[1]: ('k',) must be (key, payload)"),
        ([("k", {}, {}, 1)], "events[0]: ('k', {}, {}, 1) must be (key, payload)"),
        ([("k", {}, 9)], "events[0]: 9 must be a map of the other fields of an event"),
        ([("k", {}, {"id": "x"})], "events[0]: 'id' is no field of an event; there are event_id, "),
        ([("k", {}, {"priority": 9})], "events[0]: priority: 9 must be 1, 2 or 3"),
    ],
)
def test_many_events_in_a_wrong_shape_are_refused(app: Ganger, events: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        app.event.bulk_push(events)
    assert str(caught.value).startswith(said)

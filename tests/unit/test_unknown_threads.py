"""Threads that a step starts by itself: they do not know whose they are."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from structlog.testing import capture_logs

import ganger.worker
from ganger import Context, Ganger, RunFailed, Task, current_step
from ganger.testing import Fleet
from ganger.unknown_threads import _warned, check_thread, only_a_worker_here

PATIENCE = 20.0
Input = dict[str, Any]


@pytest.fixture(autouse=True)
def _nothing_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test before has left a step under way, or was warned."""
    monkeypatch.setattr(current_step, "_under_way", set())
    _warned.clear()
    yield
    _warned.clear()


@pytest.fixture
def double(app: Ganger) -> Task:
    @app.task()
    def double(input: Input, context: Context) -> int:
        return int(input["n"]) * 2

    return double


def in_pool(call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(call, range(4)))


def warnings_of(logs: list[Any]) -> list[str]:
    return [log["call"] for log in logs if log["event"].startswith("waiting for a run in a thread")]


@pytest.mark.parametrize("many", [False, True])
def test_in_a_worker_s_process_they_are_refused_before_anything_is_started(
    app: Ganger, fleet: Fleet, double: Task, many: bool
) -> None:
    @app.task()
    def fan(input: Input, context: Context) -> Any:
        if many:
            return in_pool(lambda n: double.run_many([{"n": n}]))
        return in_pool(lambda n: double.run({"n": n}))

    fleet.worker("w", app, slots=1)
    with only_a_worker_here(), pytest.raises(RunFailed) as caught:
        _ = fleet.run("fan").output
    call = "double.run_many()" if many else "double.run()"
    assert f"{call} in thread 'ThreadPoolExecutor-" in str(caught.value)
    assert "call context.spawn_workflow(…).sync_result()" in str(caught.value)
    assert "pool.submit(contextvars.copy_context().run, function, …)" in str(caught.value)
    assert "For a run that no step waits for: double.run_no_wait(…)" in str(caught.value)
    assert fleet.runs("double") == []


def test_in_an_executor_of_the_loop_too(app: Ganger, fleet: Fleet, double: Task) -> None:
    @app.task()
    async def fan(input: Input, context: Context) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: double.run({"n": 1}))

    fleet.worker("w", app, slots=1)
    with only_a_worker_here(), pytest.raises(RunFailed, match=r"double\.run\(\) in thread "):
        _ = fleet.run("fan").output


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("of_a_plain_function", [False, True])
def test_an_event_loop_of_such_a_thread_is_no_way_round(
    app: Ganger, fleet: Fleet, double: Task, many: bool, of_a_plain_function: bool
) -> None:
    def by_loop(n: int) -> Any:
        if many:
            return asyncio.run(double.aio_run_many([{"n": n}]))
        return asyncio.run(double.aio_run({"n": n}))

    @app.task()
    def fan(input: Input, context: Context) -> Any:
        return in_pool(by_loop)

    @app.task()
    async def aio_fan(input: Input, context: Context) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, by_loop, 1)

    fleet.worker("w", app, slots=1)
    with only_a_worker_here(), pytest.raises(RunFailed) as caught:
        _ = fleet.run("fan" if of_a_plain_function else "aio_fan").output
    call, each = ("aio_run_many", " for each") if many else ("aio_run", "")
    assert f"double.{call}() in thread " in str(caught.value)
    instead = f"For a run that no step waits for: double.aio_run_no_wait(…){each}"
    assert instead in str(caught.value)
    assert fleet.runs("double") == []


def test_an_event_loop_where_the_step_is_known_spawns_children(
    app: Ganger, fleet: Fleet, double: Task
) -> None:
    async def both() -> Any:
        return await double.aio_run({"n": 1}), *await double.aio_run_many([{"n": 2}])

    @app.task()
    def own(input: Input, context: Context) -> Any:
        return asyncio.run(both())

    @app.task()
    async def to_thread(input: Input, context: Context) -> Any:
        return await asyncio.to_thread(asyncio.run, both())

    @app.task()
    async def on_the_worker_s(input: Input, context: Context) -> Any:
        return await asyncio.create_task(both())

    @app.task()
    def by_context(input: Input, context: Context) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, asyncio.run, both()).result()

    fleet.worker("w", app, slots=1)
    names = ("own", "to_thread", "on_the_worker_s", "by_context")
    with only_a_worker_here(), capture_logs() as logs:
        for name in names:
            assert fleet.run(name).output == {name: [2, 4]}
    assert len(fleet.runs("double")) == 2 * len(names)
    assert warnings_of(logs) == []


def test_the_main_thread_waits_on_a_loop_of_another_thread(app: Ganger, double: Task) -> None:
    worker = app.worker("w", slots=2)
    worker.register_workflow(double)
    with worker, only_a_worker_here(), capture_logs() as logs:
        assert double.run({"n": 1}, timeout=PATIENCE) == 2
        assert double.run_many([{"n": 2}], timeout=PATIENCE) == [4]
        assert asyncio.run(double.aio_run({"n": 3}, timeout=PATIENCE)) == 6
    app.admin.close()
    assert warnings_of(logs) == []


async def test_a_task_of_the_worker_s_loop_that_is_no_step_s_may_wait(
    app: Ganger, double: Task
) -> None:
    ran: list[Any] = []

    async def beside() -> None:
        worker = app.worker("w", slots=2)
        worker.register_workflow(double)
        async with worker:
            ran.append(await double.aio_run({"n": 1}, timeout=PATIENCE))
            await app.admin.aio.close()

    with only_a_worker_here():
        thread = threading.Thread(target=asyncio.run, args=(beside(),))
        thread.start()
        await asyncio.to_thread(thread.join)
    assert ran == [2]


def test_with_the_step_s_context_or_by_its_own_they_spawn_children(
    app: Ganger, fleet: Fleet, double: Task
) -> None:
    @app.task()
    def by_context(input: Input, context: Context) -> Any:
        with ThreadPoolExecutor(4) as pool:
            futures = [
                pool.submit(copy_context().run, double.run, {"n": n}, key=f"{n}") for n in range(4)
            ]
            return [future.result() for future in futures]

    @app.task()
    def by_itself(input: Input, context: Context) -> Any:
        def spawn(n: int) -> Any:
            return context.spawn_workflow(double, {"n": n}, key=f"{n}").sync_result()["double"]

        return in_pool(spawn)

    @app.task()
    async def to_thread(input: Input, context: Context) -> Any:
        return [await asyncio.to_thread(double.run, {"n": n}) for n in range(4)]

    fleet.worker("w", app, slots=1)
    with only_a_worker_here(), capture_logs() as logs:
        for name in ("by_context", "by_itself", "to_thread"):
            assert fleet.run(name).output == {name: [0, 2, 4, 6]}
    assert len(fleet.runs("double")) == 12
    assert warnings_of(logs) == []


async def test_elsewhere_it_is_warned_of_once_while_steps_run(app: Ganger, double: Task) -> None:
    @app.task()
    def fan(input: Input, context: Context) -> Any:
        ran = in_pool(lambda n: double.run({"n": n}, timeout=PATIENCE))
        start = app.admin.run_workflow
        awaited = in_pool(lambda n: start(double, {"n": n}).sync_result(PATIENCE))
        aio_ran = in_pool(lambda n: asyncio.run(double.aio_run({"n": n}, timeout=PATIENCE)))
        aio_awaited = in_pool(lambda n: asyncio.run(start(double, {"n": n}).result(PATIENCE)))
        return ran, awaited, aio_ran, aio_awaited

    worker = app.worker("w", slots=8)
    worker.register_workflow(double)
    worker.register_workflow(fan)
    with capture_logs() as logs:
        async with worker:
            assert await asyncio.to_thread(double.run, {"n": 1}, timeout=PATIENCE) == 2
            assert warnings_of(logs) == []  # no step runs
            await fan.aio_run(timeout=PATIENCE)
    await app.admin.aio.close()
    calls = ["double.run()", "sync_result()", "double.aio_run()", "result()"]
    assert warnings_of(logs) == calls
    [said, *_] = [log for log in logs if log.get("call")]
    assert "copy_context().run" in said["instead"]
    assert "context.spawn_workflow(…)" in said["instead"]


def test_the_main_thread_is_no_step_s() -> None:
    with only_a_worker_here():
        check_thread("double.run()", "double.run_no_wait()")


def test_a_worker_that_is_started_has_the_process_to_itself(
    app: Ganger, double: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def elsewhere() -> None:
        try:
            double.run({"n": 1})
        except RuntimeError as exc:
            refused.append(str(exc))

    def run(work: Any) -> None:
        work.close()
        thread = threading.Thread(target=elsewhere, name="mine")
        thread.start()
        thread.join()

    monkeypatch.setattr(ganger.worker, "run", run)
    monkeypatch.setattr(ganger.worker, "collect_seldom", lambda after: None)
    app.worker("w").start()
    assert [text[:30] for text in refused] == ["double.run() in thread 'mine',"]

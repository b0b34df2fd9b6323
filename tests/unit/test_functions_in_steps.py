"""Tasks that steps run: their children, for whom they leave their slot."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ganger import Context, Ganger, RunCancelled, Task
from ganger.testing import Fleet

PATIENCE = 20.0
Input = dict[str, Any]


@pytest.fixture
def double(app: Ganger) -> Task:
    @app.task(desired_worker_labels={"gpu": {"value": 1, "weight": 1}})
    async def double(input: Input, context: Context) -> int:
        return int(input["n"]) * 2

    return double


def in_async_step(app: Ganger, double: Task) -> None:
    @app.task(retries=1)
    async def caller(input: Input, context: Context) -> list[Any]:
        one = await double.aio_run({"n": 1})
        many = await double.aio_run_many([{"n": 2}, {"n": 3}])
        named = await double.aio_run({"n": 4}, run_id="mine")
        ref = await double.aio_run_no_wait({"n": 5})
        apart = (await ref.result())["double"]
        return [one, *many, named, apart]


def in_plain_step(app: Ganger, double: Task) -> None:
    @app.task(retries=1)
    def caller(input: Input, context: Context) -> list[Any]:
        one = double.run({"n": 1})
        many = double.run_many([{"n": 2}, {"n": 3}])
        named = double.run({"n": 4}, run_id="mine")
        apart = double.run_no_wait({"n": 5}).sync_result()["double"]
        return [one, *many, named, apart]


@pytest.mark.parametrize("declare", [in_async_step, in_plain_step])
async def test_a_worker_of_one_slot_runs_a_step_and_what_it_waits_for(
    app: Ganger, double: Task, declare: Callable[[Ganger, Task], None]
) -> None:
    declare(app, double)
    worker = app.worker("w", slots=1)
    for workflow in app.workflows.values():
        worker.register_workflow(workflow)
    async with worker:
        ref = await app.admin.aio.run_workflow("caller")
        assert await ref.result(PATIENCE) == {"caller": [2, 4, 6, 8, 10]}
    await app.admin.aio.close()
    await asyncio.to_thread(app.close)


def test_they_are_its_children_and_their_labels_count(app: Ganger, fleet: Fleet) -> None:
    @app.task(desired_worker_labels={"gpu": 1})
    async def inner(input: Input, context: Context) -> str:
        await asyncio.sleep(3600)
        return context.worker.name()

    @app.task(desired_worker_labels={"gpu": 0}, timeout="2h")
    async def outer(input: Input, context: Context) -> Any:
        return await inner.aio_run(timeout=7000)

    fleet.worker("cpu", app, labels={"gpu": 0}, slots=1)
    fleet.worker("gpu", app, labels={"gpu": 1}, slots=1)
    run = fleet.start("outer")
    [child] = fleet.runs("inner")
    assert child.step("inner").worker == "gpu"
    run.cancel()
    assert (run.status, child.status) == ("cancelled", "cancelled")


def test_a_step_that_is_tried_again_finds_what_it_has_run(app: Ganger, fleet: Fleet) -> None:
    ran: list[str] = []

    @app.task(desired_worker_labels={"gpu": 1})
    def inner(input: Input, context: Context) -> int:
        ran.append(context.workflow_run_id())
        return len(ran)

    @app.task(desired_worker_labels={"gpu": 1}, timeout="1h")
    def outer(input: Input, context: Context) -> Any:
        count = inner.run({})
        context.wait_cancelled(60)
        return count

    fleet.worker("a", app, labels={"gpu": 1}, slots=1)
    fleet.worker("cold", app, labels={"gpu": 0})
    run = fleet.start("outer")
    fleet.kill("a")
    fleet.worker("b", app, labels={"gpu": 1}, slots=1)
    fleet.advance("2m")
    assert run.output == {"outer": 1}
    assert run.step("outer").workers == ("a", "b")
    assert len(ran) == 1


async def test_what_a_step_leaves_behind_is_no_child_of_it(app: Ganger, double: Task) -> None:
    left: list[asyncio.Task[Any]] = []

    @app.task()
    async def leaves(input: Input, context: Context) -> None:
        async def later() -> Any:
            await asyncio.sleep(0.05)
            return await double.aio_run({"n": 1}, timeout=PATIENCE)

        left.append(asyncio.create_task(later()))

    worker = app.worker("w", slots=1)
    worker.register_workflow(leaves)
    worker.register_workflow(double)
    async with worker:
        await leaves.aio_run(timeout=PATIENCE)
        assert await left[0] == 2
        assert await double.aio_run({"n": 2}, timeout=PATIENCE) == 4  # the slot is there
    await app.admin.aio.close()


async def test_another_app_s_task_is_a_run_of_its_own(app: Ganger) -> None:
    other = Ganger(broker_url=app.settings.broker_url)

    @other.task()
    async def alien(input: Input, context: Context) -> str:
        return context.workflow_run_id()

    @app.task()
    async def outer(input: Input, context: Context) -> Any:
        return await alien.aio_run(run_id="alien-1", timeout=PATIENCE)

    mine, theirs = app.worker("w", slots=1), other.worker("o")
    mine.register_workflow(outer)
    theirs.register_workflow(alien)
    async with mine, theirs:
        assert await outer.aio_run(timeout=PATIENCE) == "alien-1"
    for each in (app, other):
        await each.admin.aio.close()


def test_a_plain_step_that_waits_is_let_go_when_it_is_cancelled(app: Ganger, fleet: Fleet) -> None:
    ended: list[str] = []

    @app.task()
    def never(input: Input, context: Context) -> None:
        context.wait_cancelled(3600)

    @app.task(timeout="2h")
    def outer(input: Input, context: Context) -> None:
        try:
            never.run_no_wait({}).sync_result()
        finally:
            ended.append("outer")

    fleet.worker("w", app, slots=1)
    run = fleet.start("outer")
    run.cancel()
    fleet.advance("1s")
    assert ended == ["outer"]
    with pytest.raises(RunCancelled):
        _ = run.output
    [own] = fleet.runs("never")
    assert own.status == "running"  # a run of its own goes on
    own.cancel()


def test_a_wrong_keyword_is_told_in_the_name_of_what_was_called(app: Ganger, fleet: Fleet) -> None:
    @app.task()
    def inner(input: Input, context: Context) -> int:
        return 1

    @app.task()
    async def awaits(input: Input, context: Context) -> list[str]:
        many, spawn = inner.aio_run_many, context.aio.spawn_workflow
        spawn_many, apart = context.aio.spawn_workflows, inner.aio_run_no_wait
        return [
            await refused(lambda: inner.aio_run(keys="a")),
            await refused(lambda: many([{}], keys="a")),
            await refused(lambda: apart(key="a")),
            await refused(lambda: inner.aio_run(run_id="r", key="a")),
            await refused(lambda: spawn(inner, keys="a")),
            await refused(lambda: spawn(inner, run_id="r")),
            await refused(lambda: spawn_many(inner, [], keys="a")),
        ]

    @app.task()
    def blocks(input: Input, context: Context) -> list[str]:
        said = []
        for call in (
            lambda: inner.run(keys="a"),
            lambda: inner.run_many([{}], keys="a"),
            lambda: context.spawn_workflow(inner, keys="a"),
            lambda: context.spawn_workflows(inner, [{}], keys="a"),
            lambda: inner.run_no_wait(keys="a"),
        ):
            with pytest.raises(TypeError) as caught:
                call()
            said.append(str(caught.value))
        return said

    @app.task()
    async def right(input: Input, context: Context) -> Any:
        given = {"metadata": {"by": "me"}, "priority": 2, "desired_worker_labels": {}}
        one = await inner.aio_run(key="a", sticky=True, run_id=None, stream=False, **given)
        return [one, *await inner.aio_run_many([{}, {}], key="b", parent=None)]

    fleet.worker("w", app)
    child = "it takes key, sticky, metadata, priority, desired_worker_labels"
    run_ = "it takes run_id, metadata, priority, desired_worker_labels, parent, sticky_to, stream"
    either = f"{child}, run_id, parent, stream"
    wrong = "() got an unexpected keyword argument"
    assert fleet.run("awaits").output["awaits"] == [
        f"inner.aio_run{wrong} 'keys'; {either}",
        f"inner.aio_run_many{wrong} 'keys'; {either}",
        f"inner.aio_run_no_wait{wrong} 'key', which is for a step's children; {run_}",
        f"inner.aio_run{wrong} 'key', which is for a step's children; {run_}",
        f"spawn_workflow{wrong} 'keys'; {child}",
        f"spawn_workflow{wrong} 'run_id'; {child}",
        f"spawn_workflows{wrong} 'keys'; {child}",
    ]
    assert fleet.run("blocks").output["blocks"] == [
        f"inner.run{wrong} 'keys'; {either}",
        f"inner.run_many{wrong} 'keys'; {either}",
        f"spawn_workflow{wrong} 'keys'; {child}",
        f"spawn_workflows{wrong} 'keys'; {child}",
        f"inner.run_no_wait{wrong} 'keys'; {run_}",
    ]
    assert len(fleet.runs("inner")) == 0
    assert fleet.run("right").output == {"right": [1, 1, 1]}


async def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(TypeError) as caught:
        await call()
    return str(caught.value)

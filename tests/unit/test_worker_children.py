"""Steps that spawn runs and wait for them, the whole way in one process."""

import asyncio
import re
import threading
from typing import Any
from uuid import uuid4

import pytest

from ganger import Context, Ganger, InvalidInput, RunCancelled, RunFailed, StickyStrategy
from ganger_broker.messages import StepFinished, StepWaits
from tests.unit.fake_dispatcher import working
from tests.unit.steps import Scripted

PATIENCE = 20.0


@pytest.fixture
def app() -> Any:
    made = Ganger(broker_url=f"memory://{uuid4().hex}")
    yield made
    made.close()


def child_of(app: Ganger, **options: Any) -> type:
    @app.workflow(**options)
    class Child:
        @app.step()
        async def child(self, context: Context) -> dict[str, Any]:
            given = context.workflow_input()
            if given.get("fail"):
                raise ValueError("no")
            return {
                "n": given.get("n"),
                "on": context.worker.id(),
                "priority": context.priority(),
                "run": context.workflow_run_id(),
            }

    return Child


def parent_of(app: Ganger, step: Any, **options: Any) -> type:
    class Parent:
        parent = app.step(name="parent", **options)(step)

    return app.workflow()(Parent)


async def run(app: Ganger, *, slots: int = 1, **fields: Any) -> Any:
    """What the step ``parent`` returns, with one worker that has all workflows."""
    worker = app.worker("w", slots=slots)
    for workflow in app.workflows.values():
        worker.register_workflow(workflow)
    async with worker:
        try:
            ref = await app.admin.aio.run_workflow("parent", {}, **fields)
            return (await ref.result(PATIENCE))["parent"]
        finally:
            await app.admin.aio.close()


# ── a worker of one slot ──────────────────────────────────────────────────────────────


async def test_a_parent_and_its_children_share_one_slot(app: Ganger) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> list[Any]:
        refs = await context.aio.spawn_workflows(child, [{"n": n} for n in range(20)])
        found = await asyncio.gather(*(ref.result() for ref in refs))
        one = await context.aio.spawn_workflow("child", {"n": 20})
        return [each["child"]["n"] for each in [*found, await one.result()]]

    parent_of(app, parent)
    assert await run(app) == list(range(21))


async def test_functions_in_threads_spawn_too_and_so_do_their_children(app: Ganger) -> None:
    @app.workflow()
    class Nested:
        @app.step()
        def nested(self, context: Context) -> int:
            depth = context.workflow_input()["depth"]
            if depth == 0:
                return 0
            child = context.spawn_workflow("nested", {"depth": depth - 1})
            return int(child.sync_result()["nested"]) + 1

    def parent(self: object, context: Context) -> int:
        refs = context.spawn_workflows(Nested, [{"depth": 3}, {"depth": 5}])
        return sum(ref.sync_result(PATIENCE)["nested"] for ref in refs)

    parent_of(app, parent)
    assert await run(app) == 8


async def test_a_child_is_awaited_on_another_loop_too(app: Ganger) -> None:
    @app.task()
    def double(input: dict[str, int], context: Context) -> int:
        return input["n"] * 2

    @app.task(timeout=PATIENCE)
    async def elsewhere(input: Any, context: Context) -> Any:
        child = await context.aio.spawn_workflow("double", {"n": 2})
        return await asyncio.to_thread(asyncio.run, child.result())

    @app.task(timeout=PATIENCE)
    def in_thread(input: Any, context: Context) -> Any:
        return asyncio.run(context.spawn_workflow("double", {"n": 3}).result())

    worker = app.worker("w", slots=1)
    for task in (double, elsewhere, in_thread):
        worker.register_workflow(task)
    async with worker:
        assert await elsewhere.aio_run() == {"double": 4}
        assert await in_thread.aio_run() == {"double": 6}
    await app.admin.aio.close()


async def test_what_a_child_raises_the_parent_can_catch_and_go_on(app: Ganger) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> list[str]:
        said = []
        for given in ({"fail": True}, {}):
            ref = await context.aio.spawn_workflow(child, given)
            try:
                await ref.result()
                said.append("fine")
            except RunFailed as failed:
                said.append(failed.result.error.message)
        return said

    parent_of(app, parent)
    assert await run(app) == ["no", "fine"]


async def test_a_wait_that_the_step_gives_up_leaves_it_its_slot(app: Ganger) -> None:
    @app.workflow()
    class Child:
        @app.step(desired_worker_labels={"nobody": "has"})
        async def child(self, context: Context) -> None: ...

    async def parent(self: object, context: Context) -> str:
        ref = await context.aio.spawn_workflow(Child, {})
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await ref.result(timeout=0.01)
        return "went on"

    parent_of(app, parent)
    assert await run(app) == "went on"


# ── which run it is ───────────────────────────────────────────────────────────────────


async def test_a_retry_has_the_same_children(app: Ganger) -> None:
    child = child_of(app)
    runs: list[list[str]] = []

    async def parent(self: object, context: Context) -> list[str]:
        refs = [
            await context.aio.spawn_workflow(child, {}, key="a"),
            await context.aio.spawn_workflow(child, {}, key="b"),
            await context.aio.spawn_workflow(child, {}),
            await context.aio.spawn_workflow(child, {}),
            *await context.aio.spawn_workflows(child, [{}, {}], key="many"),
        ]
        runs.append([ref.run_id for ref in refs])
        for ref in refs:
            assert (await ref.result())["child"]["run"] == ref.run_id
        if context.retry_count() == 0:
            raise ConnectionError
        return runs[-1]

    parent_of(app, parent, retries=1)
    assert len(set(await run(app))) == 6
    assert runs[0] == runs[1]


async def test_a_key_is_one_child_and_one_input_in_an_attempt(app: Ganger) -> None:
    child = child_of(app)

    @app.workflow()
    class Other:
        @app.step()
        async def other(self, context: Context) -> None: ...

    async def parent(self: object, context: Context) -> Any:
        attempt = context.retry_count()
        spawn, spawn_many = context.aio.spawn_workflow, context.aio.spawn_workflows
        first = await spawn(child, {"n": attempt, "m": [1]}, key="k")
        again = await spawn("child", {"m": (1,), "n": attempt}, key="k")
        other = await spawn("other", {"n": 7}, key="k")
        for mistaken in (
            lambda: spawn(child, {"n": 2}, key="k"),
            lambda: spawn(child, key="k"),
        ):
            with pytest.raises(InvalidInput, match="key: 'k' is that of a child with another inp"):
                await mistaken()
        await spawn_many(child, [{"n": 1}, {"n": 2}], key="many")
        with pytest.raises(InvalidInput, match="key: 'many/1' is that of"):
            await spawn_many(child, [{"n": 1}, {"n": 3}], key="many")
        if attempt == 0:
            raise ConnectionError
        found = (await first.result())["child"]["n"]
        return [found, first.run_id == again.run_id, first.run_id == other.run_id]

    parent_of(app, parent, retries=1)
    assert await run(app) == [0, True, False]


async def test_a_key_of_a_child_that_was_refused_may_be_used_again(app: Ganger) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> Any:
        with pytest.raises(InvalidInput, match="priority: 9"):
            await context.aio.spawn_workflow(child, {"n": 1}, key="k", priority=9)
        ref = await context.aio.spawn_workflow(child, {"n": 2}, key="k")
        with pytest.raises(InvalidInput, match="priority: 9"):
            await context.aio.spawn_workflow(child, {"n": 2}, key="k", priority=9)
        with pytest.raises(InvalidInput, match="key: 'k' is that of"):
            await context.aio.spawn_workflow(child, {"n": 3}, key="k")
        return (await ref.result())["child"]["n"]

    parent_of(app, parent)
    assert await run(app) == 2


async def test_a_bad_key_is_refused(app: Ganger) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> None:
        for key in ("", 7):
            with pytest.raises(InvalidInput, match=f"key: {key!r} must be a text that is not empt"):
                await context.aio.spawn_workflow(child, {}, key=key)  # type: ignore[arg-type]
            with pytest.raises(InvalidInput, match=f"key: {key!r} must be a text that is not empt"):
                await context.aio.spawn_workflows(child, [], key=key)

    parent_of(app, parent)
    await run(app)


@pytest.mark.parametrize("sticky", ["HARD", StickyStrategy.HARD, 1, None])
async def test_sticky_is_whether_it_stays(app: Ganger, sticky: Any) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> None:
        said = f"sticky: {re.escape(repr(sticky))} must be True or False"
        with pytest.raises(InvalidInput, match=said):
            await context.aio.spawn_workflow(child, {}, sticky=sticky)
        with pytest.raises(InvalidInput, match=said):
            await context.aio.spawn_workflows(child, [], sticky=sticky)

    parent_of(app, parent)
    await run(app)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (5, "inputs: 5 must be a list of inputs, one for each run"),
        (None, "inputs: None must be a list of inputs"),
        ("abc", "inputs: 'abc' must be a list of inputs"),
        ({"n": 1}, "inputs: {'n': 1} must be a list of inputs"),
        ([{}, {}, 5], "inputs[2]: 5 must be a map with strings as keys"),
        ([{}, {"n": object()}], "inputs[1].n: builtins.object has no JSON form"),
        ([{}, {1: 2}], "inputs[1]: "),
        ([{}, "x" * 5000], "inputs[1]: 'xxx"),
    ],
)
async def test_a_bad_one_of_many_inputs_is_named_and_none_is_started(
    app: Ganger, inputs: Any, said: str
) -> None:
    ran: list[Any] = []

    @app.task()
    async def child(input: dict[str, Any], context: Context) -> None:
        ran.append(input)

    async def parent(self: object, context: Context) -> None:
        calls = (context.aio.spawn_workflows(child, inputs), child.aio_run_many(inputs))
        for call in calls:
            with pytest.raises(InvalidInput, match="^" + re.escape(said)) as caught:
                await call
            assert len(str(caught.value)) < 300
        await child.aio_run({"last": True})

    parent_of(app, parent)
    await run(app)
    with pytest.raises(InvalidInput, match=re.escape(said)):
        await child.aio_run_many(inputs)
    assert ran == [{"last": True}]


async def test_a_child_has_its_parents_priority_unless_it_says_otherwise(app: Ganger) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> list[int]:
        refs = [
            await context.aio.spawn_workflow(child, {}),
            await context.aio.spawn_workflow(child, {}, priority=1),
        ]
        return [(await ref.result())["child"]["priority"] for ref in refs]

    parent_of(app, parent)
    assert await run(app, priority=3) == [3, 1]


async def test_a_sticky_child_stays_with_its_parent(app: Ganger) -> None:
    child = child_of(app, sticky=StickyStrategy.HARD)

    async def parent(self: object, context: Context) -> list[str]:
        refs = await context.aio.spawn_workflows(child, [{}] * 5, sticky=True)
        return [(await ref.result())["child"]["on"] for ref in refs] + [context.worker.id()]

    parent_of(app, parent)
    other = app.worker("other", slots=10)
    other.register_workflow(child)
    async with other:
        assert len(set(await run(app, slots=2))) == 1


# ── ends ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("in_thread", [False, True])
async def test_cancelling_the_parent_reaches_its_children(app: Ganger, in_thread: bool) -> None:
    waiting = threading.Event()
    ended: list[str] = []

    @app.workflow()
    class Child:
        @app.step()
        def child(self, context: Context) -> None:
            waiting.set()
            assert context.wait_cancelled(PATIENCE)
            ended.append("child")

    async def parent(self: object, context: Context) -> None:
        ref = await context.aio.spawn_workflow(Child, {})
        await ref.result()

    def parent_in_thread(self: object, context: Context) -> None:
        try:
            context.spawn_workflow(Child, {}).sync_result()
        finally:
            ended.append("parent")

    parent_of(app, parent_in_thread if in_thread else parent)
    worker = app.worker("w", slots=1)
    for workflow in app.workflows.values():
        worker.register_workflow(workflow)
    async with worker:
        ref = await app.admin.aio.run_workflow("parent", {})
        assert await asyncio.to_thread(waiting.wait, PATIENCE)
        await app.admin.aio.cancel(ref.run_id)
        with pytest.raises(RunCancelled):
            await ref.result(PATIENCE)

        await app.admin.aio.close()
    assert sorted(ended) == (["child", "parent"] if in_thread else ["child"])


async def test_blocking_in_an_async_step_is_refused(app: Ganger) -> None:
    child = child_of(app)

    async def parent(self: object, context: Context) -> list[str]:
        said = []
        ref = await context.aio.spawn_workflow(child, {})
        for call in (
            lambda: context.spawn_workflow(child, {}),
            lambda: context.spawn_workflows(child, [{}]),
            lambda: ref.sync_result(),
        ):
            with pytest.raises(RuntimeError) as caught:
                call()
            said.append(str(caught.value).partition(": ")[2])
        return said

    parent_of(app, parent)
    assert await run(app) == [
        "await context.aio.spawn_workflow(…)",
        "await context.aio.spawn_workflows(…)",
        "await result()",
    ]


# ── what the dispatcher is told ───────────────────────────────────────────────────────


async def test_the_slot_is_given_up_and_taken_back_around_the_wait() -> None:
    entered = asyncio.Event()
    go_on = asyncio.Event()

    async def waits(context: Context) -> None:
        async with context.aio._waiting(), context.aio._waiting():
            entered.set()
            await go_on.wait()

    async with working(Scripted(waits), slots=1) as found:
        first = await found.dispatcher.assign("scripted:a")
        await asyncio.wait_for(entered.wait(), PATIENCE)
        said = await found.dispatcher.hear(StepWaits)
        assert [(word.attempt, word.seq) for word in said] == [(first, 1)]
        go_on.set()
        await found.dispatcher.ended(first)
        assert [word.seq for word in found.dispatcher.of(StepWaits)] == [1, 2]
        kinds = [type(event) for event in found.dispatcher.events]
        assert kinds.index(StepFinished) > max(
            at for at, kind in enumerate(kinds) if kind is StepWaits
        )

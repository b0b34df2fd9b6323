"""Workflows of functions: the same engine, another way to write them."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from ganger import Context, Ganger, InvalidInput, InvalidWorkflow, RunFailed, Task, Workflow
from ganger.admin import AsyncAdmin
from ganger.app import TASK_FIELDS, WORKFLOW_FIELDS
from ganger.arguments import RUN_FIELDS
from ganger.step import STEP_FIELDS, _step
from ganger.workflow import declaration_of

PATIENCE = 20.0
Input = dict[str, Any]


def picture(app: Ganger) -> Workflow:
    wf = app.workflow(name="picture", version="2", on_events=["image:new"])

    @wf.task(retries=2, desired_worker_labels={"kind": "cpu"})
    async def load(input: Input, context: Context) -> Input:
        return {"pixels": input["size"] ** 2}

    @wf.task(parents=[load])
    def show(input: Input, context: Context) -> str:
        return f"{input['size']}: {context.step_output(load)['pixels']}"

    @wf.on_failure_task(timeout="5s")
    def oops(input: Input, context: Context) -> None:
        """Nobody needs to be told."""

    return wf


def test_it_is_declared_as_a_class_with_the_same_steps_would_be(app: Ganger) -> None:
    other = Ganger(broker_url="memory://other")

    @other.workflow(version="2", on_events=["image:new"])
    class Picture:
        @other.step(retries=2, desired_worker_labels={"kind": "cpu"})
        async def load(self, context: Context) -> None: ...

        @other.step(parents=["load"])
        def show(self, context: Context) -> None: ...

        @other.on_failure_step(timeout="5s")
        def oops(self, context: Context) -> None: ...

    assert declaration_of(picture(app)).definition == declaration_of(Picture).definition
    assert set(app.workflows) == {"picture"}


def test_it_runs_blocking(app: Ganger) -> None:
    wf = picture(app)
    worker = app.worker("w", labels={"kind": "cpu"})
    worker.register_workflow(wf)
    with worker:
        assert wf.run({"size": 3}, timeout=PATIENCE) == {"load": {"pixels": 9}, "show": "3: 9"}
        many = wf.run_many([{"size": n} for n in range(5)], timeout=PATIENCE, priority=2)
        assert [found["show"] for found in many] == [f"{n}: {n * n}" for n in range(5)]
        ref = wf.run_no_wait({"size": 1}, run_id="mine")
        assert ref.run_id == "mine"
        assert ref.sync_result(PATIENCE)["show"] == "1: 1"


async def test_it_runs_awaited(app: Ganger) -> None:
    wf = picture(app)
    worker = app.worker("w", labels={"kind": "cpu"})
    worker.register_workflow(wf)
    async with worker:
        assert (await wf.aio_run({"size": 3}, timeout=PATIENCE))["show"] == "3: 9"
        many = await wf.aio_run_many([{"size": 1}, {"size": 2}], timeout=PATIENCE)
        assert [found["show"] for found in many] == ["1: 1", "2: 4"]
        ref = await wf.aio_run_no_wait({"size": 5})
        assert (await ref.result(PATIENCE))["show"] == "5: 25"
    await app.admin.aio.close()


async def test_a_task_is_a_workflow_of_one_step_and_returns_what_it_returns(app: Ganger) -> None:
    @app.task(retries=1, desired_worker_labels={"kind": "cpu"})
    async def Double(input: Input, context: Context) -> int:  # noqa: N802 - it is lowered
        if context.retry_count() == 0:
            raise ValueError("once more")
        return int(input["n"]) * 2

    @app.task(name="half", on_events=["n:*"], version="7")
    def halve(input: Input, context: Context) -> float:
        return input["n"] / 2

    assert isinstance(Double, Task)
    assert (Double.name, halve.name) == ("double", "half")
    definition = declaration_of(halve).definition
    assert (definition.version, definition.on_events) == ("7", ["n:*"])
    worker = app.worker("w", labels={"kind": "cpu"})
    for workflow in app.workflows.values():
        worker.register_workflow(workflow)
    async with worker:
        assert await Double.aio_run({"n": 4}, timeout=PATIENCE) == 8
        assert await halve.aio_run_many([{"n": 1}, {"n": 3}], timeout=PATIENCE) == [0.5, 1.5]
        with pytest.raises(RunFailed, match="in step half"):
            await halve.aio_run({"n": "x"}, timeout=PATIENCE)
    await app.admin.aio.close()


async def test_blocking_a_workers_own_loop_is_refused_before_anything_runs(app: Ganger) -> None:
    ran: list[Any] = []

    @app.task()
    async def inner(input: Input, context: Context) -> None:
        ran.append(input)

    @app.task()
    async def outer(input: Input, context: Context) -> list[str]:
        said = []
        for call in (lambda: inner.run({}), lambda: inner.run_many([{}] * 5)):
            with pytest.raises(RuntimeError) as caught:
                call()
            said.append(str(caught.value))
        return said

    worker = app.worker("w")
    worker.register_workflow(inner)
    worker.register_workflow(outer)
    async with worker:
        one, many = await outer.aio_run({}, timeout=PATIENCE)
        assert one.startswith("inner.run() would block the event loop")
        assert "await inner.aio_run(…)" in one
        assert "await inner.aio_run_many(…)" in many
        await inner.aio_run({"last": True}, timeout=PATIENCE)
    assert ran == [{"last": True}]
    await app.admin.aio.close()
    await asyncio.to_thread(app.close)


@pytest.mark.parametrize("given", [-1, 0, "5", True, float("nan")])
async def test_a_bad_timeout_is_refused_before_anything_is_started(app: Ganger, given: Any) -> None:
    @app.task()
    def one(input: Input, context: Context) -> None: ...

    async def started(*_: Any, **__: Any) -> None:
        raise AssertionError("it was started")

    app.admin.aio.run_workflow = started  # type: ignore[assignment, method-assign]
    said = f"timeout: {given!r} must be a number of seconds above 0"
    with pytest.raises(InvalidInput, match=said):
        await one.aio_run(timeout=given)
    with pytest.raises(InvalidInput, match=said):
        await one.aio_run_many([{}], timeout=given)
    with pytest.raises(InvalidInput, match=said):
        await asyncio.to_thread(one.run, timeout=given)
    with pytest.raises(InvalidInput, match=said):
        await asyncio.to_thread(one.run_many, [{}], timeout=given)


def test_what_a_run_takes_is_what_admin_takes() -> None:
    parameters = inspect.signature(AsyncAdmin.run_workflow).parameters.values()
    keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    assert keywords == [*RUN_FIELDS]


def step(input: Input, context: Context) -> None: ...


def only_input(input: Input) -> None: ...


def other_step(input: Input, context: Context) -> None: ...


def test_what_is_wrong_is_said_where_it_is_written(app: Ganger) -> None:
    with pytest.raises(InvalidWorkflow, match=r"task 'only_input': must take \(input, context\)"):
        app.task()(only_input)
    with pytest.raises(InvalidWorkflow, match=r"write @app.task\(\) with its parentheses"):
        app.task(step)  # type: ignore[arg-type]
    with pytest.raises(InvalidWorkflow, match=r"one of functions needs a name"):
        app.workflow().task()(step)
    for option in ({"on_failure": True}, {"parents": ["x"]}):
        with pytest.raises(InvalidWorkflow, match="task 'p4': has one step"):
            app.task("p4", **option)
    with pytest.raises(InvalidWorkflow, match="task 'step': is a task or a workflow already"):
        app.task()(app.task()(step))
    wf = app.workflow(name="one")
    wf.task(parents=["gone"])(step)
    with pytest.raises(InvalidWorkflow, match="there is no step 'gone'"):
        declaration_of(wf)
    with pytest.raises(InvalidWorkflow, match="workflow 'one' is declared already"):
        app.workflow(name="one").task()(step)
    with pytest.raises(InvalidWorkflow, match="has functions already, and no class"):
        wf(type("Late", (), {}))


def test_mistakes_are_told_in_the_words_of_functions(app: Ganger) -> None:
    wf = app.workflow(name="wf")
    cls = type("Cls", (), {})
    for declare, said in (
        (lambda: wf.task(step), "task: write @wf.task() with its parentheses, above <func"),
        (
            lambda: wf.on_failure_task(step),
            "on_failure_task: write @wf.on_failure_task() with its parentheses, above <func",
        ),
        (lambda: app.task()(cls), "task: decorates a function of (input, context), not <class"),
        (lambda: wf.task()(cls), "task: decorates a function of (input, context), not <class"),
        (
            lambda: wf.on_failure_task()(cls),
            "on_failure_task: decorates a function of (input, context), not <class",
        ),
        (lambda: app.task(parents=[step]), "task: has one step, and so no parents and none for"),
        (lambda: app.task(retries=-1)(step), "task 'step': retries: -1 must be"),
        (lambda: wf.task("Up Case")(step), "task 'Up Case': the name must be lower case"),
        (lambda: app.task("Up Case")(step), "task 'Up Case': the name must be lower case"),
        (lambda: wf.made(), "workflow 'wf': has no steps; decorate a function with @wf.task()"),
    ):
        with pytest.raises(InvalidWorkflow) as caught:
            declare()
        assert str(caught.value).startswith(said)
    wf.on_failure_task()(step)
    with pytest.raises(InvalidWorkflow, match="'wf': has no steps; decorate a function with"):
        wf.made()
    assert set(app.workflows) == {"wf"}


def test_a_wrong_keyword_is_told_with_the_step_and_what_there_is(app: Ganger) -> None:
    wf = app.workflow(name="wf")
    wrong = "() got an unexpected keyword argument"
    step_ = "it takes timeout, retries, backoff_factor, "
    for declare, said in (
        (lambda: app.step(retry=3)(step), f"step 'step': app.step{wrong} 'retry'; it takes par"),
        (
            lambda: app.on_failure_step("oops", retry=3)(step),
            f"step 'oops': app.on_failure_step{wrong} 'retry'; {step_}",
        ),
        (
            lambda: app.task(retrys=2)(step),
            f"task 'step': app.task{wrong} 'retrys'; it takes on_events, on_crons, version, ",
        ),
        (
            lambda: app.task("one", sticky="HARD")(step),
            f"task 'one': app.task{wrong} 'sticky'; it takes on_events, ",
        ),
        (
            lambda: wf.task("two", sticky="HARD")(step),
            f"task 'two': wf.task{wrong} 'sticky'; it takes parents, timeout, ",
        ),
        (
            lambda: wf.on_failure_task(retry=2)(step),
            f"task 'step': wf.on_failure_task{wrong} 'retry'; {step_}",
        ),
        (
            lambda: app.workflow(on_event=["x"]),
            f"app.workflow{wrong} 'on_event'; it takes on_events, ",
        ),
        (
            lambda: app.workflow("named", retries=2),
            f"workflow 'named': app.workflow{wrong} 'retries'; it takes on_events, ",
        ),
    ):
        with pytest.raises(TypeError) as caught:
            declare()  # type: ignore[no-untyped-call]
        assert str(caught.value).startswith(said)
    assert set(app.workflows) == set()


def test_what_is_said_to_be_taken_is_what_is_taken() -> None:
    def keywords(call: Callable[..., Any]) -> set[str]:
        parameters = inspect.signature(call).parameters.values()
        return {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}

    assert keywords(Ganger.workflow) == {*WORKFLOW_FIELDS}
    assert keywords(Ganger.task) | {*STEP_FIELDS} == {*TASK_FIELDS}
    assert keywords(_step) == {*STEP_FIELDS}


def test_names_are_checked_where_they_are_given(app: Ganger) -> None:
    with pytest.raises(InvalidWorkflow, match="workflow 'Up Case': the name must be lower case"):
        app.workflow(name="Up Case")
    wf = app.workflow(name="wf")
    wf.task("one")(step)
    with pytest.raises(InvalidWorkflow, match="workflow 'wf': has two steps named 'one'"):
        wf.task("one")(other_step)
    wf.on_failure_task("oops")(step)
    with pytest.raises(InvalidWorkflow, match="workflow 'wf': has two steps named 'oops'"):
        wf.task("oops")(step)
    with pytest.raises(
        InvalidWorkflow, match="'wf': has more than one on_failure_task: 'oops' and 'other'"
    ):
        wf.on_failure_task("other")(step)
    wf.task("two", parents=["one"])(step)
    definition = declaration_of(wf).definition
    assert [each.name for each in definition.every_step()] == ["one", "two", "oops"]


async def test_a_task_can_be_called_as_the_function_it_is(app: Ganger) -> None:
    @app.task()
    async def double(input: Input, context: Context | None) -> int:
        return int(input["n"]) * 2

    @app.task()
    def half(input: Input, context: Context | None) -> float:
        return float(input["n"]) / 2

    assert await double({"n": 2}, None) == 4
    assert half({"n": 2}, context=None) == 1


def test_tasks_come_before_it_is_used(app: Ganger) -> None:
    wf = app.workflow(name="used")
    wf.task()(step)
    app.worker("w").register_workflow(wf)
    with pytest.raises(InvalidWorkflow, match="is in use; declare all its tasks before"):
        wf.task(name="late")(step)

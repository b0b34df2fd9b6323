"""Workflows of functions: ``wf = app.workflow(name=…)`` with ``@wf.task()``, and ``@app.task()``.

Another way to write the same thing: the functions become the methods of a class, which is
declared, registered and run like one that was written out.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ganger_broker.errors import InvalidInput, InvalidWorkflow

from .arguments import CHILD_FIELDS, RUN_FIELDS, check_fields, check_timeout, checked_inputs
from .background import check_may_block
from .children import ChildRef, Children
from .client import WorkflowRunRef
from .current_step import children_here
from .step import FUNCTIONS, STEP_MARK, F, Step, declare_step, mark_step
from .typed import Returned, read_again
from .unknown_threads import check_thread
from .workflow import C, Declaration, bind, declaration_of, declare_workflow

if TYPE_CHECKING:
    from .app import Ganger

__all__ = ["Task", "Workflow"]

T = TypeVar("T")

Input = Mapping[str, Any]

_OWN = ("run_id", "parent", "stream")
"""With one of these a run is not the child of the step that starts it."""


class Workflow:
    """What ``app.workflow(…)`` gives: it decorates a class, or takes functions as its steps.

    A function of two parameters, the run's input and the context, is a step by ``task``.
    """

    def __init__(self, app: "Ganger", name: str | None, options: Mapping[str, Any]) -> None:
        self._app = app
        self._name = name
        self._options = dict(options)
        self._methods: dict[str, Callable[..., Any]] = {}
        self._steps: list[Step] = []
        self._functions: list[Callable[..., Any]] = []
        self._made: object | None = None

    def __call__(self, cls: C) -> C:
        """Make a class a workflow; see ``Ganger.workflow``."""
        if self._methods:
            raise InvalidWorkflow(f"workflow {self._name!r}: has functions already, and no class")
        declared = declare_workflow(self._name, **self._options)(cls)
        self._app.add_workflow(declaration_of(declared).definition.name, declared)
        return declared

    @property
    def name(self) -> str:
        """Its name."""
        return self._name or ""

    # ── declaring ─────────────────────────────────────────────────────────────────────

    def task(
        self,
        name: str | None = None,
        *,
        parents: Iterable[str | Callable[..., Any]] = (),
        **options: Any,
    ) -> Callable[[F], F]:
        """Make a function a step. ``parents`` and the options are those of ``Ganger.step``.

        Raises:
            InvalidWorkflow: something about it is wrong; the text names it.
            InvalidLabel: a desired label is wrong; the text names it.
            TypeError: it takes no such argument.
        """
        return self._taking(name, parents=parents, **options)

    def on_failure_task(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Make a function the step that runs when another has failed for good; see
        ``Ganger.on_failure_step``."""
        return self._taking(name, on_failure=True, **options)

    def _taking(self, name: str | None, **options: Any) -> Callable[[F], F]:
        self._app._name_pool(options.get("compute"))
        declare = declare_step(name, style=FUNCTIONS, **options)

        def decorate(function: F) -> F:
            place = f"workflow {self._name!r}"
            if not self._name:
                raise InvalidWorkflow(
                    "workflow: one of functions needs a name: app.workflow(name=…)"
                )
            if self._made is not None:
                raise InvalidWorkflow(f"{place}: is in use; declare all its tasks before that")
            declare(function)
            if not self._methods:
                self._app.add_workflow(self._name, self)
            self._add(getattr(function, STEP_MARK), place)
            self._methods[f"step_{len(self._methods)}"] = _method(function)
            self._functions.append(function)
            return function

        return decorate

    def _add(self, step: Step, place: str) -> None:
        """Know it as one of its steps."""
        if any(step.name == known.name for known in self._steps):
            raise InvalidWorkflow(f"{place}: has two steps named {step.name!r}")
        failing = [repr(each.name) for each in (*self._steps, step) if each.on_failure]
        if step.on_failure and len(failing) > 1:
            raise InvalidWorkflow(
                f"{place}: has more than one on_failure_task: {' and '.join(failing)}"
            )
        self._steps.append(step)

    def made(self) -> object:
        """An object of the class that its functions make up.

        Raises:
            InvalidWorkflow: something about them is wrong; the text names it.
        """
        if self._made is None:
            if all(step.on_failure for step in self._steps):
                raise InvalidWorkflow(
                    f"workflow {self._name!r}: has no steps; decorate a function with @wf.task()"
                )
            made = type(self.name, (), dict(self._methods))
            self._made = declare_workflow(self._name, **self._options)(made)()
        return self._made

    @property
    def __ganger_workflow__(self) -> Declaration:
        return declaration_of(self.made())

    # ── running ───────────────────────────────────────────────────────────────────────

    def run(
        self,
        input: Input | None = None,
        *,
        timeout: float | None = None,
        **fields: Any,
    ) -> Any:
        """Run it and wait for its result: what each step returned, by its name.

        ``timeout``: seconds to wait. The other fields, and what is raised, are those of
        ``admin.run_workflow`` and ``WorkflowRunRef.sync_result``. In a step, without a
        ``run_id``, the run is its child, as from ``context.spawn_workflow``.

        Raises:
            RuntimeError: the event loop that runs here has a worker on it; or this process is a
                worker, and which step runs in this thread is not known.
        """
        self._check_may_block("run", "aio_run", "run_no_wait(…).sync_result()")
        self._check_call("run", fields, timeout)
        return self._wait(self._ran(input, timeout, fields))

    def run_no_wait(self, input: Input | None = None, **fields: Any) -> WorkflowRunRef:
        """Trigger a run of its own; its result may be had from what this returns."""
        check_fields(f"{self.name}.run_no_wait", fields, RUN_FIELDS)
        return self._app.admin.run_workflow(self, input, **fields)

    def run_many(
        self, inputs: Iterable[Input], *, timeout: float | None = None, **fields: Any
    ) -> list[Any]:
        """Run it once for each input, at the same time; the results in their order.

        ``timeout``: seconds to wait for all of them. In a step they are its children.

        Raises:
            InvalidInput: one of the inputs is none; the text says which, and nothing is started.
            RuntimeError: as ``run``.
        """
        self._check_may_block("run_many", "aio_run_many", "run_no_wait(…) for each")
        self._check_call("run_many", fields, timeout)
        return self._wait(self._ran_many(inputs, timeout, fields))

    async def aio_run(
        self,
        input: Input | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **fields: Any,
    ) -> Any:
        """The same as ``run``, awaitable.

        Raises:
            RuntimeError: this process is a worker, and which step runs in this thread is not known.
        """
        self._check_thread("aio_run", "aio_run_no_wait(…)")
        self._check_call("aio_run", fields, timeout)
        return await self._ran(input, timeout, fields)

    async def _ran(
        self, input: Input | None, seconds: float | None, fields: Mapping[str, Any]
    ) -> Any:
        children = self._children(fields)
        ref: WorkflowRunRef | ChildRef
        if children is None:
            ref = await self.aio_run_no_wait(input, **fields)
        else:
            ref = await children.spawn_workflow(self, input, **_of_child(fields))
        return self.output_of(await ref._result(seconds))

    async def aio_run_no_wait(self, input: Input | None = None, **fields: Any) -> WorkflowRunRef:
        """The same as ``run_no_wait``, awaitable."""
        check_fields(f"{self.name}.aio_run_no_wait", fields, RUN_FIELDS)
        return await self._app.admin.aio.run_workflow(self, input, **fields)

    async def aio_run_many(
        self,
        inputs: Iterable[Input],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **fields: Any,
    ) -> list[Any]:
        """The same as ``run_many``, awaitable."""
        self._check_thread("aio_run_many", "aio_run_no_wait(…) for each")
        self._check_call("aio_run_many", fields, timeout)
        return await self._ran_many(inputs, timeout, fields)

    async def _ran_many(
        self, inputs: Iterable[Input], seconds: float | None, fields: Mapping[str, Any]
    ) -> list[Any]:
        if fields.get("run_id") is not None:
            raise InvalidInput("run_id: is that of one run, and there would be several")
        given = checked_inputs(inputs)
        children = self._children(fields)
        refs: Sequence[WorkflowRunRef | ChildRef]
        if children is None:
            refs = await asyncio.gather(*(self.aio_run_no_wait(each, **fields) for each in given))
        else:
            refs = await children.spawn_workflows(self, given, **_of_child(fields))
        results = await asyncio.gather(*(ref._result(seconds) for ref in refs))
        return [self.output_of(result) for result in results]

    def _children(self, fields: Mapping[str, Any]) -> Children | None:
        """Those of the step that runs here, if it is to have this one among them."""
        children = children_here()
        is_its_own = any(fields.get(name) for name in _OWN)
        if children is None or is_its_own or not children.are_of(self._app.admin.aio):
            return None
        return children

    def _check_call(self, call: str, fields: Mapping[str, Any], timeout: float | None) -> None:
        """Before anything is started."""
        known = RUN_FIELDS if self._children(fields) is None else (*CHILD_FIELDS, *_OWN)
        check_fields(f"{self.name}.{call}", fields, known)
        check_timeout(timeout)

    def _check_may_block(self, name: str, instead: str, apart: str) -> None:
        """Before anything is started."""
        check_may_block(f"{self.name}.{name}()", f"await {self.name}.{instead}(…)")
        self._check_thread(name, apart)

    def _check_thread(self, name: str, apart: str) -> None:
        check_thread(f"{self.name}.{name}()", f"{self.name}.{apart}")

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        children = children_here()
        if children is not None:
            return children.blocking(work, "await it")
        return self._app.admin.call(work)

    def output_of(self, outputs: dict[str, Any]) -> Any:
        """What ``run`` returns, of what the steps returned."""
        return outputs


class Task(Workflow):
    """What ``@app.task()`` makes of a function: a workflow of one step.

    It can still be called as that function, by its own tests, say: that runs nothing.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What its function does with an input and a context."""
        return self._functions[0](*args, **kwargs)

    def output_of(self, outputs: dict[str, Any]) -> Any:
        """What its function returned; objects of the models that its annotation names."""
        kind = self._returned
        return outputs[self.name] if kind is None else read_again(kind, outputs[self.name])

    @cached_property
    def _returned(self) -> Returned | None:
        [step] = bind(self.made()).values()
        return step.returned.get(self.name)


def _of_child(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that say no to its being one."""
    return {name: value for name, value in fields.items() if name not in _OWN}


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a step's method: it is given the input as well."""

    async def call(self: object, context: Any) -> Any:
        return await function(context.workflow_input(), context)

    def call_in_thread(self: object, context: Any) -> Any:
        return function(context.workflow_input(), context)

    method = call if inspect.iscoroutinefunction(function) else call_in_thread
    method.__dict__["__wrapped__"] = function  # whose annotations count
    return mark_step(method, function)

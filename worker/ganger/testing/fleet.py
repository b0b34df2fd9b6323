"""``Fleet``: workers as a test declares them, a dispatcher, and a clock that the test moves."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import msgspec

from ganger.app import Ganger
from ganger.client import WorkflowRunRef
from ganger.compute.configs import Compute
from ganger.runtime import WorkerRuntime
from ganger.worker import Worker
from ganger.workflow import Duration, workflow_name_of
from ganger_broker.durations import parse_duration
from ganger_broker.errors import InvalidInput
from ganger_broker.labels import LabelValue
from ganger_broker.messages import RunResult
from ganger_broker.settings import Settings

from .runs import NotEnded, Run
from .stage import SECOND, Stage
from .stubs import Stub, on_virtual_time

__all__ = ["Fleet"]

STARTS_AT = datetime(2030, 1, 1, tzinfo=UTC)
THREAD_PATIENCE = 10.0
"""Real seconds that a plain function may take until the test fails."""

_Place = tuple[Settings, Callable[[], int]]
_LENT: WeakKeyDictionary[Ganger, list[_Place]] = WeakKeyDictionary()
"""Of each app in an open fleet: where it was before, then those fleets, the last one the app's."""


class Fleet:
    """A fleet in this process, with the real dispatcher, matcher and workers.

    It has an event loop and a thread of its own, so a test calls it without ``await``,
    whether it is a plain function or async. Its time moves by ``advance`` and ``run`` only:
    between two calls all has happened that takes no time, and nothing else.

    ``starts_at``: the date it begins with. ``thread_patience``: how many real seconds a step
    that is a plain function may take. ``settings`` are those of ``Ganger`` by name, such as
    ``worker_timeout="30s"``.

    Raises:
        MissingExtra: ``ganger[embedded]`` is not installed.
        InvalidSetting: one of the settings is bad.
    """

    def __init__(
        self,
        *,
        starts_at: datetime = STARTS_AT,
        thread_patience: float = THREAD_PATIENCE,
        **settings: Any,
    ) -> None:
        self._workers: dict[str, Worker] = {}
        self._known: set[str] = set()  # actions of all workers there ever were
        self._stubs: dict[str, Stub] = {}
        self._borrowed: set[Ganger] = set()
        self._counts: dict[str, int] = {}
        self._refs: dict[str, WorkflowRunRef] = {}
        self._stage = Stage(settings, starts_at, thread_patience, self._computing)
        self._place: _Place = (self._stage.settings, self._stage.clock)
        self._app = Ganger(self._stage.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all that runs, and give the apps back their settings."""
        try:
            self._stage.close(self._tasks)
        finally:
            for app in self._borrowed:
                self._give_back(app)
            self._borrowed.clear()

    # ── time ──────────────────────────────────────────────────────────────────────────

    @property
    def now(self) -> float:
        """Seconds of its own time since it was made."""
        return self._stage.loop.time()

    def advance(self, duration: Duration) -> None:
        """Let so much time pass: ``"30s"``, ``"5m"``, or seconds. All that is due happens.

        Raises:
            InvalidInput: it is no duration, or would go back.
            GangerError: a step in a thread does not end.
        """
        seconds = parse_duration(duration, "advance")
        self._stage.call(self._stage.let_pass(self._stage.loop.now + round(seconds * SECOND)))

    # ── workers ───────────────────────────────────────────────────────────────────────

    def worker(
        self,
        name: str,
        app: Ganger,
        *,
        labels: Mapping[str, LabelValue] | None = None,
        slots: int = 10,
        workflows: Iterable[object] | None = None,
        pool: str | Compute | None = None,
        region: str | None = None,
    ) -> Worker:
        """Start a worker whose id is its name, and return it.

        ``pool``, ``region``: it is a machine of that pool, as ``Ganger.worker`` takes them.
        ``workflows``: what it registers, by default all of the app. Until the fleet is closed
        the app's own triggers, events and children go to this fleet, or to the last one that
        the app has come to.

        Raises:
            InvalidInput: there is a worker of this name, or one of these is wrong.
            InvalidWorkflow: there is no workflow, or another one of the same version.
        """
        if name in self._live():
            raise InvalidInput(f"worker: there is a worker {name!r} already; kill or stop it first")
        self._borrow(app)
        worker = app.worker(
            name, labels=labels, slots=slots, worker_id=name, pool=pool, region=region
        )
        for workflow in app.workflows.values() if workflows is None else workflows:
            worker.register_workflow(workflow)
        for action, step in worker._steps.items():
            worker._steps[action] = on_virtual_time(step, self._stage.loop)
        for action in self._stubs.keys() & worker._steps.keys():
            worker._steps[action] = self._stubs[action].in_place_of(worker._steps[action])
        self._stage.call(self._join(worker))
        self._known |= worker._steps.keys()
        return worker

    def kill(self, name: str) -> None:
        """Lose a worker: it ends at once and says nothing, as when its machine is gone.

        The others get its steps when it has been silent for ``worker_timeout`` (10 s). A
        worker of the same name may be started again.

        Raises:
            InvalidInput: there is no such worker.
        """
        self._stage.call(self._end(self._the(name)))

    def stop(self, name: str) -> None:
        """Tell a worker to drain and leave, as SIGTERM does; its steps go on until they end.

        Raises:
            InvalidInput: there is no such worker.
        """
        self._the(name).stop()
        self._stage.call(self._stage.settle())

    # ── runs ──────────────────────────────────────────────────────────────────────────

    def stub(
        self,
        step: str,
        *,
        returns: Any = None,
        raises: BaseException | None = None,
        does: Callable[[Any], Any] | None = None,
        lasts: Duration | None = None,
    ) -> None:
        """Put something in the place of a step's code, on every worker, from now on.

        ``step``: ``"<workflow>:<step>"``. Its attempts take ``lasts`` of the fleet's time,
        then they raise, or return what ``does(context)`` does (plain or async), or
        ``returns``. It is matched, timed out and tried again like the real one.

        Raises:
            InvalidInput: no worker has such a step, or one of these is wrong.
        """
        if sum(given is not None for given in (returns, raises, does)) > 1:
            raise InvalidInput("stub: give one of returns, raises and does")
        seconds = 0.0 if lasts is None else parse_duration(lasts, "stub: lasts")
        if self._known and step not in self._known:
            raise self._no_step(step)
        stub = self._stubs[step] = Stub(seconds, does, raises, returns)
        for worker in self._live().values():
            if step in worker._steps:
                worker._steps[step] = stub.in_place_of(worker._steps[step])

    def start(
        self,
        workflow: str | object,
        input: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        **fields: Any,
    ) -> Run:
        """Trigger a run, and do what takes no time.

        ``workflow``: its name, or its class. ``run_id``: by default the workflow's name and a
        number. ``fields`` are ``metadata``, ``priority`` and ``desired_worker_labels``, as
        for ``app.admin.run_workflow``.

        Raises:
            InvalidInput: no worker has had such a workflow, or one of these is wrong.
        """
        return self._start(workflow, input, run_id, fields)[0]

    def run(
        self,
        workflow: str | object,
        input: Mapping[str, Any] | None = None,
        *,
        within: Duration = "1h",
        run_id: str | None = None,
        **fields: Any,
    ) -> Run:
        """``start``, and let time pass until the run has ended, well or not.

        No more of it than is needed, and at most ``within``.

        Raises:
            NotEnded: it has not ended by then, or cannot, because no worker there is can
                take a step and nothing else is under way. The text explains.
            InvalidInput: as for ``start``.
        """
        most = parse_duration(within, "within")
        run, ref = self._start(workflow, input, run_id, fields)
        why = self._stage.call(self._finish(run, ref, self._stage.loop.now + round(most * SECOND)))
        if why is not None:
            raise NotEnded(f"run {run.id} {why}\n{run.explain()}")
        return run

    def runs(self, workflow: str | object | None = None) -> list[Run]:
        """All runs, oldest first, those of events and children too; or those of a workflow."""
        name = None if workflow is None else workflow_name_of(workflow)
        found = self._stage.ask(self._stage.dispatcher.runs)
        return [Run(self, run_id, of) for run_id, of in found if name in (None, of)]

    def _start(
        self,
        workflow: str | object,
        input: Mapping[str, Any] | None,
        run_id: str | None,
        fields: Mapping[str, Any],
    ) -> tuple[Run, WorkflowRunRef]:
        name = workflow_name_of(workflow)
        known = sorted({action.partition(":")[0] for action in self._known})
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "start one first"
            raise InvalidInput(f"workflow: no worker has a workflow {name!r}; {there}")
        self._check_stubs()
        number = self._counts[name] = self._counts.get(name, 0) + 1
        run_id = f"{name}-{number}" if run_id is None else run_id
        ref = self._stage.call(self._trigger(name, input, run_id, fields))
        self._refs[run_id] = ref
        return Run(self, run_id, name), ref

    # ── on the loop ───────────────────────────────────────────────────────────────────

    async def _join(self, worker: Worker) -> None:
        await worker.__aenter__()
        self._workers[worker.id] = worker
        await self._stage.settle()
        if worker._task is not None and worker._task.done():
            worker._task.result()  # raises why it was refused

    async def _end(self, worker: Worker) -> None:
        if worker._task is not None:
            worker._task.cancel()
            await asyncio.wait([worker._task])
        await self._stage.settle()

    async def _trigger(
        self, name: str, input: Any, run_id: str, fields: Mapping[str, Any]
    ) -> WorkflowRunRef:
        ref = await self._app.admin.aio.run_workflow(name, input, run_id=run_id, **fields)
        await self._stage.settle()
        return ref

    async def _finish(self, run: Run, ref: WorkflowRunRef, until: int) -> str | None:
        """Let time pass until it has ended; why it has not."""
        while True:
            due = await self._stage.settle()
            if ref.done:
                return None
            if await self._is_stuck(run.id):
                return "cannot end: no worker can take what is left of it"
            if due is None or due > until:
                return f"has not ended at {until / SECOND:g} s"
            self._stage.loop.forward(due)

    async def _is_stuck(self, run_id: str) -> bool:
        """Whether nothing is under way, and no worker meets what its steps require."""
        if any(runtime.runner.held for runtime in self._runtimes()):
            return False  # and might change its worker's labels
        found = await self._stage.dispatcher.run(run_id)
        if found is None:
            return False
        left = [name for name, step in found["steps"].items() if step["status"] == "pending"]
        said = [await self._stage.dispatcher.explain(f"{run_id}/{name}") for name in left]
        if not said or any(each["verdict"] != "never with this fleet" for each in said):
            return False
        return not await self._stage.dispatcher.goes_on()

    # ── for runs ──────────────────────────────────────────────────────────────────────

    def _read(self, run_id: str) -> dict[str, Any]:
        ask = self._stage.dispatcher.run
        found: dict[str, Any] | None = self._stage.ask(lambda: ask(run_id))
        if found is not None:
            return found
        refused = self._answer_to(run_id)
        if refused is None:
            raise InvalidInput(f"there is no run {run_id!r} any more: its retention is over")
        return {**msgspec.to_builtins(refused), "steps": {}}

    def _answer_to(self, run_id: str) -> RunResult | None:
        """What the trigger of a run was answered that never began: its input was refused, say."""
        ref = self._refs.get(run_id)
        return None if ref is None else ref._awaited.result

    def _explain(self, step_run: str) -> str:
        ask = self._stage.dispatcher.explain_text
        text: str = self._stage.ask(lambda: ask(step_run))
        return text

    def _cancel(self, run_id: str, reason: str) -> None:
        async def cancel() -> None:
            await self._app.admin.aio.cancel(run_id, reason)
            await self._stage.settle()

        self._stage.call(cancel())

    # ── inside ────────────────────────────────────────────────────────────────────────

    def _live(self) -> dict[str, Worker]:
        """Those that have not ended, those that drain too."""
        return {id: worker for id, worker in self._workers.items() if worker._runtime}

    def _runtimes(self) -> list[WorkerRuntime]:
        workers = list(self._workers.values())
        return [runtime for worker in workers if (runtime := worker._runtime) is not None]

    def _tasks(self) -> list["asyncio.Task[None]"]:
        """Of workers: they end their steps without a word."""
        return [worker._task for worker in self._live().values() if worker._task is not None]

    def _computing(self) -> int:
        return sum(runtime.runner.computing for runtime in self._runtimes())

    def _borrow(self, app: Ganger) -> None:
        if app not in self._borrowed:
            app.close()  # connections to elsewhere
            self._borrowed.add(app)
            places = _LENT.setdefault(app, [(app.settings, app.clock)])
            places.append(self._place)
            app.settings, app.clock = self._place

    def _give_back(self, app: Ganger) -> None:
        """To the fleet that has it as well, or to where it was before; in whatever order."""
        app.close()
        places = _LENT[app]
        places.remove(self._place)
        app.settings, app.clock = places[-1]
        if len(places) == 1:
            del _LENT[app]

    def _the(self, name: str) -> Worker:
        live = self._live()
        if name not in live:
            known = ", ".join(live) or "none"
            raise InvalidInput(f"there is no worker {name!r}; there are {known}")
        return live[name]

    def _check_stubs(self) -> None:
        for step in self._stubs.keys() - self._known:
            del self._stubs[step]
            raise self._no_step(step)

    def _no_step(self, step: str) -> InvalidInput:
        known = ", ".join(sorted(self._known))
        return InvalidInput(f"stub: no worker has a step {step!r}; there are {known}")

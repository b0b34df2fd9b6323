"""``Worker``: takes steps of the workflows registered with it, and runs them."""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import structlog

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.durations import parse_duration
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.event_loop import run
from ganger_broker.fields import WORKER_ID_PATTERN
from ganger_broker.garbage import collect_seldom
from ganger_broker.labels import LabelValue
from ganger_broker.logs import configure_logging
from ganger_broker.pool_labels import pool_of_worker
from ganger_broker.quoting import quoted
from ganger_broker.transports import open_transport

from .background import BackgroundLoop, loops_at_work
from .compute.configs import Compute
from .compute.pools import place_labels
from .embedded import ensure_dispatcher
from .flow_control import limits_of
from .functions import Workflow
from .importing import check_not_importing
from .live_labels import LiveLabels
from .runtime import WorkerRuntime
from .signals import restoring_signals, stopping_on_signals
from .starving import ending_without_memory
from .unknown_threads import only_a_worker_here
from .workflow import BoundStep, Duration, bind, declaration_of

if TYPE_CHECKING:
    from .app import Ganger

__all__ = ["Worker"]

MAX_SLOTS = 4096
COLLECT_AFTER = 10_000
"""New objects until cycles are looked for. Not more: the steps' own garbage may be large."""


class Worker:
    """A worker: a name, labels, slots, and the workflows whose steps it can run.

    ``start()`` for a program that is a worker; ``await run()`` on a loop of your own;
    ``with worker:`` or ``async with worker:`` to have it work beside what the block does.
    Made by ``Ganger.worker``.
    """

    def __init__(
        self,
        app: "Ganger",
        name: str,
        *,
        labels: Mapping[str, LabelValue] | None = None,
        slots: int = 10,
        worker_id: str | None = None,
        pool: str | Compute | None = None,
        region: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"worker: name: {quoted(name)} must be a text that is not empty")
        self.name = name
        self.id = f"{name}-{uuid4().hex[:8]}" if worker_id is None else worker_id
        if not isinstance(self.id, str) or not re.fullmatch(WORKER_ID_PATTERN, self.id):
            whose = f"name {quoted(name)} makes the id" if worker_id is None else "id"
            raise InvalidInput(
                f"worker: {whose} {quoted(self.id)}; it must be 1 to 128 letters, digits and _ . -"
            )
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MAX_SLOTS:
            raise InvalidInput(
                f"worker {name!r}: slots: {quoted(slots)} must be a whole number from 1 to "
                f"{MAX_SLOTS}"
            )
        self.slots = slots
        self._app = app
        if pool is None and region is not None:
            raise InvalidInput(f"worker {name!r}: region: {region!r} is of a pool; say which")
        reserved = {} if pool is None else place_labels(app.pools, pool, region)
        self._labels = LiveLabels(labels, reserved)
        self._pool = pool_of_worker(reserved)
        self._workflows: list[WorkflowDefinition] = []
        self._steps: dict[str, BoundStep] = {}
        self._runtime: WorkerRuntime | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: BackgroundLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def register_workflow(self, workflow: object) -> None:
        """Take this workflow's steps; ``workflow`` is an object of a workflow class, or one
        of functions.

        Raises:
            InvalidWorkflow: it is no workflow, its class needs arguments, or one of its
                name is registered already.
        """
        if isinstance(workflow, type):
            workflow = _made(workflow)
        elif isinstance(workflow, Workflow):
            workflow = workflow.made()
        definition = declaration_of(workflow).definition
        if any(known.name == definition.name for known in self._workflows):
            raise InvalidWorkflow(f"worker {self.name!r} has a workflow {definition.name!r}")
        self._workflows.append(definition)
        self._steps |= bind(workflow)

    @property
    def app(self) -> "Ganger":
        """The app it was made by."""
        return self._app

    @property
    def workflows(self) -> list[str]:
        """The names of the workflows registered with it."""
        return [definition.name for definition in self._workflows]

    def get_labels(self) -> dict[str, LabelValue]:
        """A copy of its labels as they are now."""
        return self._labels.get()

    def upsert_labels(self, labels: Mapping[str, LabelValue]) -> None:
        """Set these labels and keep the others; from any thread, and also before it starts.

        Raises:
            InvalidLabel: a key or value is wrong, or they would be more than 64 in all.
        """
        self._labels.upsert(labels)

    def delete_labels(self, keys: Iterable[str]) -> None:
        """Delete these labels; those that are not there are passed over.

        Raises:
            InvalidLabel: a key cannot be one.
        """
        self._labels.delete(keys)

    # ── running ───────────────────────────────────────────────────────────────────────

    def start(self, *, grace: Duration | None = None) -> None:
        """Work until SIGTERM or SIGINT (Ctrl-C), then drain; a second signal forces.

        Blocks. ``grace``: for the steps that run when it is told to stop, by default
        ``GANGER_DRAIN_GRACE``; those still running after it are left to other workers. A
        program that has not set up its logging logs to standard error, as ``ganger worker`` does.

        Raises:
            GangerError: the broker refuses it, it has no workflow, or ``ganger worker`` or
                ``ganger dev`` is importing the module that calls this at its top level.
        """
        check_not_importing(f"worker {self.name!r}: start()")
        if not structlog.is_configured() and not logging.getLogger().handlers:
            configure_logging(self._app.settings)
        collect_seldom(COLLECT_AFTER)
        with ExitStack() as until_closed:  # a signal may come while the loop is closed, too
            until_closed.enter_context(restoring_signals())
            until_closed.enter_context(only_a_worker_here())
            run(self._run_signalled(grace, until_closed))

    async def run(self, *, grace: Duration | None = None) -> None:
        """Work until ``stop`` is called; ``start`` on a loop of your own, without signals.

        Raises:
            GangerError: the broker refuses it, or it has no workflow.
        """
        settings = self._app.settings
        seconds = settings.drain_grace if grace is None else parse_duration(grace, "grace")
        if not self._workflows:
            raise InvalidWorkflow(
                f"worker {self.name!r} has no workflow; give it one with register_workflow(…)"
            )
        if not any(workflow.actions_on(self._pool) for workflow in self._workflows):
            raise InvalidWorkflow(
                f"worker {self.name!r}: none of its workflows has a step in pool {self._pool!r}"
            )
        if self._runtime is not None:
            raise InvalidInput(f"worker {self.id!r} is running already")
        limits = limits_of(self._workflows, self._app.rate_limits)
        self._loop = asyncio.get_running_loop()
        runtime = self._runtime = WorkerRuntime(
            settings,
            open_transport(self._app.settings, self.id),
            worker_id=self.id,
            name=self.name,
            slots=self.slots,
            labels=self._labels,
            workflows=self._workflows,
            steps=self._steps,
            rate_limits=limits,
            admin=self._app.admin.aio,
            clock=self._app.clock,
        )
        loops_at_work.add(self._loop)
        try:
            if settings.embedded:
                await asyncio.to_thread(ensure_dispatcher, settings)
            await runtime.run(seconds)
        finally:
            self._runtime = self._loop = None

    def stop(self, *, force: bool = False) -> None:
        """Tell it to drain and end; with ``force``, to leave what runs to others.

        Returns at once; from any thread. Nothing happens where it does not run.
        """
        loop, runtime = self._loop, self._runtime
        if loop is not None and runtime is not None:
            loop.call_soon_threadsafe(lambda: runtime.stop(force=force))

    async def _run_signalled(self, grace: Duration | None, until_closed: ExitStack) -> None:
        until_closed.enter_context(stopping_on_signals(lambda force: self.stop(force=force)))
        with ending_without_memory():
            await self.run(grace=grace)

    async def __aenter__(self) -> Self:
        task = self._task = asyncio.create_task(self.run())
        await asyncio.sleep(0)  # it makes its runtime in its first turn
        if self._runtime is not None:
            ready = asyncio.create_task(self._runtime.ready.wait())
            await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        if task.done() or self._runtime is None:
            await task  # raises why it could not start
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(force=exc is not None)
        if self._task is not None:
            await self._task

    def __enter__(self) -> Self:
        self._background = BackgroundLoop(f"worker-{self.id}")
        try:
            return self._background.call(self.__aenter__())
        except BaseException:
            self._background.close()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._background is not None:
            self._background.call(self.__aexit__(exc_type, exc, traceback))
            self._background.close()


def _made(workflow: type) -> object:
    declaration_of(workflow)
    try:
        made: object = workflow()
    except TypeError as exc:
        raise InvalidWorkflow(
            f"{workflow.__qualname__} cannot be made without arguments; register an object "
            f"of it: {exc}"
        ) from exc
    return made

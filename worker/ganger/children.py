"""Runs that a step spawns: its children, whose results it may wait for without a slot."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ganger_broker.errors import InvalidInput
from ganger_broker.plain_values import plain
from ganger_broker.to_worker import Assignment

from .arguments import CHILD_FIELDS, check_fields, check_key, check_sticky, checked_inputs
from .client import WorkflowRunRef
from .workflow import workflow_name_of

if TYPE_CHECKING:
    from .admin import AsyncAdmin

__all__ = ["ChildRef", "Children"]

T = TypeVar("T")

Waiting = Callable[[], AbstractAsyncContextManager[None]]
"""While it is open the step's slot is for others."""


class ChildRef:
    """A run that a step has spawned. Waiting for its result leaves the step's slot to others,
    so that a worker of one slot can run parent and child."""

    def __init__(self, ref: WorkflowRunRef, waiting: Waiting, children: "Children") -> None:
        self.run_id = ref.run_id
        self.workflow = ref.workflow
        self._ref = ref
        self._waiting = waiting
        self._children = children

    def __repr__(self) -> str:
        return f"ChildRef(run_id={self.run_id!r}, workflow={self.workflow!r})"

    @property
    def workflow_run_id(self) -> str:
        """The id of the run."""
        return self.run_id

    async def result(self, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait for the run's end; what each step returned, by its name.

        ``timeout`` and what is raised are those of ``WorkflowRunRef.result``.
        """
        return await self._result(timeout)

    async def _result(self, seconds: float | None) -> dict[str, Any]:
        if self._ref.done:
            return await self._ref._result(seconds)
        return await self._children.on_its_loop(self._awaited(seconds))

    async def _awaited(self, seconds: float | None) -> dict[str, Any]:
        async with self._waiting():
            return await self._ref._result(seconds)

    def sync_result(self, timeout: float | None = None) -> dict[str, Any]:
        """The same, blocking; in a step that is a plain function.

        Raises:
            RuntimeError: the step is ``async def``, whose event loop this would block.
        """
        return self._children.blocking(self.result(timeout), "await result()")


class Children:
    """Spawns runs for one attempt of a step: ``context.aio``.

    A child's run id comes from the step run, the workflow and the key: when the step is tried
    again, the same keys are the same runs, as far as they have got.
    """

    def __init__(
        self,
        assignment: Assignment,
        worker_id: str,
        admin: "AsyncAdmin | None",
        waiting: Waiting,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._loop = loop
        self._blocked: set[Future[Any]] = set()
        self._stopped = False
        self._assignment = assignment
        self._worker_id = worker_id
        self._admin = admin
        self._waiting = waiting
        self._spawned = 0
        self._inputs: dict[str, bytes] = {}  # run id → digest: of children that have a key
        self.is_over = False
        """The step has ended."""

    def are_of(self, admin: "AsyncAdmin") -> bool:
        """Whether they are run with this one, and so by the app that it is of."""
        return self._admin is admin

    def waiting(self) -> AbstractAsyncContextManager[None]:
        """While it is open the step waits, and its slot is for others."""
        return self._waiting()

    def is_on_its_loop(self) -> bool:
        """Whether the worker's loop runs here."""
        return asyncio.get_running_loop() is self._loop

    async def spawn_workflow(
        self,
        workflow: str | object,
        input: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        sticky: bool = False,
        **fields: Any,
    ) -> ChildRef:
        """Start a run; returns when the broker has confirmed it.

        ``key`` tells the step's children apart; by default their number, in the order in
        which they are spawned. A second one with the same key, workflow and input is the same
        child. ``sticky``: the child stays on this worker, by its workflow's
        strategy, SOFT where it has none. ``metadata``, ``desired_worker_labels`` and
        ``priority`` (by default this run's) are those of ``admin.run_workflow``.

        When this run is cancelled, or fails, the child is cancelled.

        Raises:
            TypeError: it takes no such field.
            InvalidInput: one of these is wrong, or this attempt has a child of that key with
                another input; the text names the field.
        """
        if self._admin is None:
            raise InvalidInput("spawn_workflow: this context belongs to no app")
        _check_fields("spawn_workflow", fields)
        check_key(key)
        check_sticky(sticky)
        self._spawned += 1
        step_run = self._assignment.attempt.rpartition("/")[0]
        own = f"#{self._spawned}" if key is None else f"={key}"
        words = f"{step_run}/{workflow_name_of(workflow)}{own}".encode(errors="surrogatepass")
        run_id = blake2s(words, digest_size=16).hexdigest()
        with self._one_input(key, run_id, input):
            ref = await self._admin.run_workflow(
                workflow,
                input,
                run_id=run_id,
                parent=step_run,
                sticky_to=self._worker_id if sticky else None,
                **{"priority": self._assignment.priority, **fields},
            )
        return ChildRef(ref, self._waiting, self)

    @contextmanager
    def _one_input(
        self, key: str | None, run_id: str, input: Mapping[str, Any] | None
    ) -> Iterator[None]:
        """While it is open the child is started. In one attempt a key is one input: a key that is
        forgotten in a loop would have the first child's result stand for all."""
        if key is None:
            yield
            return
        digest, is_new = _digest(input), run_id not in self._inputs
        if self._inputs.setdefault(run_id, digest) != digest:
            raise InvalidInput(
                f"key: {key!r} is that of a child with another input; give each its own"
            )
        try:
            yield
        except InvalidInput:
            if is_new:
                del self._inputs[run_id]  # nothing was started
            raise

    async def spawn_workflows(
        self, workflow: str | object, inputs: Iterable[Mapping[str, Any]], **fields: Any
    ) -> list[ChildRef]:
        """Start a run for each input, at the same time; they may be thousands.

        The fields are those of ``spawn_workflow``; with a ``key`` the children's keys are
        ``<key>/0``, ``<key>/1``, ….

        Raises:
            TypeError: it takes no such field.
            InvalidInput: one of these is wrong; of the inputs the text says which, and none is
                started.
        """
        _check_fields("spawn_workflows", fields)
        key = fields.pop("key", None)
        check_key(key)
        check_sticky(fields.get("sticky", False))
        given = checked_inputs(inputs)
        return await asyncio.gather(
            *(
                self.spawn_workflow(
                    workflow, each, key=None if key is None else f"{key}/{number}", **fields
                )
                for number, each in enumerate(given)
            )
        )

    async def on_its_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the worker's loop, where the step's slot is, whatever loop this runs on."""
        if self.is_on_its_loop():
            return await work
        return await asyncio.wrap_future(self._given(work))

    def _given(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Have the worker's loop do it; given up when the step is to stop."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._blocked.add(future)
        future.add_done_callback(self._blocked.discard)
        if self._stopped:
            future.cancel()
        return future

    def blocking(self, work: Coroutine[Any, Any, T], instead: str) -> T:
        """Run it on the worker's loop, from one of its threads, and wait for it.

        Raises:
            RuntimeError: this is the loop's own thread; ``instead`` is what to write there.
            CancelledError: the step is to stop.
        """
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            work.close()
            raise RuntimeError(f"this would block the worker's event loop: {instead}")
        return self._given(work).result()

    @property
    def blocked(self) -> int:
        """Threads that wait here, for something that has not come yet."""
        return sum(not future.done() for future in list(self._blocked))

    def stop(self) -> None:
        """The step is to stop: let go of its threads that wait here."""
        self._stopped = True
        for future in list(self._blocked):
            future.cancel()


def _check_fields(call: str, fields: dict[str, Any]) -> None:
    if fields.pop("stream", False):
        raise InvalidInput(
            "stream: is not for children; what a child logs is kept with its own run"
        )
    check_fields(call, fields, CHILD_FIELDS)


def _digest(input: Mapping[str, Any] | None) -> bytes:
    """Of a run's input; equal ones have the same."""
    given = plain({} if input is None else input, "input")
    return blake2s(msgspec.msgpack.encode(given, order="deterministic")).digest()

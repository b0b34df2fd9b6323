"""What a step is given: its run, its worker, and whether it is still wanted."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from pydantic import ValidationError

from ganger_broker.durations import Duration, parse_duration
from ganger_broker.errors import GangerError, InvalidInput
from ganger_broker.fields import MAX_SECONDS, AttemptId, LogLevel
from ganger_broker.labels import LabelValue
from ganger_broker.messages import RunError
from ganger_broker.to_worker import Assignment

from .children import ChildRef, Children
from .live_labels import LiveLabels
from .step import step_name_of
from .step_stream import StepStream, check_level
from .typed import read_again
from .workflow import BoundStep

__all__ = ["Context", "UnfitInput", "WorkerContext"]

_log = structlog.get_logger("ganger.step")
_RESERVED = {"event", "level", "timestamp", "exc_info", "stack_info", "stack", "exception"}
"""What the fields of a line in the worker's own log are not to be called."""

_making_exit = threading.Lock()


class UnfitInput(InvalidInput):
    """The input fits the schema that the dispatcher knows, and not the model here."""


class WorkerContext:
    """The worker that runs the step, and its labels. All of it may be used from any thread."""

    def __init__(self, worker_id: str, name: str, labels: LiveLabels) -> None:
        self._id = worker_id
        self._name = name
        self._labels = labels

    def id(self) -> str:
        """The worker's id."""
        return self._id

    def name(self) -> str:
        """The worker's name, which several workers may share."""
        return self._name

    def get_labels(self) -> dict[str, LabelValue]:
        """A copy of the worker's labels as they are now."""
        return self._labels.get()

    def upsert_labels(self, labels: Mapping[str, LabelValue]) -> None:
        """Set these labels, all at once, and keep the others.

        Returns at once. ``get_labels`` shows them from now on, and the dispatcher knows
        them before this step's slot is free again.

        Raises:
            InvalidLabel: a key or value is wrong, or they would be more than 64 in all.
        """
        self._labels.upsert(labels)

    async def async_upsert_labels(self, labels: Mapping[str, LabelValue]) -> None:
        """Set these labels; returns when the broker has confirmed the change.

        Raises:
            InvalidLabel: a key or value is wrong, or they would be more than 64 in all.
            TransportClosed: the worker left before it was confirmed.
        """
        confirmed: concurrent.futures.Future[None] = concurrent.futures.Future()

        def done(error: GangerError | None) -> None:
            if not confirmed.set_running_or_notify_cancel():
                return
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(error)

        self._labels.upsert(labels, done)
        await asyncio.wrap_future(confirmed)

    def delete_labels(self, keys: Iterable[str]) -> None:
        """Delete these labels; returns at once, as ``upsert_labels`` does.

        Raises:
            InvalidLabel: a key cannot be one.
        """
        self._labels.delete(keys)


class Context:
    """One attempt of a step, as the step sees it. All of it may be used from any thread."""

    def __init__(
        self,
        assignment: Assignment,
        worker: WorkerContext,
        refresh: Callable[[AttemptId, float], None],
        children: Children,
        step: BoundStep | None = None,
        stream: StepStream | None = None,
    ) -> None:
        self._stream = stream
        self._input: Any = assignment.input
        self._step = step
        self.worker = worker
        self.aio = children
        self._assignment = assignment
        self._refresh = refresh
        self._stopped = False
        self._exit: threading.Event | None = None  # made for the first who waits: few do

    def workflow_input(self) -> Any:
        """The input of the run: a map, or an object of its workflow's ``input_validator``.

        In an ``on_failure_step`` it is the map as it came where it does not fit that model.
        """
        return self._input

    def step_output(self, step: str | Callable[..., Any]) -> Any:
        """What a parent of this step returned; ``step`` is its name, or the parent itself.

        Where the parent says with its annotation that it returns a pydantic model, or models
        in lists and the like, these are objects again.
        In an ``on_failure_step``: what any step returned that has succeeded.

        Raises:
            InvalidInput: it is not a parent of this step, or has not succeeded.
        """
        parents = self._assignment.parents
        name = step if isinstance(step, str) else step_name_of(step)
        if name not in parents:
            raise InvalidInput(f"step_output: {self._no_output(step, name)}")
        kind = self._step.returned.get(name or "") if self._step is not None else None
        return parents[name] if kind is None else read_again(kind, parents[name])

    def _no_output(self, step: object, name: str | None) -> str:
        """Why there is no output of it, and of which steps there is one."""
        known = ", ".join(self._assignment.parents)
        if not self._assignment.errors:  # this is no step for failures
            return (
                f"{step!r} is not a parent of {self._assignment.step!r}; "
                f"its parents: {known or 'it has none'}"
            )
        why = "is no step that has succeeded"
        if name in self._assignment.errors:
            why = "has failed (see step_run_errors())"
        return f"{(name or step)!r} {why}; there are outputs of: {known or 'no step'}"

    def step_run_errors(self) -> dict[str, RunError]:
        """In an ``on_failure_step``: why each step that failed did, by its name.

        A ``RunError`` has ``reason``, ``message``, ``type``, ``traceback`` and ``attempt``.
        """
        return dict(self._assignment.errors)

    def workflow_run_id(self) -> str:
        """The id of the run."""
        return self._assignment.run_id

    def step_run_id(self) -> str:
        """The id of the step run, ``<run>/<step>``: the same for all its attempts."""
        return self._assignment.attempt.rpartition("/")[0]

    def attempt_id(self) -> str:
        """The id of this attempt, ``<run>/<step>/<n>``."""
        return self._assignment.attempt

    def retry_count(self) -> int:
        """How many attempts of this step have failed before: 0 on the first."""
        return self._assignment.retry_count

    def additional_metadata(self) -> dict[str, Any]:
        """What the trigger gave as metadata."""
        return self._assignment.metadata

    def priority(self) -> int:
        """The priority of the run, 1 to 3."""
        return self._assignment.priority

    def refresh_timeout(self, timeout: Duration) -> None:
        """Have this long from now on, whatever was left of the step's time-out.

        Returns at once. For work whose length shows only while it is done: a step that
        stops refreshing is ended like any other.

        Raises:
            InvalidInput: it is no duration, or more than is taken.
        """
        seconds = parse_duration(timeout, "refresh_timeout")
        if seconds > MAX_SECONDS:
            raise InvalidInput(f"refresh_timeout: {timeout!r} is over {MAX_SECONDS:,.0f} s")
        self._refresh(self._assignment.attempt, seconds)

    def spawn_workflow(
        self, workflow: str | object, input: Mapping[str, Any] | None = None, **fields: Any
    ) -> ChildRef:
        """The same as ``await context.aio.spawn_workflow``, for steps that are plain functions.

        Raises:
            RuntimeError: the step is ``async def``, whose event loop this would block.
        """
        work = self.aio.spawn_workflow(workflow, input, **fields)
        return self.aio.blocking(work, "await context.aio.spawn_workflow(…)")

    def spawn_workflows(
        self, workflow: str | object, inputs: Iterable[Mapping[str, Any]], **fields: Any
    ) -> list[ChildRef]:
        """The same as ``await context.aio.spawn_workflows``, for steps that are plain functions.

        Raises:
            RuntimeError: the step is ``async def``, whose event loop this would block.
        """
        work = self.aio.spawn_workflows(workflow, inputs, **fields)
        return self.aio.blocking(work, "await context.aio.spawn_workflows(…)")

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the attempt was cancelled, is over its time, or its worker ends.

        An ``async def`` step is cancelled as well; a plain function runs on until it looks.
        """
        return self._stopped

    @property
    def exit_flag(self) -> bool:
        """The same as ``cancelled``."""
        return self._stopped

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block until the step is to stop, for ``timeout`` seconds at most; whether it is.

        For plain functions, in place of a sleep: it ends at once when it should.
        """
        with _making_exit:
            exit_ = self._exit = self._exit or threading.Event()
        if self._stopped:  # looked at after the event is there: `_stop` looks the other way
            return True
        return exit_.wait(timeout)

    def log(self, message: str, level: LogLevel = "info", **fields: Any) -> None:
        """Log a line: it is kept with the run, and streamed with it.

        ``level``: debug, info, warning or error. ``fields`` are put behind the message, as
        ``key=value``. Returns at once; of what a run logs the newest 1,000 lines are kept, of
        a line 4,000 characters. The worker's own log has it as well, with run, step, attempt
        and worker.

        Raises:
            InvalidInput: the level is none.
        """
        check_level(level)
        text = _shown(message, str)
        shown = {key: _shown(value, repr) for key, value in fields.items()}
        own = {
            f"{key}_" if key in _RESERVED else key: value if _is_plain(value) else shown[key]
            for key, value in fields.items()
        }
        with suppress(Exception):  # where the worker's own log goes is no matter of the step
            getattr(_log, level)(text, **own)
        line = " ".join([text, *(f"{key}={value}" for key, value in shown.items())])
        if self._stream is not None:
            self._stream.log(line, level)

    def put_stream(self, data: Any) -> None:
        """Send a chunk, text or what JSON can say, to those who stream the run.

        For a run that nobody streams nothing is sent. Returns at once, unless 1 MiB of what
        the step has said is not sent yet: a step that is a plain function waits then, until
        there is room.

        Raises:
            InvalidInput: it is bytes, or has no JSON form, or is over 256 KiB; or the step is
                ``async def`` and 1 MiB is not sent yet: ``await async_put_stream(…)``.
        """
        if self._stream is not None:
            self._stream.put(data)

    async def async_put_stream(self, data: Any) -> None:
        """The same as ``put_stream``, for ``async def`` steps: waits until there is room.

        Raises:
            InvalidInput: it is bytes, or has no JSON form, or is over 256 KiB.
        """
        if self._stream is not None:
            await self._stream.put_when_room(data)

    def _validate(self) -> None:
        """Make the input an object of its model; a step for failures is to run all the same.

        Raises:
            UnfitInput: it does not fit.
        """
        if self._step is None or self._step.input_model is None:
            return
        try:
            text = msgspec.json.encode(self._assignment.input)
            self._input = self._step.input_model.model_validate_json(text)
        except Exception as exc:  # validators are the user's code, and raise anything
            if self._step.on_failure:
                return
            if not isinstance(exc, ValidationError):
                raise
            first = exc.errors(include_url=False)[0]
            path = "".join(f".{part}" for part in first["loc"])
            raise UnfitInput(f"$.input{path}: {first['msg']}") from exc

    def _stop(self) -> None:
        self._stopped = True
        self.aio.stop()
        if self._stream is not None:
            self._stream.stop()
        if self._exit is not None:
            self._exit.set()


def _shown(value: object, form: Callable[[object], str]) -> str:
    """A value as text, whatever its own way to say it does."""
    try:
        return form(value).encode(errors="backslashreplace").decode()
    except Exception as exc:
        return f"<{type(value).__name__}: {type(exc).__name__} when shown>"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)

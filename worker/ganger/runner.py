"""Runs steps: each attempt once, on the loop or in a thread, and says how it ended."""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from ganger_broker.definitions import action_of
from ganger_broker.errors import InvalidInput
from ganger_broker.messages import StepRefreshed, StepReleased, StepReturned, StepStarted, StepWaits
from ganger_broker.pool_labels import MEMORY_MB
from ganger_broker.to_worker import Assignment
from ganger_broker.transport import Delivery

from .admin import AsyncAdmin
from .children import Children
from .clock import wall_clock
from .context import Context, WorkerContext
from .current_step import as_current_step
from .ends import Ends
from .failures import timed_out
from .outbox import Outbox
from .slots import Slot, Slots
from .step_stream import StepStream
from .stream_sender import StreamSender
from .threads import Raised, StepThreads
from .workflow import BoundStep

__all__ = ["StepRunner"]

MAX_FINISHED = 10_000
"""Finished attempts that are remembered, so that a late duplicate is not run."""
STOP_PATIENCE = 1.0
"""Seconds a step has to clean up after its time-out until it is reported as it runs."""
SLOT_PATIENCE = 1.0
"""Seconds for which an attempt that came when no slot was free waits for one; then it is given
back. Most that come then do so because a step goes on that had waited for a child, and many of
those soon wait again."""
BODY_MARGIN = 256
"""Bytes of a body that are not its event: the list around it."""

_log = structlog.get_logger(__name__)


class _Attempt:
    """One attempt that this worker holds."""

    __slots__ = (
        *("assignment", "begun", "cancel", "context", "seconds", "slot", "step", "stream"),
        *("started", "task", "timed_out", "timer"),
    )

    def __init__(self, assignment: Assignment, step: BoundStep | None) -> None:
        self.assignment = assignment
        self.step = step
        self.context: Context
        self.stream: StepStream
        self.slot: Slot
        self.started = False  # it has had its slot, and that was told
        self.begun = False  # its step was called
        self.seconds = assignment.timeout
        self.timed_out = False
        self.cancel: str | None = None  # why it was cancelled
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle | None = None


class StepRunner:
    """The attempts of one worker in one incarnation.

    At most ``slots`` steps run at once, whatever the dispatcher counts; an attempt that finds
    none free is given back, and does not count as started before. ``max_bytes`` bounds one event.
    ``admin`` is what the steps spawn runs with, ``sender`` takes what they say to those who stream
    their runs.
    """

    def __init__(
        self,
        steps: Mapping[str, BoundStep],
        worker: WorkerContext,
        incarnation: str,
        outbox: Outbox,
        sender: StreamSender,
        *,
        slots: int,
        max_bytes: int,
        admin: AsyncAdmin | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self._admin = admin
        self._now = clock
        self._steps = steps
        self._worker = worker
        self._incarnation = incarnation
        self._outbox = outbox
        self._sender = sender
        self._max_bytes = max_bytes - BODY_MARGIN
        self._ends = Ends(worker.id(), incarnation, max_bytes=self._max_bytes, clock=clock)
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(slots)
        self._threads = StepThreads(worker.id())
        self._held: dict[str, _Attempt] = {}
        self._lingering: dict[str, _Attempt] = {}  # their ends are told, and they go on
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def held(self) -> list[str]:
        """The attempts that have not stopped."""
        return [*self._held, *self._lingering]

    @property
    def computing(self) -> int:
        """Calls in threads that have not returned and do not wait for children."""
        attempts = (*self._held.values(), *self._lingering.values())
        return self._threads.busy - sum(held.context.aio.blocked for held in attempts)

    def knows(self, attempt: str) -> bool:
        """Whether the attempt is held or has ended here."""
        return attempt in self._held or attempt in self._finished or attempt in self._lingering

    def begin(self, assignment: Assignment, delivery: Delivery) -> None:
        """Take the attempt. Its delivery is settled when its start is confirmed, and at once
        where it has to wait for a slot: words of cancellation come behind it.

        Not at its end: RabbitMQ closes the channel of a consumer that keeps a message for
        30 minutes. The dispatcher's state and heartbeats bring it again if this worker dies.
        """
        step = self._steps.get(action_of(assignment.workflow, assignment.step))
        held = _Attempt(assignment, step)
        children = Children(
            assignment,
            self._worker.id(),
            self._admin,
            lambda: held.slot.lent(),
            self._loop,
        )
        held.stream = StepStream(
            assignment,
            self._worker.id(),
            self._incarnation,
            self._outbox,
            self._sender,
            max_bytes=self._max_bytes,
        )
        held.context = Context(assignment, self._worker, self._refresh, children, step, held.stream)
        held.slot = Slot(
            self._slots,
            lambda word: self._outbox.append(
                StepWaits(self._worker.id(), self._incarnation, assignment.attempt, word)
            ),
            lambda: held.context.cancelled,
        )
        self._held[assignment.attempt] = held
        self._idle.clear()
        held.slot.ask()
        if held.slot.has:
            self._say_started(held, delivery)
        else:
            self._outbox.settle(delivery)
        held.task = self._loop.create_task(self._execute(held))

    def cancel(self, attempt: str, reason: str) -> None:
        """Stop the attempt, if it is held; it is reported as cancelled when it has ended."""
        held = self._held.get(attempt)
        if held is None or held.cancel is not None:
            return
        held.cancel = reason or "cancelled on request"
        held.context._stop()
        if not held.begun:
            held.slot.give()
        elif held.step is not None and held.step.is_async:
            held.task.cancel()

    async def idle(self) -> None:
        """Wait until no attempt is held."""
        await self._idle.wait()

    async def abandon(self, patience: float) -> list[str]:
        """Stop what still runs and say nothing of it: it is for others. Which those were.

        Steps have ``patience`` seconds to clean up; threads may go on after that.
        """
        left = list(self._held.values())
        going_on = [*left, *self._lingering.values()]
        self._held.clear()  # from now on their ends are not reported
        self._lingering.clear()
        for held in going_on:
            held.context._stop()
            held.task.cancel()
        if going_on:
            await asyncio.wait([held.task for held in going_on], timeout=patience)
        for held in going_on:
            held.stream.end(lambda: None)
        self._threads.close()
        return [held.assignment.attempt for held in left]

    # ── one attempt ───────────────────────────────────────────────────────────────────

    async def _execute(self, held: _Attempt) -> None:
        assignment = held.assignment
        bind_contextvars(
            run=assignment.run_id,
            step=assignment.step,
            attempt=assignment.attempt,
            worker=self._worker.id(),
        )
        output: Any = None
        error: BaseException | None = None
        try:
            if not held.started and not await self._gets_slot(held):
                self._give_back(held)
                return
            if held.cancel is None:
                held.begun = True
                output = await self._call(held)
            if isinstance(output, Raised):
                output, error = None, output.error
        except BaseException as exc:  # SystemExit too: it is the step that ends, not the worker
            error = exc
        held.slot.end()
        if self._lingering.pop(assignment.attempt, None) is not None:
            _log.warning("step stopped after its timeout", timeout=held.seconds)
            self._outbox.append(
                StepReleased(self._worker.id(), self._incarnation, assignment.attempt)
            )
        elif assignment.attempt in self._held:  # else it was abandoned
            event = self._ended(held, output, error)
            held.stream.end(lambda: self._has_said_all(held, event))

    def _has_said_all(self, held: _Attempt, event: bytes) -> None:
        """It has ended, and the broker has what it said; tell its end, unless it was abandoned."""
        if self._held.pop(held.assignment.attempt, None) is not None:
            self._tell_end(held, event)

    def _tell_end(self, held: _Attempt, event: bytes | StepReturned) -> None:
        self._remember(held.assignment.attempt)
        self._outbox.append(event)
        if not self._held:
            self._idle.set()

    async def _call(self, held: _Attempt) -> Any:
        """What the step returned; ``Raised`` where it raised in a thread."""
        step = held.step
        if step is None:
            raise InvalidInput(f"worker {self._worker.id()} has no such step; is it out of date?")
        held.context._validate()
        self._limit(held)
        try:
            with as_current_step(held.context.aio):
                if step.is_async:
                    return await step.call(held.context)
                variables = contextvars.copy_context()
                return await self._threads.run(lambda: variables.run(step.call, held.context))
        finally:
            if held.timer is not None:
                held.timer.cancel()

    # ── its slot ──────────────────────────────────────────────────────────────────────

    def _say_started(self, held: _Attempt, delivery: Delivery | None = None) -> None:
        held.started = True
        attempt = held.assignment.attempt
        event = StepStarted(self._worker.id(), self._incarnation, attempt, self._now())
        self._outbox.append(event, delivery=delivery)

    async def _gets_slot(self, held: _Attempt) -> bool:
        """Wait a moment for a slot; whether it is to go on: with one, or because it is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOT_PATIENCE):
                await held.slot.settled()
        if held.slot.has:
            self._say_started(held)
        return held.slot.has or held.cancel is not None

    def _give_back(self, held: _Attempt) -> None:
        """There is no slot for it: the dispatcher was about to hear why when it gave it."""
        attempt = held.assignment.attempt
        held.slot.give()
        held.stream.end(lambda: None)
        if self._held.pop(attempt, None) is not None:
            self._tell_end(held, StepReturned(self._worker.id(), self._incarnation, attempt))

    # ── its time ──────────────────────────────────────────────────────────────────────

    def _limit(self, held: _Attempt) -> None:
        held.timer = self._loop.call_later(held.seconds, self._expire, held)

    def _refresh(self, attempt: str, seconds: float) -> None:
        """The step wants so many seconds from now; from any thread."""
        self._loop.call_soon_threadsafe(self._give_time, attempt, seconds)

    def _give_time(self, attempt: str, seconds: float) -> None:
        held = self._held.get(attempt)
        if held is None or held.timed_out or held.timer is None:
            return  # too late
        held.timer.cancel()
        held.seconds = seconds
        self._limit(held)
        self._outbox.append(StepRefreshed(self._worker.id(), self._incarnation, attempt, seconds))

    def _expire(self, held: _Attempt) -> None:
        """Its time is over: an async step is cancelled, a function sees ``cancelled``."""
        held.timed_out = True
        held.context._stop()
        if held.step is not None and held.step.is_async:
            held.task.cancel()
        held.timer = self._loop.call_later(STOP_PATIENCE, self._let_linger, held)

    def _let_linger(self, held: _Attempt) -> None:
        """It does not stop: its failure counts from now on, its slot when it has stopped."""
        attempt = held.assignment.attempt
        if self._held.pop(attempt, None) is None:
            return
        self._lingering[attempt] = held
        held.stream.end(lambda: None)
        failure = timed_out(held.seconds)
        self._tell_end(held, self._ends.failed(held.assignment, failure, lingers=True))

    # ── its end ───────────────────────────────────────────────────────────────────────

    def _ended(self, held: _Attempt, output: Any, error: BaseException | None) -> bytes:
        if held.cancel is not None:
            return self._ends.cancelled(held.assignment, held.cancel)
        if held.timed_out:
            return self._ends.failed(held.assignment, timed_out(held.seconds))
        if error is not None:
            memory_mb = self._worker.get_labels().get(MEMORY_MB)
            return self._ends.raised(held.assignment, error, memory_mb)
        return self._ends.returned(held.assignment, held.step, output)

    def _remember(self, attempt: str) -> None:
        self._finished[attempt] = None
        if len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)

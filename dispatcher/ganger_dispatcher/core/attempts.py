"""What becomes of attempts: picked up, ended, tried again, returned, lost."""

from collections.abc import Callable, Iterable
from hashlib import blake2s
from math import log

from msgspec.structs import replace

from ganger_broker.definitions import StepDefinition
from ganger_broker.fields import AttemptId
from ganger_broker.messages import (
    FailureReason,
    Outcome,
    RunError,
    StepFinished,
    StepRefreshed,
    StepReleased,
    StepStarted,
)

from .effects import Assign, Count, Note, StoreStep
from .facts import AssignmentImpossible
from .placing import assignment, make_pending, release
from .progress import end_step, tell_to_stop
from .records import Run, StepRun, Worker, attempt_id, split_attempt, step_run_id
from .state import State
from .states import Change, StepStatus, after

__all__ = [
    "attempt_failed",
    "attempt_lost",
    "attempt_returned",
    "backoff",
    "backoff_is_over",
    "by_priority",
    "finished",
    "impossible",
    "is_current",
    "is_started",
    "refreshed",
    "released",
    "resend",
    "started",
    "timed_out",
    "watch",
]


def _current(state: State, attempt: str) -> tuple[Run, str, StepRun] | None:
    """The step run whose current attempt this is: the fence all changes go through."""
    parts = split_attempt(attempt)
    if parts is None:
        return None
    run = state.runs.get(parts[0])
    step = run.steps.get(parts[1]) if run else None
    if run is None or step is None or step.attempt != parts[2]:
        return None
    return run, parts[1], step


def is_current(state: State, attempt: str) -> bool:
    """Whether the attempt may still change state."""
    found = _current(state, attempt)
    return found is not None and found[2].status in (StepStatus.ASSIGNED, StepStatus.RUNNING)


def is_started(state: State, attempt: str) -> bool:
    """Whether the attempt is the current one and its worker has picked it up."""
    found = _current(state, attempt)
    return found is not None and found[2].status is StepStatus.RUNNING


def started(state: State, event: StepStarted) -> None:
    """The worker picked the attempt up."""
    found = _current(state, event.attempt)
    if found is None or found[2].worker != event.worker:
        return
    run, name, step = found
    status = after(step.status, Change.START)
    if status is not None:
        started_at = event.at or state.now
        seconds = run.definitions[name].timeout
        _run_until(state, run, name, replace(step, status=status, started_at=started_at), seconds)


def refreshed(state: State, event: StepRefreshed) -> None:
    """The attempt gave itself more time."""
    found = _current(state, event.attempt)
    if found and found[2].worker == event.worker and found[2].status is StepStatus.RUNNING:
        _run_until(state, *found, event.timeout)


def _run_until(state: State, run: Run, name: str, step: StepRun, seconds: float) -> None:
    """The worker ends it after this long; where it does not say so, the dispatcher does."""
    timeout_at = state.now + round(seconds * 1000) + state.policy.timeout_grace
    run.steps[name] = replace(step, timeout_at=timeout_at)
    watch(state, run, name)
    state.emit(StoreStep(run.id, name, run.steps[name]))


def watch(state: State, run: Run, name: str) -> None:
    """Look at a running attempt when its time is over."""
    step = run.steps[name]
    if step.timeout_at is not None:
        state.wake(step.timeout_at, "timeout", attempt_id(run.id, name, step.attempt))


def is_over_time(state: State, attempt: str) -> bool:
    """Whether a running attempt's time is over."""
    found = _current(state, attempt)
    if found is None or found[2].status is not StepStatus.RUNNING:
        return False
    return found[2].timeout_at is not None and found[2].timeout_at <= state.now


def timed_out(state: State, attempt: str) -> None:
    """The time of a running attempt is over and its worker is deaf: it has failed.

    The worker is told; the slot is its until it says that the attempt is gone. One that has
    said nothing at all since may be lost rather than deaf, and what it had is for others.
    """
    found = _current(state, attempt)
    if found is None:
        return
    _, name, step = found
    worker = state.workers[step.worker or ""]
    over_at = (step.timeout_at or state.now) - state.policy.timeout_grace
    if worker.id in state.unheard or worker.heartbeat_at < over_at:
        lost_at = worker.heartbeat_at + state.policy.worker_timeout
        state.wake(max(lost_at, state.now + 1), "timeout", attempt)
        return
    text = f"its worker {step.worker} did not end it within its timeout"
    error = RunError(FailureReason.TIMED_OUT, text, step=name, attempt=attempt)
    _fail(state, found, error)


def finished(state: State, event: StepFinished, worker: Worker) -> None:
    """The attempt ended: its outcome counts, then its slot goes to the step whose turn it is."""
    if event.attempt not in worker.attempts:
        return  # said before, or taken from this worker since
    if not event.lingers:
        release(state, worker, event.attempt)
    found = _current(state, event.attempt)
    if found is None:
        return
    run, name, _ = found
    if event.outcome is Outcome.SUCCEEDED:
        end_step(state, run, name, Change.SUCCEED, output=event.output)
        return
    error = event.error or RunError(FailureReason.STEP_FAILED, "the step failed")
    error = replace(error, step=name, attempt=event.attempt)
    if event.outcome is Outcome.CANCELLED:
        end_step(state, run, name, Change.CANCEL, error=error)
    else:
        _fail(state, found, error, retryable=event.retryable, retry_after=event.retry_after)


def released(state: State, event: StepReleased, worker: Worker) -> None:
    """An attempt whose end was told before has stopped now: its slot is free."""
    if event.attempt in worker.attempts and not is_current(state, event.attempt):
        release(state, worker, event.attempt)


# ── trying again ──────────────────────────────────────────────────────────────────────


def _fail(
    state: State,
    found: tuple[Run, str, StepRun],
    error: RunError,
    *,
    retryable: bool = True,
    retry_after: float | None = None,
) -> None:
    """The attempt failed: it is tried again, or the step has failed."""
    run, name, step = found
    definition = run.definitions[name]
    status = after(step.status, Change.RETRY)
    if not retryable or status is None or step.failures >= definition.retries:
        end_step(state, run, name, Change.FAIL, error=error)
        return
    tell_to_stop(state, run, name, error)
    state.emit(Count("steps_retried"))
    resting = replace(
        step,
        status=status,
        worker=None,
        timeout_at=None,
        attempt=step.attempt + 1,
        failures=step.failures + 1,
        error=error,
    )
    seconds = retry_after
    if seconds is None:
        seconds = backoff(definition, resting.failures, error.attempt or "")
    if not seconds:
        make_pending(state, run, name, resting)
        return
    retry_at = state.now + round(seconds * 1000)
    run.steps[name] = replace(resting, retry_at=retry_at)
    step_run = step_run_id(run.id, name)
    state.wake(retry_at, "backoff", step_run)
    state.emit(
        StoreStep(run.id, name, run.steps[name]),
        Note("backoff", {"step_run": step_run, "retry_at": retry_at}),
    )


def backoff(definition: StepDefinition, failures: int, attempt: AttemptId) -> float:
    """Seconds to rest after this many failures; exponential, capped, then jittered.

    The jitter comes from the failed attempt's id: equal histories have equal delays, and
    steps that failed together do not come again together. It only shortens, so the cap
    holds ("full jitter" and why: AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    factor, most = definition.backoff_factor, definition.backoff_max_seconds
    if factor is None:
        return 0.0
    over = failures * log(factor) >= log(most)  # a power that large may be no float
    seconds = most if over else factor**failures
    chance = int.from_bytes(blake2s(attempt.encode(), digest_size=4).digest()) / 2**32
    return float(seconds * (1 - definition.jitter * chance))


def backoff_is_over(state: State, step_run: str) -> None:
    """The step has rested: it may be tried again."""
    run_id, _, name = step_run.partition("/")
    run = state.runs.get(run_id)
    step = run.steps.get(name) if run else None
    if run is None or step is None or step.retry_at is None or step.retry_at > state.now:
        return
    make_pending(state, run, name, step)


# ── without an end ────────────────────────────────────────────────────────────────────


def by_priority(state: State, attempts: Iterable[str]) -> list[str]:
    """Those that are to be given anew at once, in their turn."""

    def priority(attempt: str) -> int:
        run = state.runs.get(attempt.partition("/")[0])
        return 0 if run is None else -run.header.priority

    return sorted(attempts, key=priority)


def attempt_returned(state: State, attempt: str) -> None:
    """The assignment was not picked up: match the step again, as a new attempt."""
    _again(state, attempt, Change.RETURN, lambda step: replace(step, attempt=step.attempt + 1))


def attempt_failed(state: State, attempt: str, why: RunError) -> None:
    """The attempt was the end of its worker, which cannot say so itself: it has failed."""
    found = _current(state, attempt)
    if found is not None:
        _fail(state, found, replace(why, step=found[1], attempt=attempt))


def impossible(state: State, fact: AssignmentImpossible) -> None:
    """An assignment cannot be sent; to another worker it would be as large: its step has failed."""
    worker = state.workers.get(fact.worker)
    if worker is not None and fact.attempt in worker.attempts:
        release(state, worker, fact.attempt)
    found = _current(state, fact.attempt)
    if found is not None and found[2].status is StepStatus.ASSIGNED:
        run, name, _ = found
        text = "the broker does not take its assignment: with its inputs it is too large"
        error = RunError(FailureReason.STEP_FAILED, text, step=name, attempt=fact.attempt)
        end_step(state, run, name, Change.FAIL, error=error)


def attempt_lost(
    state: State, attempt: str, *, counts: bool = True, why: RunError | None = None
) -> None:
    """The worker is lost, or lost the attempt: match the step again, as a new attempt.

    ``why``: what became of the worker, where that is known.
    """
    found = _current(state, attempt)
    if found and counts and found[2].losses >= state.policy.most_losses:
        run, name, step = found
        text = f"its worker was lost {step.losses + 1} times"
        error = RunError(FailureReason.WORKER_LOST, text, step=name, attempt=attempt)
        if why is not None:
            error = replace(error, reason=why.reason, message=f"{text}, at last: {why.message}")
        end_step(state, run, name, Change.GIVE_UP, error=error)
        return
    _again(
        state,
        attempt,
        Change.LOSE,
        lambda step: replace(step, attempt=step.attempt + 1, losses=step.losses + counts),
    )


def _again(state: State, attempt: str, change: Change, anew: Callable[[StepRun], StepRun]) -> None:
    found = _current(state, attempt)
    if found is not None and after(found[2].status, change) is not None:
        run, name, step = found
        state.emit(Count("steps_replaced"), Note("replaced", {"attempt": attempt}))
        make_pending(state, run, name, anew(step), change=change)


def resend(state: State, run: Run, name: str) -> None:
    """After a take-over: the assignment may have been stored and not sent."""
    step = run.steps[name]
    attempt = attempt_id(run.id, name, step.attempt)
    worker = state.workers.get(step.worker or "")
    if worker is None or attempt not in worker.attempts:
        attempt_lost(state, attempt)  # somebody deleted keys; nobody would ever speak of it
    elif step.status is StepStatus.ASSIGNED:
        state.emit(Assign(worker.id, assignment(run, name, worker)))

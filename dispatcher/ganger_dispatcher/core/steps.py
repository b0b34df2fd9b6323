"""What happens to step runs and their runs: ready, placed, started, finished, cancelled."""

from collections.abc import Callable

from msgspec.structs import replace

from ganger_broker.messages import (
    Assignment,
    CancelAttempt,
    FailureReason,
    Outcome,
    RunError,
    RunStatus,
    StepFinished,
    StepStarted,
)
from ganger_dispatcher.placement.scorer import weights

from .effects import (
    AddPending,
    Assign,
    Count,
    DropPending,
    EndRun,
    Note,
    ReleaseAttempt,
    Reply,
    StoreLoad,
    StoreStep,
    TakeAttempt,
    Tell,
)
from .records import Run, StepRun, Worker, attempt_id, split_attempt, step_run_id
from .state import State
from .states import TERMINAL, Change, StepStatus, after

__all__ = [
    "attempt_lost",
    "attempt_returned",
    "cancel_run",
    "finished",
    "is_current",
    "is_started",
    "match",
    "place_again",
    "release",
    "resend",
    "schedule_timed_out",
    "start_ready",
    "started",
]


# ── becoming ready and being placed ───────────────────────────────────────────────────


def start_ready(state: State, run: Run) -> None:
    """Make pending, and place where possible, each waiting step whose parents are done."""
    for name, step in list(run.steps.items()):
        if step.status is StepStatus.WAITING:
            parents = [run.steps[parent].status for parent in run.definitions[name].parents]
            if all(status is StepStatus.SUCCEEDED for status in parents):
                _make_pending(state, run, name, step)
            elif any(status in (StepStatus.FAILED, StepStatus.CANCELLED) for status in parents):
                error = RunError(FailureReason.CANCELLED, "a parent did not succeed", step=name)
                _end_step(state, run, name, Change.CANCEL, error=error)


def _make_pending(
    state: State, run: Run, name: str, step: StepRun, *, change: Change = Change.READY
) -> None:
    status = after(step.status, change)
    if status is None:
        return
    deadline = state.now + round(run.definitions[name].schedule_timeout * 1000)
    run.steps[name] = replace(
        step,
        status=status,
        worker=None,
        pending_since=state.now,
        deadline=deadline,
        assigned_at=None,
        started_at=None,
    )
    place(state, run, name)


def place(state: State, run: Run, name: str) -> None:
    """Give a pending step to the best worker, or put it in the backlog."""
    step = run.steps[name]
    worker = state.placement.choose(run.requirements[name])
    if worker is not None:
        _assign(state, run, name, state.workers[worker])
        return
    step_run = step_run_id(run.id, name)
    deadline, since = step.deadline or state.now, step.pending_since or state.now
    state.placement.backlog.add(step_run, run.requirements[name], run.header.priority, since)
    state.wake(deadline, "pending", step_run)
    state.emit(
        StoreStep(run.id, name, step),
        AddPending(step_run, deadline),
        Note("pending", {"step_run": step_run}),
    )


def match(state: State, worker: Worker) -> None:
    """The worker changed: give it the pending steps that it can take now."""
    placement = state.placement
    while (turn := placement.next_for(worker.id)) is not None:
        placement.backlog.remove(turn.step_run)
        state.emit(DropPending(turn.step_run))
        run_id, _, name = turn.step_run.partition("/")
        _assign(state, state.runs[run_id], name, worker)


def _assign(state: State, run: Run, name: str, worker: Worker) -> None:
    step = run.steps[name]
    requirement = run.requirements[name]
    highest, total = weights(state.placement.score(worker.id, requirement))
    attempt = attempt_id(run.id, name, step.attempt)
    run.steps[name] = replace(
        step, status=StepStatus.ASSIGNED, worker=worker.id, assigned_at=state.now
    )
    worker.attempts[attempt] = worker.given_at = state.now
    state.placement.take(worker.id)
    note = {
        "attempt": attempt,
        "worker": worker.id,
        "highest_weight": highest,
        "total_weight": total,
        "waited_ms": state.now - (step.pending_since or state.now),
    }
    state.emit(
        StoreStep(run.id, name, run.steps[name]),
        TakeAttempt(worker.id, attempt),
        _load(worker),
        Note("placed", note),
        Assign(worker.id, _assignment(run, name, worker)),
    )


def _assignment(run: Run, name: str, worker: Worker) -> Assignment:
    step, definition, header = run.steps[name], run.definitions[name], run.header
    return Assignment(
        attempt=attempt_id(run.id, name, step.attempt),
        incarnation=worker.incarnation,
        run_id=run.id,
        workflow=header.workflow,
        step=name,
        input=header.input,
        parents={parent: run.steps[parent].output for parent in definition.parents},
        metadata=header.metadata,
        retry_count=step.failures,
        timeout=definition.timeout,
        priority=header.priority,
    )


def resend(state: State, run: Run, name: str) -> None:
    """After a take-over: the assignment may have been stored and not sent."""
    step = run.steps[name]
    attempt = attempt_id(run.id, name, step.attempt)
    worker = state.workers.get(step.worker or "")
    if worker is None or attempt not in worker.attempts:
        attempt_lost(state, attempt)  # somebody deleted keys; nobody would ever speak of it
    elif step.status is StepStatus.ASSIGNED:
        state.emit(Assign(worker.id, _assignment(run, name, worker)))


def place_again(state: State, run: Run, name: str) -> None:
    """After a take-over: a pending step may find a worker now, and is in the backlog else."""
    place(state, run, name)
    if run.steps[name].status is not StepStatus.PENDING:
        state.emit(DropPending(step_run_id(run.id, name)))


def _load(worker: Worker) -> StoreLoad:
    return StoreLoad(worker.id, worker.used, worker.state, worker.given_at)


# ── what workers say of attempts ──────────────────────────────────────────────────────


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
        run.steps[name] = replace(step, status=status, started_at=event.at or state.now)
        state.emit(StoreStep(run.id, name, run.steps[name]))


def finished(state: State, event: StepFinished, worker: Worker) -> None:
    """The attempt ended: its slot goes to the step whose turn it is, then its outcome counts."""
    if event.attempt not in worker.attempts:
        return  # said before, or taken from this worker since
    release(state, worker, event.attempt)
    match(state, worker)
    found = _current(state, event.attempt)
    if found is None:
        return
    run, name, step = found
    if event.outcome is Outcome.SUCCEEDED:
        _end_step(state, run, name, Change.SUCCEED, output=event.output)
    elif event.outcome is Outcome.CANCELLED:
        _end_step(state, run, name, Change.CANCEL, error=_named(event, step, name))
    elif event.retryable and step.failures < run.definitions[name].retries:
        _retry(state, run, name, step)
    else:
        _end_step(state, run, name, Change.FAIL, error=_named(event, step, name))


def _named(event: StepFinished, step: StepRun, name: str) -> RunError:
    error = event.error or RunError(FailureReason.STEP_FAILED, "the step failed")
    return replace(error, step=name, attempt=event.attempt)


def _retry(state: State, run: Run, name: str, step: StepRun) -> None:
    status = after(step.status, Change.RETRY)
    if status is None:
        return
    state.emit(Count("steps_retried"))
    waiting = replace(step, status=status, attempt=step.attempt + 1, failures=step.failures + 1)
    _make_pending(state, run, name, waiting)


def release(state: State, worker: Worker, attempt: str) -> None:
    """The worker holds the attempt no more; call ``match`` when all else is settled."""
    del worker.attempts[attempt]
    state.placement.release(worker.id)
    state.emit(
        ReleaseAttempt(worker.id, attempt),
        _load(worker),
        Note("released", {"attempt": attempt, "worker": worker.id}),
    )


def attempt_returned(state: State, attempt: str) -> None:
    """The assignment was not picked up: match the step again, as a new attempt."""
    _again(state, attempt, Change.RETURN, lambda step: replace(step, attempt=step.attempt + 1))


def attempt_lost(state: State, attempt: str, *, counts: bool = True) -> None:
    """The worker is lost, or lost the attempt: match the step again, as a new attempt."""
    found = _current(state, attempt)
    if found and counts and found[2].losses >= state.policy.most_losses:
        run, name, step = found
        text = f"its worker was lost {step.losses + 1} times"
        error = RunError(FailureReason.WORKER_LOST, text, step=name, attempt=attempt)
        _end_step(state, run, name, Change.GIVE_UP, error=error)
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
        _make_pending(state, run, name, anew(step), change=change)


# ── ends ──────────────────────────────────────────────────────────────────────────────


def _end_step(
    state: State,
    run: Run,
    name: str,
    change: Change,
    *,
    output: object = None,
    error: RunError | None = None,
) -> None:
    step = run.steps[name]
    status = after(step.status, change)
    if status is None:
        return
    step_run = step_run_id(run.id, name)
    if step.status is StepStatus.PENDING and step_run in state.placement.backlog:
        state.placement.backlog.remove(step_run)
        state.emit(DropPending(step_run))
    if step.worker and step.status in (StepStatus.ASSIGNED, StepStatus.RUNNING):
        attempt = attempt_id(run.id, name, step.attempt)
        if attempt in getattr(state.workers.get(step.worker), "attempts", ()):
            state.emit(Tell(step.worker, CancelAttempt(attempt, error.message if error else "")))
    run.steps[name] = replace(
        step, status=status, finished_at=state.now, output=output, error=error
    )
    state.emit(
        StoreStep(run.id, name, run.steps[name]),
        Count(f"steps_{status}"),
        Note(status, {"step_run": step_run, "worker": step.worker}),
    )
    start_ready(state, run)
    _end_run(state, run)


def _end_run(state: State, run: Run) -> None:
    steps = run.steps
    if run.id not in state.runs or any(s.status not in TERMINAL for s in steps.values()):
        return
    unhappy = [step for step in steps.values() if step.status is not StepStatus.SUCCEEDED]
    failed = [step for step in unhappy if step.status is StepStatus.FAILED]
    status = RunStatus.FAILED if failed else RunStatus.CANCELLED if unhappy else RunStatus.SUCCEEDED
    run.header = replace(
        run.header,
        status=status,
        finished_at=state.now,
        output={n: s.output for n, s in steps.items() if s.status is StepStatus.SUCCEEDED},
        error=next((step.error for step in failed or unhappy), None),
    )
    del state.runs[run.id]
    state.emit(EndRun(run.id, run.header), Count(f"runs_{status}"))
    result = state.ended[run.id] = run.result()
    for address in run.header.reply:
        state.emit(Reply(address, result))


def cancel_run(state: State, run: Run, error: RunError) -> None:
    """Cancel every step that has not ended, and with them the run."""
    for name, step in list(run.steps.items()):
        if step.status not in TERMINAL:
            _end_step(state, run, name, Change.CANCEL, error=replace(error, step=name))


def schedule_timed_out(state: State, step_run: str) -> None:
    """The time for which the step may be pending is over."""
    if step_run not in state.placement.backlog:
        return
    run_id, _, name = step_run.partition("/")
    run = state.runs[run_id]
    step = run.steps[name]
    if step.deadline is not None and step.deadline <= state.now:
        seconds = run.definitions[name].schedule_timeout
        text = f"no worker could take it within {seconds:g} s"
        cancel_run(state, run, RunError(FailureReason.SCHEDULING_TIMED_OUT, text))

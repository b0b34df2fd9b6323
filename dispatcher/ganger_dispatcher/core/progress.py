"""How runs go on: steps become ready, end, and with the last of them the run."""

from collections import deque

from msgspec.structs import replace

from ganger_broker.messages import FailureReason, RunError, RunStatus
from ganger_broker.to_worker import CancelAttempt

from .dead_letters import bury_trigger
from .effects import Count, EndRun, Note, Reply, StoreStep, Tell
from .groups import leave
from .moving import desires
from .placing import is_waiting, leave_backlog, make_pending
from .records import Run, StepRun, attempt_id, step_run_id
from .state import State
from .states import TERMINAL, Change, StepStatus, after

__all__ = [
    "cancel_run",
    "end_step",
    "is_overdue",
    "schedule_timed_out",
    "start_ready",
    "tell_to_stop",
    "waiting",
]


def start_ready(state: State, run: Run) -> None:
    """The run begins: make its first steps pending, and place them where possible."""
    for name, step in list(run.steps.items()):
        if step.status is StepStatus.WAITING and not run.definitions[name].parents:
            make_pending(state, run, name, step)


def waiting(run: Run, name: str) -> StepRun:
    """A step run that has not begun."""
    desired = desires(run, name, run.definitions[name].pool)
    return StepRun(StepStatus.WAITING, desired_worker_labels=desired)


def end_step(
    state: State,
    run: Run,
    name: str,
    change: Change,
    *,
    output: object = None,
    error: RunError | None = None,
) -> None:
    """A step ends: steps that it was the last parent of begin, or are cancelled, and theirs."""
    if _end(state, run, name, change, output=output, error=error):
        _follow(state, run, name)
        _end_run(state, run)


def _end(
    state: State,
    run: Run,
    name: str,
    change: Change,
    *,
    output: object = None,
    error: RunError | None = None,
) -> bool:
    """This step alone; False where it means nothing now."""
    step = run.steps[name]
    status = after(step.status, change)
    if status is None:
        return False
    step_run = step_run_id(run.id, name)
    if step.status is StepStatus.PENDING and is_waiting(state, step_run):
        leave_backlog(state, step_run)
    tell_to_stop(state, run, name, error)
    run.steps[name] = replace(
        step,
        status=status,
        timeout_at=None,
        finished_at=state.now,
        output=output,
        error=error,
        waits_for=None,
        limited_since=None,
    )
    state.emit(
        StoreStep(run.id, name, run.steps[name]),
        Count(f"steps_{status}"),
        Note(status, {"step_run": step_run, "worker": step.worker}),
    )
    return True


def _follow(state: State, run: Run, ended: str) -> None:
    """What follows from a step's end. Level by level, not by recursion: a workflow may be as
    deep, and as wide, as it has steps."""
    levels = deque([ended])
    while levels:
        for name in run.workflow.children[levels.popleft()]:
            step = run.steps[name]
            parents = [run.steps[parent].status for parent in run.definitions[name].parents]
            if step.status is not StepStatus.WAITING:
                continue
            if all(status is StepStatus.SUCCEEDED for status in parents):
                make_pending(state, run, name, step)
            elif any(status in (StepStatus.FAILED, StepStatus.CANCELLED) for status in parents):
                error = RunError(FailureReason.CANCELLED, "a parent did not succeed", step=name)
                _end(state, run, name, Change.CANCEL, error=error)
                levels.append(name)


def _leave_family(state: State, run: Run) -> None:
    """Its parent knows it no more; its children go on only if it has succeeded, or, those of its
    step for failures, if that has: what that one starts is to be done because the run failed."""
    if run.header.parent_run in state.children:
        siblings = state.children[run.header.parent_run]
        siblings.pop(run.id, None)
        if not siblings:
            del state.children[run.header.parent_run]
    children = state.children.pop(run.id, {})
    if run.header.status is not RunStatus.SUCCEEDED:
        state.orphans += [child for child, step in children.items() if not _rescued(run, step)]


def _rescued(run: Run, name: str) -> bool:
    """Whether the step is that for failures, and has succeeded; any program may say that it is a
    child of one that never ran."""
    step = run.steps.get(name) if _is_on_failure(run, name) else None
    return step is not None and step.status is StepStatus.SUCCEEDED


def _is_on_failure(run: Run, name: str) -> bool:
    on_failure = run.workflow.on_failure
    return on_failure is not None and on_failure.name == name


def _cause(run: Run, unhappy: dict[str, StepRun]) -> RunError | None:
    """The error of the step that was the first to end so, and that no parent is to blame for."""
    for name, step in sorted(unhappy.items(), key=lambda item: item[1].finished_at or 0):
        parents = [run.steps[parent].status for parent in run.definitions[name].parents]
        if all(status is StepStatus.SUCCEEDED for status in parents):
            return step.error
    return next((step.error for step in unhappy.values()), None)


def tell_to_stop(state: State, run: Run, name: str, error: RunError | None) -> None:
    """The attempt does not count any more: a worker that holds it is to stop it."""
    step = run.steps[name]
    if step.worker and step.status in (StepStatus.ASSIGNED, StepStatus.RUNNING):
        attempt = attempt_id(run.id, name, step.attempt)
        if attempt in getattr(state.workers.get(step.worker), "attempts", ()):
            state.emit(Tell(step.worker, CancelAttempt(attempt, error.message if error else "")))


def _end_run(state: State, run: Run) -> None:
    steps = run.steps
    if run.id not in state.runs or any(s.status not in TERMINAL for s in steps.values()):
        return
    own = {name: step for name, step in steps.items() if not _is_on_failure(run, name)}
    unhappy = {n: step for n, step in own.items() if step.status is not StepStatus.SUCCEEDED}
    failed = {n: step for n, step in unhappy.items() if step.status is StepStatus.FAILED}
    on_failure = run.workflow.on_failure
    if run.cancelled and (on_failure is None or on_failure.name not in steps):
        unhappy = {n: step for n, step in unhappy.items() if n not in failed}
        failed = {}
    if failed and on_failure is not None and on_failure.name not in steps:
        make_pending(state, run, on_failure.name, waiting(run, on_failure.name))
        return
    status = RunStatus.FAILED if failed else RunStatus.CANCELLED if unhappy else RunStatus.SUCCEEDED
    run.header = replace(
        run.header,
        status=status,
        finished_at=state.now,
        output={n: s.output for n, s in steps.items() if s.status is StepStatus.SUCCEEDED},
        error=_cause(run, failed or unhappy),
    )
    del state.runs[run.id]
    leave(state, run)
    _leave_family(state, run)
    run.header = replace(run.header, queued=None)
    state.emit(EndRun(run.id, run.header), Count(f"runs_{status}"))
    result = state.ended[run.id] = run.result()
    for address in run.header.reply:
        state.emit(Reply(address, result))
    if result.error is not None and result.error.reason is FailureReason.INVALID_INPUT:
        bury_trigger(state, run.trigger(), run.header.reply, "invalid_input", result.error.message)


def cancel_run(state: State, run: Run, error: RunError) -> None:
    """Cancel every step that has not ended, and with them the run: whatever failed before, it
    is cancelled, unless its step for failures runs already."""
    run.cancelled = True
    _cancel_steps(state, run, error)


def _cancel_steps(state: State, run: Run, error: RunError) -> None:
    for name, step in list(run.steps.items()):
        if step.status not in TERMINAL:
            _end(state, run, name, Change.CANCEL, error=replace(error, step=name))
    _end_run(state, run)


def is_overdue(state: State, step_run: str) -> bool:
    """Whether a pending step's schedule time-out is over. It does not run while a rate limit
    holds the step back."""
    if not is_waiting(state, step_run):
        return False
    run_id, _, name = step_run.partition("/")
    step = state.runs[run_id].steps[name]
    return step.limited_since is None and (step.deadline or 0) <= state.now


def schedule_timed_out(state: State, step_run: str) -> None:
    """The time for which the step may be pending is over: nothing of the run goes on. Where a
    step has failed before, it is still that which the run has failed of."""
    run_id, _, name = step_run.partition("/")
    run = state.runs[run_id]
    step = run.steps[name]
    seconds, pinned = run.definitions[name].schedule_timeout, run.header.pinned
    text = f"no worker could take it within {seconds:g} s"
    if step.waits_for is not None:
        text = f"there was no room for it within {seconds:g} s: {step.waits_for}"
    elif pinned is not None:
        gone = "" if pinned in state.workers else ", which is lost"
        text += f"; its run is sticky (HARD) and pinned to {pinned}{gone}"
    _cancel_steps(state, run, RunError(FailureReason.SCHEDULING_TIMED_OUT, text))

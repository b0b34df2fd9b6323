"""A worker's process was stopped, and whoever keeps it says why: which attempt is to blame?

Those that ran are suspects: running ones, and ones that do not count any more but have not
stopped (see ``StepFinished.lingers``). An attempt that waits for its children is one only where
nobody else is; so is one whose start was never told, as a step that keeps its worker busy from
its first moment on lets it say nothing.

One suspect, and it has failed. Of several nobody can tell which it was: all are given anew, and
it counts as a loss of each, so that the one to blame is given up in the end, with that reason.
"""

from collections.abc import Iterable

from ganger_broker.messages import RunError, WorkerKilled

from .attempts import (
    attempt_failed,
    attempt_lost,
    attempt_returned,
    by_priority,
    is_current,
    is_started,
)
from .effects import Count, DeleteQueue, Note
from .placing import look_again, repin, tell_apart
from .records import Worker
from .registering import choose_newest
from .state import State
from .workers import forget

__all__ = ["killed"]


def killed(state: State, event: WorkerKilled, worker: Worker) -> None:
    """The worker is gone, as one that was lost; what it had goes on by what it did."""
    attempts = forget(state, worker)
    changed = choose_newest(state, worker.workflows)
    state.emit(
        DeleteQueue(worker.id),
        Count("workers_killed"),
        Note(
            "worker_killed",
            {
                "worker": worker.id,
                "reason": event.reason,
                "message": event.message,
                "attempts": sorted(attempts),
            },
        ),
    )
    why = RunError(event.reason, event.message)
    suspects = _suspects(state, worker, attempts)
    for attempt in by_priority(state, attempts):
        if [attempt] == suspects:
            attempt_failed(state, attempt, why)
        elif attempt in suspects or is_started(state, attempt):
            attempt_lost(state, attempt, why=why)
        else:
            attempt_returned(state, attempt)
    repin(state, worker.id)
    tell_apart(state, changed)
    look_again(state)


def _suspects(state: State, worker: Worker, attempts: Iterable[str]) -> list[str]:
    """The attempts of which one was the end of the worker."""
    waiting = [attempt for attempt in attempts if worker.waits.get(attempt, 0) % 2]
    began = [a for a in attempts if is_started(state, a) or not is_current(state, a)]
    ran = [attempt for attempt in began if attempt not in waiting]
    return ran or began or list(attempts)

"""The states of a step run, and every way from one to another. The one table there is.

The core moves step runs by it, ``docs/architecture.md`` prints it, the tests walk it.
"""

from enum import StrEnum

__all__ = ["TERMINAL", "TRANSITIONS", "Change", "StepStatus", "after"]


class StepStatus(StrEnum):
    """The status of a step run."""

    WAITING = "waiting"
    """Its parents are not done."""
    PENDING = "pending"
    """It waits for a worker."""
    ASSIGNED = "assigned"
    """A worker was chosen and has not said that it began."""
    RUNNING = "running"
    BACKOFF = "backoff"
    """It failed and will be tried again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Change(StrEnum):
    """What can happen to a step run."""

    READY = "ready"
    """Its parents are done, or its backoff is over."""
    ASSIGN = "assign"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    """It failed, and no retry is left."""
    RETRY = "retry"
    """It failed, and a retry is left."""
    RETURN = "return"
    """Its assignment came back: no queue, or not picked up in time."""
    LOSE = "lose"
    """Its worker was lost, or lost it."""
    GIVE_UP = "give_up"
    """Its worker was lost once too often."""
    CANCEL = "cancel"
    """On request, by its schedule time-out, or because a parent did not succeed."""


_S, _C = StepStatus, Change

TRANSITIONS: dict[tuple[StepStatus, Change], StepStatus] = {
    (_S.WAITING, _C.READY): _S.PENDING,
    (_S.WAITING, _C.CANCEL): _S.CANCELLED,
    (_S.PENDING, _C.ASSIGN): _S.ASSIGNED,
    (_S.PENDING, _C.CANCEL): _S.CANCELLED,
    (_S.ASSIGNED, _C.START): _S.RUNNING,
    (_S.ASSIGNED, _C.RETURN): _S.PENDING,
    # a finish may arrive before its start where the broker delivered messages again
    (_S.ASSIGNED, _C.SUCCEED): _S.SUCCEEDED,
    (_S.ASSIGNED, _C.FAIL): _S.FAILED,
    (_S.ASSIGNED, _C.RETRY): _S.BACKOFF,
    (_S.ASSIGNED, _C.LOSE): _S.PENDING,
    (_S.ASSIGNED, _C.GIVE_UP): _S.FAILED,
    (_S.ASSIGNED, _C.CANCEL): _S.CANCELLED,
    (_S.RUNNING, _C.SUCCEED): _S.SUCCEEDED,
    (_S.RUNNING, _C.FAIL): _S.FAILED,
    (_S.RUNNING, _C.RETRY): _S.BACKOFF,
    (_S.RUNNING, _C.LOSE): _S.PENDING,
    (_S.RUNNING, _C.GIVE_UP): _S.FAILED,
    (_S.RUNNING, _C.CANCEL): _S.CANCELLED,
    (_S.BACKOFF, _C.READY): _S.PENDING,
    (_S.BACKOFF, _C.CANCEL): _S.CANCELLED,
}

TERMINAL = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED})


def after(status: StepStatus, change: Change) -> StepStatus | None:
    """The status after a change; None where the change means nothing now (a duplicate, say)."""
    return TRANSITIONS.get((status, change))

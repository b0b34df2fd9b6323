"""What one worker is told: exchange ``ganger.work``, routing key ``<worker id>``."""

from typing import Any

import msgspec

from .fields import AttemptId, Count, Id, Name, Priority, Seconds
from .messages import ReplyAddress, RunError

__all__ = [
    "Assignment",
    "CancelAttempt",
    "Refused",
    "RegisterAgain",
    "ToWorker",
]


class Assignment(msgspec.Struct, tag="assignment", omit_defaults=True):
    """This attempt is yours. A worker of another incarnation must not run it.

    ``parents``: what the steps it depends on returned. Of a step for failures: what all that
    succeeded returned, and in ``errors`` why the others failed. ``stream_to``: who wants what
    the step says while it runs.
    """

    attempt: AttemptId
    incarnation: Id
    run_id: Id
    workflow: Name
    step: Name
    input: dict[str, Any] = {}
    parents: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    retry_count: Count = 0
    timeout: Seconds = 60.0
    priority: Priority = 1
    errors: dict[str, RunError] = {}
    stream_to: list[ReplyAddress] = []


class CancelAttempt(msgspec.Struct, tag="cancel_attempt", omit_defaults=True):
    """Stop this attempt, if you hold it, and say how it ended."""

    attempt: AttemptId
    reason: str = ""


class RegisterAgain(msgspec.Struct, tag="register_again"):
    """You are not known (declared lost, say): register anew."""


class Refused(msgspec.Struct, tag="refused", omit_defaults=True):
    """What you said is not taken, for this reason. ``for_good``: you are not, end.
    ``incarnation``: the process that is meant, where another goes by the same id."""

    reason: str
    for_good: bool = False
    incarnation: str = ""


ToWorker = Assignment | CancelAttempt | RegisterAgain | Refused

"""Messages as typed structs: what programs send and get, and what workers send.

What one worker is told is in ``to_worker``. ``ganger schema`` prints the JSON Schema of all.

Who sends what is in ``docs/asyncapi.yaml``. A message that does not validate raises
``MalformedMessage`` naming the field (see ``ganger_broker.codec``). Times are
milliseconds since 1970 (UTC), durations are seconds, unless the name says otherwise.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .definitions import RateLimit, WorkflowDefinition
from .fields import (
    MAX_SECONDS,
    AttemptId,
    Count,
    Id,
    LogLevel,
    Name,
    Priority,
    Seconds,
    Slots,
    StepRunId,
    WorkerId,
)
from .labels import LabelValue

__all__ = [
    "CancelRun",
    "Event",
    "FailureReason",
    "Heartbeat",
    "LabelsChanged",
    "LogLine",
    "Outcome",
    "PushEvent",
    "ReplyAddress",
    "RunError",
    "RunResult",
    "RunStatus",
    "StepFinished",
    "StepLogged",
    "StepRefreshed",
    "StepReleased",
    "StepReturned",
    "StepStarted",
    "StepWaits",
    "StreamItem",
    "Trigger",
    "WorkerDraining",
    "WorkerKilled",
    "WorkerLeft",
    "WorkerPaused",
    "WorkerRegistered",
    "WorkerResumed",
]


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How an attempt ended, as its worker saw it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FailureReason(StrEnum):
    """Why a run or step run ended as it did; ``RunError.reason``."""

    STEP_FAILED = "STEP_FAILED"
    TIMED_OUT = "TIMED_OUT"
    SCHEDULING_TIMED_OUT = "SCHEDULING_TIMED_OUT"
    CANCELLED = "CANCELLED"
    WORKER_LOST = "WORKER_LOST"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    UNKNOWN_WORKFLOW = "UNKNOWN_WORKFLOW"
    INVALID_TRIGGER = "INVALID_TRIGGER"
    INVALID_INPUT = "INVALID_INPUT"


# ── what programs send ────────────────────────────────────────────────────────────────


class Trigger(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Asks for a run of a workflow. Exchange ``ganger``, routing key ``trigger.<workflow>``.

    ``run_id`` makes it idempotent: a second trigger with the same id is the same run.
    ``desired_worker_labels`` is merged over each step's own, by key. ``parent``: the step run
    that spawned it; when that one's run does not succeed, this one is cancelled. ``sticky_to``:
    the worker its first steps stay with, by its workflow's sticky strategy, SOFT by default.
    ``stream``: what its steps log and put in the stream is sent to ``reply_to`` as it comes,
    as ``StreamItem``; ``reply_to`` has to be a queue's name then.
    """

    workflow: Name
    input: dict[str, Any] = {}
    run_id: Id | None = None
    metadata: dict[str, Any] = {}
    priority: Priority = 1
    desired_worker_labels: dict[str, Any] = {}
    parent: StepRunId | None = None
    sticky_to: WorkerId | None = None
    stream: bool = False


class PushEvent(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Something happened: starts a run of each workflow whose ``on_events`` it matches.

    Exchange ``ganger``, routing key ``event-push.<key>``. ``payload`` is the runs' input. With an
    ``event_id`` (or the AMQP message id) a second one with the same id starts nothing anew.
    """

    payload: dict[str, Any] = {}
    event_id: Id | None = None
    metadata: dict[str, Any] = {}
    priority: Priority = 1
    desired_worker_labels: dict[str, Any] = {}


class CancelRun(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Asks to cancel a run and its steps. Exchange ``ganger``, routing key ``cancel.<run id>``."""

    run_id: Id
    reason: str = "cancelled on request"


# ── what programs get ─────────────────────────────────────────────────────────────────


class ReplyAddress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run's result goes; with ``stream``, what its steps say as well."""

    reply_to: str
    correlation_id: str | None = None
    content_type: str = "application/msgpack"
    stream: bool = False


class RunError(msgspec.Struct, omit_defaults=True):
    """Why a run did not succeed. ``step``, ``attempt``, ``type`` and ``traceback`` where known."""

    reason: FailureReason
    message: str
    step: str | None = None
    attempt: AttemptId | None = None
    type: str | None = None
    traceback: str | None = None


class RunResult(msgspec.Struct, omit_defaults=True):
    """A run's end, sent to the trigger's ``reply_to`` with its ``correlation_id``.

    ``output`` maps each step to what it returned. ``run_id`` is None where the trigger
    was refused before there was a run.
    """

    workflow: str | None
    run_id: str | None
    status: RunStatus
    output: dict[str, Any] = {}
    error: RunError | None = None


class StreamItem(msgspec.Struct, tag="stream_item", omit_defaults=True):
    """What a step says while it runs, sent to the trigger's ``reply_to`` where it wants them.

    In the same queue as the ``RunResult``, which has no ``type``, and before it. ``kind``:
    ``log``, a line with its ``level``, or ``chunk``, what it put in the stream. ``seq`` counts
    what one attempt says, from 1, lines and chunks together; ``at`` is when it said it.
    """

    run_id: str
    step: str
    attempt: AttemptId
    seq: Annotated[int, Meta(ge=1)]
    at: int
    kind: Literal["log", "chunk"]
    data: Any = None
    level: LogLevel | None = None


# ── what workers send: exchange ganger, routing key event.<worker id>; a body is a list ──


class WorkerEvent(msgspec.Struct, omit_defaults=True):
    """What all events of a worker have: who speaks, in which incarnation."""

    worker: WorkerId
    incarnation: Id


class WorkerRegistered(WorkerEvent, tag="worker_registered"):
    """The worker is here, or speaks again; the first event of an incarnation.

    ``label_seq`` is the sequence of the label change that ``labels`` includes;
    ``attempts`` are those it holds already (after a lost connection). ``rate_limits`` are the
    limits that its steps name. What the newest worker says of a workflow or limit counts for
    all; ``again``: this one has said so before, and is not newer for saying it again.
    """

    name: str
    slots: Slots
    labels: dict[str, LabelValue] = {}
    label_seq: Count = 0
    workflows: list[WorkflowDefinition] = []
    attempts: list[AttemptId] = []
    draining: bool = False
    host: str = ""
    pid: int = 0
    version: str = ""
    rate_limits: list[RateLimit] = []
    again: bool = False


class Heartbeat(WorkerEvent, tag="heartbeat"):
    """The worker is alive and holds these attempts.

    ``memory_mb``: what it holds of its machine's, in MB of 2^20 bytes; ``cpus``: how many cores
    it kept busy since the heartbeat before. ``label_seq``: the last change of its labels that it
    has told, and ``draining``, whether it has told that: where these are news, they were lost.
    """

    attempts: list[AttemptId] = []
    memory_mb: Annotated[float, Meta(ge=0)] | None = None
    cpus: Annotated[float, Meta(ge=0)] | None = None
    label_seq: Annotated[int, Meta(ge=0)] = 0
    draining: bool = False


class LabelsChanged(WorkerEvent, tag="labels_changed"):
    """Labels to set and labels to delete, all at once. Only a newer ``seq`` applies."""

    seq: Count
    upsert: dict[str, LabelValue] = {}
    delete: list[str] = []


class WorkerDraining(WorkerEvent, tag="worker_draining"):
    """The worker takes no more steps; it finishes what it has."""


class WorkerLeft(WorkerEvent, tag="worker_left"):
    """The worker ends. What it still holds is to be given to others."""


class WorkerKilled(WorkerEvent, tag="worker_killed"):
    """The worker's process was stopped for ``reason``; ``message`` says it in words.

    Said by who keeps the process, when it has ended (a live one would register again): it passed
    its memory limit, say. The step that it ran has failed with that reason.
    """

    reason: FailureReason
    message: str


class WorkerPaused(WorkerEvent, tag="worker_paused"):
    """The worker is to take no steps but those of runs that are pinned to it, until
    ``WorkerResumed``. Said by who keeps the process, where it is not needed for now, say."""


class WorkerResumed(WorkerEvent, tag="worker_resumed"):
    """The worker, which was paused, is to take steps again. Said by who keeps the process."""


class StepStarted(WorkerEvent, tag="step_started"):
    """The worker has a slot for the attempt and begins it: its time runs from now on."""

    attempt: AttemptId
    at: int = 0


class StepFinished(WorkerEvent, tag="step_finished"):
    """The attempt ended. ``retryable`` is false where another try is of no use;
    ``retry_after`` is when the step itself wants one, in seconds, whatever its backoff.
    ``lingers``: its time is over and counts, but it has not stopped; it keeps its slot until
    ``StepReleased``."""

    attempt: AttemptId
    outcome: Outcome
    output: Any = None
    error: RunError | None = None
    retryable: bool = True
    at: int = 0
    retry_after: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | None = None
    lingers: bool = False


class StepReleased(WorkerEvent, tag="step_released"):
    """The attempt that lingered has stopped: its slot is free."""

    attempt: AttemptId


class StepReturned(WorkerEvent, tag="step_returned"):
    """The worker has no slot free for the attempt, which has not begun; it is to be given anew."""

    attempt: AttemptId


class StepWaits(WorkerEvent, tag="step_waits"):
    """The attempt waits for its children and needs no slot, or is to go on and needs one again.

    ``seq`` counts these words of one attempt from 1: odd, it waits; even, it goes on, as soon as
    one of its worker's slots is free.
    """

    attempt: AttemptId
    seq: Annotated[int, Meta(ge=1)]


class StepRefreshed(WorkerEvent, tag="step_refreshed"):
    """The attempt runs, and may from now on for ``timeout`` seconds more."""

    attempt: AttemptId
    timeout: Seconds


class LogLine(msgspec.Struct):
    """A line that an attempt has logged; ``seq`` is that of ``StreamItem``."""

    seq: Annotated[int, Meta(ge=1)]
    at: int
    level: LogLevel
    message: str


class StepLogged(WorkerEvent, tag="step_logged"):
    """The attempt has logged these lines, to be kept with the run."""

    attempt: AttemptId
    lines: list[LogLine]


Event = (
    WorkerRegistered
    | Heartbeat
    | LabelsChanged
    | WorkerDraining
    | WorkerLeft
    | WorkerKilled
    | WorkerPaused
    | WorkerResumed
    | StepStarted
    | StepFinished
    | StepReleased
    | StepReturned
    | StepRefreshed
    | StepWaits
    | StepLogged
)

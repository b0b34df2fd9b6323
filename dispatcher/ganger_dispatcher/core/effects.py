"""What the core wants done. The shell stores first (one atomic commit), then sends.

Named as verbs. Several effects that store the same thing may follow each other in a
batch; the last one counts.
"""

from typing import Any

import msgspec

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.deployments import PoolLoad
from ganger_broker.fields import AttemptId
from ganger_broker.labels import LabelValue
from ganger_broker.messages import RunResult
from ganger_broker.schedules import ScheduleList
from ganger_broker.to_worker import Assignment, ToWorker

from .records import Held, KeptLine, RateUse, ReplyAddress, RunHeader, Schedule, StepRun, Worker

__all__ = [
    "AddPending",
    "Answer",
    "AppendLog",
    "Assign",
    "Beat",
    "Bury",
    "Count",
    "DeleteQueue",
    "DropPending",
    "DropPool",
    "DropSchedule",
    "DropWorker",
    "Effect",
    "EndRun",
    "Hold",
    "Note",
    "ReleaseAttempt",
    "Reply",
    "StoreComing",
    "StoreLabels",
    "StoreLoad",
    "StorePool",
    "StoreRate",
    "StoreRun",
    "StoreSchedule",
    "StoreStep",
    "StoreWaits",
    "StoreWorker",
    "StoreWorkflow",
    "TakeAttempt",
    "Tell",
    "Unhold",
    "Unpin",
    "Unqueue",
]


class StoreRun(msgspec.Struct, frozen=True):
    """Keep a run's header."""

    run_id: str
    header: RunHeader


class EndRun(msgspec.Struct, frozen=True):
    """The run has ended: keep its outcome, and the run for as long as the retention says."""

    run_id: str
    header: RunHeader


class Unpin(msgspec.Struct, frozen=True):
    """The run is pinned to no worker any more."""

    run_id: str


class Unqueue(msgspec.Struct, frozen=True):
    """The run waits for its turn no more."""

    run_id: str


class StoreStep(msgspec.Struct, frozen=True):
    """Keep a step run."""

    run_id: str
    step: str
    value: StepRun


class AppendLog(msgspec.Struct, frozen=True):
    """Keep lines that a run's steps have logged, and up to where they are kept."""

    run_id: str
    logged: dict[str, int]
    lines: tuple[KeptLine, ...]


class AddPending(msgspec.Struct, frozen=True):
    """The step run waits for a worker until ``deadline``, ms."""

    step_run: str
    deadline: int


class DropPending(msgspec.Struct, frozen=True):
    """The step run waits no more."""

    step_run: str


class StoreWorker(msgspec.Struct, frozen=True):
    """Keep a worker, all of it: it has registered."""

    worker: Worker


class StoreLoad(msgspec.Struct, frozen=True):
    """Keep what changes while a worker works."""

    worker: str
    used: int
    state: str
    given_at: int


class StoreWaits(msgspec.Struct, frozen=True):
    """Keep which of a worker's attempts wait and need no slot."""

    worker: str
    waits: dict[AttemptId, int]


class StoreComing(msgspec.Struct, frozen=True):
    """Keep which labels are coming to a worker, by the attempt that sets them."""

    worker: str
    coming: dict[AttemptId, dict[str, LabelValue]]


class StoreSchedule(msgspec.Struct, frozen=True):
    """Keep a schedule, with its next tick."""

    schedule: Schedule


class DropSchedule(msgspec.Struct, frozen=True):
    """There is no such schedule any more."""

    schedule_id: str


class Answer(msgspec.Struct, frozen=True):
    """Answer a program that asked about schedules."""

    address: ReplyAddress
    answer: ScheduleList


class StoreRate(msgspec.Struct, frozen=True):
    """Keep a rate limit, and what was given of it lately."""

    use: RateUse


class StorePool(msgspec.Struct, frozen=True):
    """Keep what a pool has to do, and how many replicas that wants."""

    pool: str
    load: PoolLoad


class DropPool(msgspec.Struct, frozen=True):
    """There is no such pool any more."""

    pool: str


class StoreLabels(msgspec.Struct, frozen=True):
    """Change a worker's labels."""

    worker: str
    seq: int
    upsert: dict[str, LabelValue]
    delete: tuple[str, ...]


class Beat(msgspec.Struct, frozen=True):
    """The worker was heard of at this time, ms, and said what it uses of its machine."""

    worker: str
    at: int
    memory_mb: float | None = None
    cpus: float | None = None


class DropWorker(msgspec.Struct, frozen=True):
    """Forget a worker."""

    worker: str


class TakeAttempt(msgspec.Struct, frozen=True):
    """The worker holds this attempt."""

    worker: str
    attempt: AttemptId


class ReleaseAttempt(msgspec.Struct, frozen=True):
    """The worker holds this attempt no more."""

    worker: str
    attempt: AttemptId


class StoreWorkflow(msgspec.Struct, frozen=True):
    """Keep a workflow's definition. ``came``: digests of all its definitions, as they came."""

    definition: WorkflowDefinition
    came: tuple[str, ...]


class Hold(msgspec.Struct, frozen=True):
    """Keep a trigger whose workflow is not registered yet."""

    held: Held


class Unhold(msgspec.Struct, frozen=True):
    """The trigger is held no more."""

    run_id: str


class Count(msgspec.Struct, frozen=True):
    """Add to a counter of ``ganger:stats``."""

    name: str
    by: int = 1


class Note(msgspec.Struct, frozen=True):
    """An entry of the feed."""

    kind: str
    fields: dict[str, Any]


class Assign(msgspec.Struct, frozen=True):
    """Send an attempt to its worker. Stored already; sent again after a take-over."""

    worker: str
    assignment: Assignment


class Tell(msgspec.Struct, frozen=True):
    """Send a worker a word. Lost in a crash it is said again when the worker is next heard."""

    worker: str
    message: ToWorker


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """Answer a trigger. Kept in the outbox until confirmed."""

    address: ReplyAddress
    result: RunResult


class Bury(msgspec.Struct, frozen=True, tag="bury"):
    """Dead-letter a message with its reason.

    ``keep`` it in the outbox until confirmed: no delivery stands behind it that would
    come again. ``reply``, ``headers`` and ``message_id`` are what its publisher gave it.
    """

    body: bytes
    content_type: str | None
    routing_key: str
    reason: str
    detail: str
    keep: bool = False
    reply: ReplyAddress | None = None
    headers: dict[str, Any] = {}
    message_id: str | None = None


class DeleteQueue(msgspec.Struct, frozen=True):
    """Delete a worker's queue. Left undone in a crash, it expires."""

    worker: str


Effect = (
    StoreRun
    | EndRun
    | StoreStep
    | AppendLog
    | AddPending
    | DropPending
    | StoreWorker
    | StoreLoad
    | StoreWaits
    | StoreComing
    | StoreLabels
    | StoreRate
    | StorePool
    | DropPool
    | StoreSchedule
    | DropSchedule
    | Answer
    | Beat
    | DropWorker
    | TakeAttempt
    | ReleaseAttempt
    | StoreWorkflow
    | Hold
    | Unhold
    | Unpin
    | Unqueue
    | Count
    | Note
    | Assign
    | Tell
    | Reply
    | Bury
    | DeleteQueue
)

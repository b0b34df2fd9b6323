"""What the core knows of runs, step runs and workers; what Redis keeps for the next leader.

Step runs and run headers are immutable values: a change is a new value, and the effect
that stores it carries it. Times are milliseconds since 1970.
"""

from enum import StrEnum
from typing import Any

import msgspec

from ganger_broker.crons import Cron
from ganger_broker.definitions import RateLimit, StepDefinition, WorkflowDefinition
from ganger_broker.deployments import PoolLoad
from ganger_broker.fields import AttemptId, LogLevel
from ganger_broker.labels import LabelValue
from ganger_broker.messages import ReplyAddress, RunError, RunResult, RunStatus, Trigger

from .states import StepStatus
from .workflow import Workflow

__all__ = [
    "Held",
    "KeptLine",
    "RateUse",
    "ReplyAddress",
    "Run",
    "RunHeader",
    "Schedule",
    "Snapshot",
    "StepRun",
    "Worker",
    "WorkerState",
    "attempt_id",
    "split_attempt",
    "step_run_id",
]


def step_run_id(run_id: str, step: str) -> str:
    """``<run>/<step>``."""
    return f"{run_id}/{step}"


def attempt_id(run_id: str, step: str, number: int) -> AttemptId:
    """``<run>/<step>/<n>``."""
    return f"{run_id}/{step}/{number}"


def split_attempt(attempt: AttemptId) -> tuple[str, str, int] | None:
    """Run, step and number of an attempt id; None where it is not one."""
    parts = attempt.split("/")
    if len(parts) != 3 or not parts[2].isdecimal():
        return None
    return parts[0], parts[1], int(parts[2])


class StepRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of one run. As JSON it is the field ``step:<name>`` of the run's hash.

    ``attempt`` is the number of the current (or next) attempt, from 1. ``failures`` count
    against the step's retries, ``losses`` (of its worker) do not. In backoff, ``retry_at``
    is its end and ``error`` what went wrong last. ``timeout_at`` is when it is over for a
    running attempt whose worker has not said so. ``desired_worker_labels`` is what this step
    run desires: its definition's with the trigger's merged over them. ``waits_for``: while it
    is pending, what holds it up beside the workers, in words; ``limited_since`` from when on its
    schedule time-out does not run because of that. ``patient_since``: from when on it waits for
    workers that it prefers, where something else held it up before.
    """

    status: StepStatus
    attempt: int = 1
    worker: str | None = None
    failures: int = 0
    losses: int = 0
    retry_at: int | None = None
    pending_since: int | None = None
    deadline: int | None = None
    assigned_at: int | None = None
    started_at: int | None = None
    timeout_at: int | None = None
    finished_at: int | None = None
    output: Any = None
    error: RunError | None = None
    desired_worker_labels: dict[str, Any] = {}
    waits_for: str | None = None
    limited_since: int | None = None
    patient_since: int | None = None

    @property
    def waits_since(self) -> int | None:
        """From when on it has waited for nothing but a worker."""
        return self.patient_since or self.pending_since


class RunHeader(msgspec.Struct, frozen=True):
    """A run without its steps. Its fields are fields of the run's hash.

    ``definition`` is the digest of the workflow's definition that the run began with;
    ``pinned`` the one worker of a run that is sticky, HARD, ``pin_desires``, once that was lost,
    what the next one has to meet; ``parent`` the step run that
    spawned it, ``sticky_to`` that one's worker where it is to stay there; ``queued`` what it
    waits for before its first step may begin, in words; ``logged``, by
    ``<step>/<n>``, up to where the lines of attempts are kept.
    """

    workflow: str
    version: str
    definition: str
    status: RunStatus
    input: dict[str, Any]
    metadata: dict[str, Any]
    priority: int
    desired_worker_labels: dict[str, Any]
    created_at: int
    finished_at: int | None = None
    output: dict[str, Any] | None = None
    error: RunError | None = None
    reply: tuple[ReplyAddress, ...] = ()
    pinned: str | None = None
    pin_desires: dict[str, Any] | None = None
    parent: str | None = None
    sticky_to: str | None = None
    queued: str | None = None
    logged: dict[str, int] | None = None

    @classmethod
    def of(cls, trigger: Trigger, **known: Any) -> "RunHeader":
        """That of the run that is asked for; ``known``: the other fields."""
        return cls(
            workflow=trigger.workflow,
            input=trigger.input,
            metadata=trigger.metadata,
            priority=trigger.priority,
            desired_worker_labels=trigger.desired_worker_labels,
            parent=trigger.parent,
            sticky_to=trigger.sticky_to,
            **known,
        )

    @property
    def parent_run(self) -> str | None:
        """The run that spawned it."""
        return None if self.parent is None else self.parent.partition("/")[0]


class KeptLine(msgspec.Struct, frozen=True):
    """A line that a step has logged, as Redis keeps it."""

    at: int
    attempt: AttemptId
    seq: int
    level: LogLevel
    message: str


class Run:
    """A run that has not ended."""

    __slots__ = ("cancelled", "header", "id", "pools", "requirements", "steps", "workflow")

    def __init__(
        self,
        id: str,
        header: RunHeader,
        workflow: Workflow,
        steps: dict[str, StepRun],
    ) -> None:
        self.id = id
        self.header = header
        self.workflow = workflow
        self.requirements = workflow.requirements_over(header.desired_worker_labels)
        self.pools: dict[str, str] = {}
        """The pools of steps that have moved to another than their own."""
        self.steps = steps
        self.cancelled = False
        """All of it is being cancelled at once."""

    @property
    def definitions(self) -> dict[str, StepDefinition]:
        """The steps by name, as the run began with them."""
        return self.workflow.steps

    def trigger(self) -> Trigger:
        """What it was triggered by."""
        header = self.header
        return Trigger(
            workflow=header.workflow,
            input=header.input,
            run_id=self.id,
            metadata=header.metadata,
            priority=header.priority,
            desired_worker_labels=header.desired_worker_labels,
            parent=header.parent,
            sticky_to=header.sticky_to,
        )

    def result(self) -> RunResult:
        """What its trigger is answered when it has ended."""
        header = self.header
        return RunResult(header.workflow, self.id, header.status, header.output or {}, header.error)


class WorkerState(StrEnum):
    """Whether a worker takes steps."""

    READY = "ready"
    DRAINING = "draining"
    PAUSED = "paused"
    UNREACHABLE = "unreachable"
    """Its queue was gone; it is ready again when it registers anew."""


class Worker(msgspec.Struct):
    """A live worker, as Redis keeps it too. ``attempts``: attempt → when it was given, ms.
    ``waits``: attempt → the last of its words on waiting, odd while it needs no slot;
    ``workflows``: name → (version, digest of the definition) of those it has registered;
    ``coming``: attempt → the labels that its step sets.

    ``memory_mb`` and ``cpus``: what it uses of its machine, as it last said.

    ``past``: incarnations that this one replaced; they never come back, whatever is
    delivered again.
    """

    id: str
    incarnation: str
    name: str
    slots: int
    labels: dict[str, LabelValue]
    label_seq: int
    actions: list[str]
    registered_at: int
    heartbeat_at: int
    state: WorkerState = WorkerState.READY
    given_at: int = 0
    host: str = ""
    pid: int = 0
    version: str = ""
    past: list[str] = []
    workflows: dict[str, tuple[str, str]] = {}
    waits: dict[AttemptId, int] = {}
    coming: dict[AttemptId, dict[str, LabelValue]] = {}
    attempts: dict[AttemptId, int] = {}
    memory_mb: float | None = None
    cpus: float | None = None

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self.attempts) - sum(seq % 2 for seq in self.waits.values())

    @property
    def is_open(self) -> bool:
        """Whether it takes steps."""
        return self.state is WorkerState.READY


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trigger whose workflow nobody has registered yet, until ``until``."""

    run_id: str
    trigger: Trigger
    until: int
    reply: tuple[ReplyAddress, ...] = ()


class RateUse(msgspec.Struct, frozen=True):
    """A rate limit, and the units given lately: start of a part of its window, ms → units."""

    limit: RateLimit
    used: dict[int, int] = {}


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Runs by the clock: at the ticks of a cron, or once. ``next_at`` is the tick waited for,
    ``last_at`` the last one that had a run; the other fields are those of one that runs once,
    and ``asked_as`` is the id under which it was asked for with others, of which ``same_before``
    are for the same time and were named before it."""

    schedule_id: str
    workflow: str
    next_at: int
    last_at: int | None = None
    cron: Cron | None = None
    asked_as: str = ""
    same_before: int = 0
    input: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    priority: int = 1
    desired_worker_labels: dict[str, Any] = {}


class Snapshot(msgspec.Struct):
    """All that a leader finds in Redis when it takes over.

    ``workflows``: the definitions that new runs begin with. ``definitions``: by digest, all that
    were ever registered, and ``came`` their digests by workflow, in the order in which they came.
    """

    workflows: list[WorkflowDefinition] = []
    definitions: dict[str, WorkflowDefinition] = {}
    came: dict[str, list[str]] = {}
    workers: list[Worker] = []
    runs: list[tuple[str, RunHeader, dict[str, StepRun]]] = []
    held: list[Held] = []
    rates: list[RateUse] = []
    schedules: list[Schedule] = []
    pools: dict[str, PoolLoad] = {}

    def drop_orphaned_runs(self) -> list[str]:
        """Leave out runs whose definition is not there, as somebody deleted it; their ids."""
        orphaned = [run_id for run_id, header, _ in self.runs if not self._has_its(header)]
        self.runs = [run for run in self.runs if self._has_its(run[1])]
        return orphaned

    def _has_its(self, header: RunHeader) -> bool:
        return header.definition in self.definitions

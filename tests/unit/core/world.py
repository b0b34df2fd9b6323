"""The core with hands: tests say what happens, and read which effects come of it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import (
    FailureReason,
    Heartbeat,
    LabelsChanged,
    LogLine,
    Outcome,
    RunError,
    StepFinished,
    StepLogged,
    StepRefreshed,
    StepReleased,
    StepReturned,
    StepStarted,
    StepWaits,
    Trigger,
    WorkerDraining,
    WorkerKilled,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_dispatcher.core import Core
from ganger_dispatcher.core.core import Fact
from ganger_dispatcher.core.effects import Assign, Effect, Reply, Tell
from ganger_dispatcher.core.facts import CancelRequested, TimePassed, TriggerReceived
from ganger_dispatcher.core.records import ReplyAddress, StepRun
from ganger_dispatcher.core.state import Policy

from .stored import Stored

__all__ = ["World", "address", "assigned", "of", "one_step", "replies", "told"]

T = TypeVar("T")

SECOND = 1000
START = 1_700_000_000_000


def of(effects: list[Effect], kind: type[T]) -> list[T]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def assigned(effects: list[Effect]) -> list[tuple[str, str]]:
    """(attempt, worker) of every assignment, in order."""
    return [(effect.assignment.attempt, effect.worker) for effect in of(effects, Assign)]


def told(effects: list[Effect]) -> list[tuple[str, Any]]:
    """(worker, message) of every word to a worker, in order."""
    return [(effect.worker, effect.message) for effect in of(effects, Tell)]


def replies(effects: list[Effect]) -> list[tuple[str, str, str | None]]:
    """(reply_to, status, reason) of every answer, in order."""
    return [
        (
            e.address.reply_to,
            e.result.status.value,
            e.result.error.reason.value if e.result.error else None,
        )
        for e in of(effects, Reply)
    ]


def one_step(name: str = "w", version: str = "", **step: Any) -> WorkflowDefinition:
    """A workflow of one step, ``s``."""
    return WorkflowDefinition(name, [StepDefinition("s", **step)], version)


def address(name: str) -> ReplyAddress:
    """Where an answer goes."""
    return ReplyAddress(name, f"correlation of {name}")


class World:
    """One core, its time, and the store that its effects fill.

    Every method that lets something happen returns the effects of it.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.core = Core(self.policy)
        self.now = START
        self.stored = Stored()
        self.incarnations: dict[str, str] = {}

    def tell(self, fact: Fact, *, same_batch: bool = False) -> list[Effect]:
        """Hand a fact in, now; in a batch of its own, or in that of the fact before."""
        if not same_batch:
            self.core.begin_batch()
        effects = self.core.handle(fact, self.now)
        self.stored.apply(effects)
        return effects

    # ── programs ──────────────────────────────────────────────────────────────────────

    def trigger(
        self, run_id: str = "r", workflow: str = "w", reply: str | None = None, **fields: Any
    ) -> list[Effect]:
        """A program asks for a run."""
        trigger = Trigger(workflow, run_id=run_id, **fields)
        return self.tell(TriggerReceived(trigger, run_id, address(reply) if reply else None))

    def cancel(self, run_id: str = "r", reason: str = "not needed") -> list[Effect]:
        """A program asks to cancel a run."""
        return self.tell(CancelRequested(run_id, reason))

    # ── workers ───────────────────────────────────────────────────────────────────────

    def join(
        self,
        worker: str = "a",
        labels: Mapping[str, Any] | None = None,
        *,
        workflows: list[WorkflowDefinition] | None = None,
        slots: int = 1,
        incarnation: str = "1",
        **fields: Any,
    ) -> list[Effect]:
        """A worker registers; by default it has the workflow ``w`` of one step and one slot."""
        self.incarnations[worker] = incarnation
        return self.tell(
            WorkerRegistered(
                worker,
                incarnation,
                name=worker,
                slots=slots,
                labels=dict(labels or {}),
                workflows=[one_step()] if workflows is None else workflows,
                **fields,
            )
        )

    def start(self, attempt: str, worker: str = "a") -> list[Effect]:
        """A worker picks an attempt up."""
        return self.tell(StepStarted(worker, self.incarnations[worker], attempt))

    def finish(
        self,
        attempt: str,
        worker: str = "a",
        outcome: Outcome = Outcome.SUCCEEDED,
        *,
        output: Any = None,
        error: RunError | None = None,
        **fields: Any,
    ) -> list[Effect]:
        """A worker is done with an attempt."""
        incarnation = self.incarnations[worker]
        return self.tell(
            StepFinished(worker, incarnation, attempt, outcome, output, error, **fields)
        )

    def refresh(self, attempt: str, timeout: float, worker: str = "a") -> list[Effect]:
        """An attempt gives itself more time."""
        return self.tell(StepRefreshed(worker, self.incarnations[worker], attempt, timeout))

    def waits(self, attempt: str, seq: int, worker: str = "a") -> list[Effect]:
        """An attempt waits for its children (odd), or goes on (even)."""
        return self.tell(StepWaits(worker, self.incarnations[worker], attempt, seq))

    def log(self, attempt: str, *lines: tuple[int, str], worker: str = "a") -> list[Effect]:
        """An attempt logs lines: (seq, message)."""
        told = [LogLine(seq, self.now, "info", message) for seq, message in lines]
        return self.tell(StepLogged(worker, self.incarnations[worker], attempt, told))

    def stopped(self, attempt: str, worker: str = "a") -> list[Effect]:
        """An attempt that lingered has stopped."""
        return self.tell(StepReleased(worker, self.incarnations[worker], attempt))

    def returned(self, attempt: str, worker: str = "a") -> list[Effect]:
        """A worker has no slot for an attempt."""
        return self.tell(StepReturned(worker, self.incarnations[worker], attempt))

    def beat(self, worker: str = "a", *attempts: str) -> list[Effect]:
        """A worker says that it lives and what it holds."""
        return self.tell(Heartbeat(worker, self.incarnations[worker], list(attempts)))

    def label(
        self, seq: int, upsert: Mapping[str, Any], *delete: str, worker: str = "a"
    ) -> list[Effect]:
        """A worker changes its labels."""
        return self.tell(
            LabelsChanged(worker, self.incarnations[worker], seq, dict(upsert), list(delete))
        )

    def drain(self, worker: str = "a") -> list[Effect]:
        """A worker takes no more."""
        return self.tell(WorkerDraining(worker, self.incarnations[worker]))

    def leave(self, worker: str = "a") -> list[Effect]:
        """A worker ends."""
        return self.tell(WorkerLeft(worker, self.incarnations[worker]))

    def kill(
        self, worker: str = "a", message: str = "over 64 MB", *, incarnation: str | None = None
    ) -> list[Effect]:
        """A worker's process was stopped at its memory limit."""
        incarnation = incarnation or self.incarnations[worker]
        reason = FailureReason.OUT_OF_MEMORY
        return self.tell(WorkerKilled(worker, incarnation, reason, message))

    # ── time ──────────────────────────────────────────────────────────────────────────

    def wait(self, seconds: float, *alive: str) -> list[Effect]:
        """Time passes and the core is woken whenever it asked to be; ``alive`` workers
        send heartbeats meanwhile, with all that they hold."""
        effects: list[Effect] = []
        end = self.now + round(seconds * SECOND)
        while self.now < end:
            wake_at = self.core.wake_at
            self.now = min(end, self.now + SECOND if wake_at is None else max(wake_at, self.now))
            for worker in alive:
                effects += self.beat(worker, *self.core.state.workers[worker].attempts)
            effects += self.tell(TimePassed())
        return effects

    def take_over(self) -> list[Effect]:
        """The leader is gone; another begins with what is stored."""
        self.core = Core(self.policy)
        effects = self.core.restore(self.stored.snapshot(), self.now)
        self.stored.apply(effects)
        return effects

    # ── looking ───────────────────────────────────────────────────────────────────────

    def step(self, run_id: str = "r", step: str = "s") -> StepRun:
        """A step run, as it is stored."""
        return self.stored.steps[run_id][step]

    def status(self, run_id: str = "r") -> str:
        """A run's status, as it is stored."""
        return self.stored.headers[run_id].status.value

    def held_by(self, worker: str = "a") -> list[str]:
        """The attempts that take a worker's slots."""
        return list(self.core.state.workers[worker].attempts)

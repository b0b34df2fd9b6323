"""What programs and workers have said, kept beside the core: what it does is held to this."""

from typing import Any

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.labels import parse_desired
from ganger_broker.messages import (
    FailureReason,
    LabelsChanged,
    Outcome,
    RunStatus,
    StepFinished,
    StepRefreshed,
    StepStarted,
    Trigger,
    WorkerKilled,
    WorkerRegistered,
)
from ganger_broker.pool_labels import desired_in_pool
from ganger_broker.to_worker import CancelAttempt
from ganger_dispatcher.core import Core
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.core import Fact
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.events import triggers_of
from ganger_dispatcher.core.facts import (
    CancelRequested,
    EventPushed,
    TimePassed,
    TriggerReceived,
)
from ganger_dispatcher.core.records import RunHeader, Snapshot, StepRun
from ganger_dispatcher.core.states import TERMINAL, StepStatus
from tests.unit.placement.oracle import meets

from .machine_flows import POLICY

__all__ = ["Ledger"]

HELD = (StepStatus.ASSIGNED, StepStatus.RUNNING)
BEGUN = frozenset(StepStatus) - {StepStatus.WAITING, StepStatus.CANCELLED}


class Ledger:
    """Follows facts and effects, and asserts of each what has to be so."""

    def __init__(self) -> None:
        self.definitions: dict[str, WorkflowDefinition] = {}
        self.triggers: dict[str, Trigger] = {}
        self.headers: dict[str, RunHeader] = {}
        self.steps: dict[str, dict[str, StepRun]] = {}
        self.processes: dict[str, str] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        self.seqs: dict[str, int] = {}
        self.given: dict[str, str] = {}
        """Attempt → the worker it was last given to."""
        self.come: dict[str, set[tuple[str, Any]]] = {}
        """By attempt, labels that its worker has set since it has it."""
        self.over_at: dict[str, int] = {}
        """By attempt, when the dispatcher ends it where its worker has not."""

        self.deaf_since: dict[str, tuple[str, int]] = {}
        """By attempt whose time is over, who is heard and does not end it, and since when."""

    def know(self, definition: WorkflowDefinition) -> None:
        """Workers may register it."""
        self.definitions[digest(definition)] = definition

    def definition_of(self, run_id: str) -> WorkflowDefinition:
        """What the run began with."""
        return self.definitions[self.headers[run_id].definition]

    def step_of(self, run_id: str, name: str) -> StepDefinition:
        """A step of it, as it began with it."""
        [found] = [s for s in self.definition_of(run_id).every_step() if s.name == name]
        return found

    def follow(self, cause: Fact | Snapshot, now: int, effects: list[Effect], core: Core) -> None:
        """What the core does because of this."""
        if isinstance(cause, TriggerReceived) and cause.ended is None:
            self.triggers.setdefault(cause.run_id, cause.trigger)
        elif isinstance(cause, EventPushed):
            flows = [workflow.definition for workflow in core.state.workflows.values()]
            for each in triggers_of(cause, flows):
                self.triggers.setdefault(each.run_id, each.trigger)
        if isinstance(cause, LabelsChanged):
            self._labels_changed(cause)
        stopped: list[tuple[str, str]] = []
        for effect in effects:
            match effect:
                case do.StoreWorker(worker) if isinstance(cause, WorkerRegistered):
                    self._registered(cause, worker.id)
                case do.DropWorker(worker_id):
                    self.processes.pop(worker_id, None)
                case do.StoreRun(run_id, header):
                    self._began(run_id, header)
                case do.StoreStep(run_id, name, step):
                    before = self.steps[run_id].get(name)
                    self._changed(run_id, name, before, step, cause, now)
                    if before is not None and before.status in HELD and before.worker is not None:
                        stopped.append((f"{run_id}/{name}/{before.attempt}", before.worker))
                    self.steps[run_id][name] = step
                case do.Assign(worker_id, assignment):
                    self._assigned(worker_id, assignment)
                case do.EndRun(run_id, header):
                    self._ended(run_id, header)
                case do.Reply(_, result) if result.run_id in self.headers:
                    header = self.headers[result.run_id]
                    said = (result.status, result.output, result.error)
                    assert said == (header.status, header.output or {}, header.error)
                case do.Unhold(run_id) if run_id not in core.state.runs:
                    self.triggers.pop(run_id, None)
        self._workers_are_told(stopped, cause, effects, core)
        self._is_settled(cause, now, core)

    # ── workers ───────────────────────────────────────────────────────────────────────

    def _registered(self, event: WorkerRegistered, worker: str) -> None:
        assert worker == event.worker
        same = self.processes.get(worker) == event.incarnation
        if not same or event.label_seq >= self.seqs[worker]:
            if same:
                self._have_come(worker, dict(event.labels.items() - self.labels[worker].items()))
            self.labels[worker], self.seqs[worker] = dict(event.labels), event.label_seq
        self.processes[worker] = event.incarnation

    def _labels_changed(self, event: LabelsChanged) -> None:
        worker = event.worker
        if self.processes.get(worker) != event.incarnation or event.seq <= self.seqs[worker]:
            return
        self.seqs[worker] = event.seq
        kept = {k: v for k, v in self.labels[worker].items() if k not in event.delete}
        self.labels[worker] = {**kept, **event.upsert}
        self._have_come(worker, event.upsert)

    def _have_come(self, worker: str, labels: dict[str, Any]) -> None:
        for attempt, holder in self.given.items():
            if holder == worker:
                self.come.setdefault(attempt, set()).update(labels.items())

    def _assigned(self, worker: str, assignment: Any) -> None:
        """The worker has what the step requires, as far as it has said; or it is sent again."""
        run_id, name = assignment.run_id, assignment.step
        step, definition = self.steps[run_id][name], self.step_of(run_id, name)
        outputs = {p: self.steps[run_id][p].output for p in definition.parents}
        assert assignment.parents == outputs or name == self._failure_step(run_id)
        if self.given.get(assignment.attempt) == worker:
            return
        self.given[assignment.attempt] = worker
        for group in parse_desired(self.steps[run_id][name].desired_worker_labels).values():
            for condition in group:
                assert meets(self.labels[worker], condition) or not condition.required
        assert step.worker == worker

    def _workers_are_told(
        self,
        stopped: list[tuple[str, str]],
        cause: Fact | Snapshot,
        effects: list[Effect],
        core: Core,
    ) -> None:
        """Who has an attempt that does not count any more, and does not say so itself."""
        told = [
            (effect.worker, effect.message.attempt)
            for effect in effects
            if isinstance(effect, do.Tell) and isinstance(effect.message, CancelAttempt)
        ]
        for attempt, worker in stopped:
            run_id, name, number = attempt.split("/")
            step = self.steps[run_id][name]
            goes_on = step.status in HELD and step.attempt == int(number)
            its_own = isinstance(cause, StepFinished) and cause.attempt == attempt
            has_it = worker in core.state.workers and attempt in core.state.workers[worker].attempts
            assert goes_on or its_own or not has_it or (worker, attempt) in told

    # ── steps ─────────────────────────────────────────────────────────────────────────

    def _failure_step(self, run_id: str) -> str | None:
        on_failure = self.definition_of(run_id).on_failure
        return on_failure.name if on_failure is not None else None

    def _desired(self, run_id: str, name: str) -> list[dict[str, Any]]:
        """What it may desire: in its own pool, or in one that another definition has for it."""
        definition, header = self.step_of(run_id, name), self.headers[run_id]
        desired = {**definition.desired_worker_labels, **header.desired_worker_labels}
        if definition.pool is None:
            return [desired]
        return [
            desired_in_pool(desired, step.pool)
            for flow in self.definitions.values()
            for step in flow.every_step()
            if flow.name == header.workflow and step.name == name and step.pool is not None
        ]

    def _changed(
        self,
        run_id: str,
        name: str,
        before: StepRun | None,
        step: StepRun,
        cause: Fact | Snapshot,
        now: int,
    ) -> None:
        definition = self.step_of(run_id, name)
        assert before is None or before.status not in TERMINAL  # an end is final
        assert step.desired_worker_labels in self._desired(run_id, name)
        assert step.failures <= definition.retries
        assert step.losses <= POLICY.most_losses
        if step.status in BEGUN:
            self._may_begin(run_id, name, definition)
        if before is not None:
            is_another = before.status in HELD and step.status not in (*HELD, *TERMINAL)
            is_another |= step.status is StepStatus.ASSIGNED and before.status in HELD
            assert step.attempt == before.attempt + is_another
        attempt = f"{run_id}/{name}/{step.attempt}"
        if step.status is StepStatus.RUNNING:
            seconds = cause.timeout if isinstance(cause, StepRefreshed) else definition.timeout
            if isinstance(cause, StepRefreshed | StepStarted):
                assert cause.attempt == attempt
                self.over_at[attempt] = now + round(seconds * 1000) + POLICY.timeout_grace
                self.deaf_since.pop(attempt, None)
        elif step.status is StepStatus.SUCCEEDED:
            assert before is not None
            assert isinstance(cause, StepFinished)
            said = (cause.attempt, cause.worker, cause.outcome, cause.output)
            assert said == (attempt, before.worker, Outcome.SUCCEEDED, step.output)
        elif step.status is StepStatus.FAILED:
            self._may_fail(before, step, definition, cause)

    def _may_begin(self, run_id: str, name: str, definition: StepDefinition) -> None:
        """Its parents have all succeeded; or it is that for failures, and something failed."""
        steps = self.steps[run_id]
        own = self.definition_of(run_id).steps
        if name == self._failure_step(run_id):
            assert all(steps[each.name].status in TERMINAL for each in own)
            assert any(steps[each.name].status is StepStatus.FAILED for each in own)
        for parent in definition.parents:
            assert steps[parent].status is StepStatus.SUCCEEDED

    def _may_fail(
        self, before: StepRun | None, step: StepRun, definition: StepDefinition, cause: Any
    ) -> None:
        """No try of it is left."""
        assert before is not None
        assert step.error is not None
        if step.error.reason is FailureReason.WORKER_LOST:
            assert before.losses == POLICY.most_losses
        elif isinstance(cause, WorkerKilled):  # it may have been its doing, or one of theirs
            assert before.losses == POLICY.most_losses or before.failures == definition.retries
        elif not isinstance(cause, StepFinished) or cause.retryable:
            assert before.failures == definition.retries

    # ── runs ──────────────────────────────────────────────────────────────────────────

    def _began(self, run_id: str, header: RunHeader) -> None:
        if run_id not in self.headers:
            trigger = self.triggers.get(run_id)
            if trigger is not None:
                asked = (trigger.input, trigger.priority, trigger.parent)
                assert (header.input, header.priority, header.parent) == asked
                assert header.desired_worker_labels == trigger.desired_worker_labels
            self.steps[run_id] = {}
        self.headers[run_id] = header

    def _ended(self, run_id: str, header: RunHeader) -> None:
        """A run that has ended is what its steps make it."""
        self.headers[run_id] = header
        steps = self.steps[run_id]
        if header.definition == "":
            assert (header.status, steps) == (RunStatus.CANCELLED, {})  # it was held
            return
        own = {step.name: steps[step.name] for step in self.definition_of(run_id).steps}
        assert all(step.status in TERMINAL for step in steps.values())
        done = {n: s.output for n, s in steps.items() if s.status is StepStatus.SUCCEEDED}
        failed = [step.error for step in own.values() if step.status is StepStatus.FAILED]
        stopped = [step.error for step in own.values() if step.status is StepStatus.CANCELLED]
        first_hand = [e for e in stopped if e is None or e.message != "a parent did not succeed"]
        assert header.output == done
        has_saved = self._failure_step(run_id) in steps
        if not failed and not stopped:
            assert (header.status, header.error) == (RunStatus.SUCCEEDED, None)
        elif failed and (has_saved or not first_hand):
            assert header.status is RunStatus.FAILED
            assert has_saved or self._failure_step(run_id) is None
        elif not failed:
            assert header.status is RunStatus.CANCELLED
        if header.status is RunStatus.FAILED:
            assert header.error in failed
        elif header.status is RunStatus.CANCELLED:
            assert header.error in stopped
        assert header.status is not RunStatus.SUCCEEDED or not (failed or stopped)

    # ── when all is done ──────────────────────────────────────────────────────────────

    def _is_settled(self, cause: Fact | Snapshot, now: int, core: Core) -> None:
        state = core.state
        if isinstance(cause, CancelRequested):
            assert cause.run_id not in state.runs
            assert cause.run_id not in state.held
        for attempt, (holder, _) in list(self.deaf_since.items()):
            if holder in state.unheard:  # since it was seen last, nobody could be heard
                del self.deaf_since[attempt]
        all_read = isinstance(cause, TimePassed) and cause.read_to is None
        # where workers begin to be heard with it, what stood still until then comes next
        is_all = core.wake_at is None or core.wake_at > now
        if all_read and is_all and state.deaf_since is None:
            self._nothing_is_overdue(now, core)
        assert {w.id: w.incarnation for w in state.workers.values()} == self.processes
        for worker in state.workers.values():
            assert worker.labels == self.labels[worker.id]
            for attempt, labels in worker.coming.items():
                run_id, name, _ = attempt.split("/")
                assert labels.keys() <= self.step_of(run_id, name).sets_labels.keys()
                assert not labels.items() & self.come.get(attempt, set())

    def _nothing_is_overdue(self, now: int, core: Core) -> None:
        state = core.state
        assert all(held.until > now for held in state.held.values())
        for run in state.runs.values():
            for name, step in run.steps.items():
                attempt = f"{run.id}/{name}/{step.attempt}"
                match step.status:
                    case StepStatus.PENDING:
                        assert step.limited_since is not None or (step.deadline or 0) > now
                    case StepStatus.BACKOFF:
                        assert (step.retry_at or 0) > now
                    case StepStatus.RUNNING if self.over_at[attempt] <= now:
                        self._is_ended_soon(attempt, step.worker or "", now, core)

    def _is_ended_soon(self, attempt: str, holder: str, now: int, core: Core) -> None:
        """Its time is over. While its worker may be lost that is waited for, and then looked at
        once more."""
        worker = core.state.workers[holder]
        over_at = self.over_at[attempt] - POLICY.timeout_grace
        if holder not in core.state.unheard and worker.heartbeat_at >= over_at:
            _, deaf_since = self.deaf_since.setdefault(attempt, (holder, now))
            assert now - deaf_since <= POLICY.worker_timeout

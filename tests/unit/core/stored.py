"""What Redis would hold: the plainest store there is, for taking over in tests of the core."""

from copy import deepcopy
from typing import Any

from msgspec.structs import asdict, replace

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.deployments import PoolLoad
from ganger_dispatcher.core import effects as do
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.records import (
    Held,
    KeptLine,
    RateUse,
    RunHeader,
    Schedule,
    Snapshot,
    StepRun,
    Worker,
    WorkerState,
)

__all__ = ["Stored"]


class Stored:
    """Applies the effects that store, one by one; a ``Snapshot`` comes out.

    Shares nothing with the Redis adapter, which combines the effects of a batch.
    """

    def __init__(self) -> None:
        self.headers: dict[str, RunHeader] = {}
        self.steps: dict[str, dict[str, StepRun]] = {}
        self.logs: dict[str, list[KeptLine]] = {}
        self.active: set[str] = set()
        self.pending: dict[str, int] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.attempts: dict[str, set[str]] = {}
        self.workflows: dict[str, WorkflowDefinition] = {}
        self.definitions: dict[str, WorkflowDefinition] = {}
        self.came: dict[str, list[str]] = {}
        self.held: dict[str, Held] = {}
        self.schedules: dict[str, Schedule] = {}
        self.rates: dict[str, RateUse] = {}
        self.pools: dict[str, PoolLoad] = {}

    def apply(self, effects: list[Effect]) -> None:
        """Store what these effects store."""
        for effect in effects:
            match effect:
                case do.StoreRun() | do.EndRun() | do.StoreStep():
                    self._run(effect)
                case do.Unpin(run_id):
                    self.headers[run_id] = replace(self.headers[run_id], pinned=None)
                case do.Unqueue(run_id):
                    self.headers[run_id] = replace(self.headers[run_id], queued=None)
                case do.StoreSchedule(schedule):
                    self.schedules[schedule.schedule_id] = schedule
                case do.DropSchedule(schedule_id):
                    del self.schedules[schedule_id]
                case do.StoreRate(use):
                    self.rates[use.limit.key] = deepcopy(use)
                case do.StorePool(pool, load):
                    self.pools[pool] = load
                case do.DropPool(pool):
                    del self.pools[pool]
                case do.AppendLog(run_id, logged, lines):
                    self.headers[run_id] = replace(self.headers[run_id], logged=dict(logged))
                    self.logs.setdefault(run_id, []).extend(lines)
                case do.AddPending(step_run, deadline):
                    self.pending[step_run] = deadline
                case do.DropPending(step_run):
                    self.pending.pop(step_run, None)
                case do.StoreWorkflow(definition, came):
                    self.came[definition.name] = list(came)
                    self.workflows[definition.name] = definition
                    self.definitions[digest(definition)] = definition
                case do.Hold(held):
                    self.held[held.run_id] = held
                case do.Unhold(run_id):
                    del self.held[run_id]
                case _:
                    self._worker(effect)

    def _run(self, effect: do.StoreRun | do.EndRun | do.StoreStep) -> None:
        match effect:
            case do.StoreRun(run_id, header):
                self.headers[run_id] = header
                self.active.add(run_id)
                self.steps.setdefault(run_id, {})
            case do.EndRun(run_id, header):
                self.headers[run_id] = header
                self.active.remove(run_id)
            case do.StoreStep(run_id, step, value):
                self.steps[run_id][step] = value

    def _worker(self, effect: Effect) -> None:
        match effect:
            case do.StoreWorker(worker):
                fields = deepcopy(asdict(worker))
                del fields["attempts"]
                self.workers[worker.id] = fields
                self.attempts.setdefault(worker.id, set())
            case do.DropWorker(worker_id):
                del self.workers[worker_id], self.attempts[worker_id]
            case do.StoreLoad(worker_id, _, state, given_at):
                self.workers[worker_id].update(state=WorkerState(state), given_at=given_at)
            case do.StoreWaits(worker_id, waits):
                self.workers[worker_id]["waits"] = dict(waits)
            case do.StoreComing(worker_id, coming):
                self.workers[worker_id]["coming"] = deepcopy(coming)
            case do.StoreLabels(worker_id, seq, upsert, delete):
                fields = self.workers[worker_id]
                fields["label_seq"] = seq
                for key in delete:
                    fields["labels"].pop(key, None)
                fields["labels"].update(upsert)
            case do.Beat(worker_id, at, memory_mb, cpus):
                fields = self.workers[worker_id]
                fields["heartbeat_at"] = at
                if memory_mb is not None or cpus is not None:
                    fields |= {"memory_mb": memory_mb, "cpus": cpus}
            case do.TakeAttempt(worker_id, attempt):
                self.attempts[worker_id].add(attempt)
            case do.ReleaseAttempt(worker_id, attempt):
                self.attempts[worker_id].remove(attempt)

    def snapshot(self) -> Snapshot:
        """What the next leader finds."""
        return Snapshot(
            workflows=list(self.workflows.values()),
            definitions=dict(self.definitions),
            came={name: list(came) for name, came in self.came.items()},
            workers=[self._read_worker(worker_id) for worker_id in self.workers],
            runs=[(run, self.headers[run], dict(self.steps[run])) for run in sorted(self.active)],
            held=list(self.held.values()),
            schedules=list(self.schedules.values()),
            rates=list(self.rates.values()),
            pools=dict(self.pools),
        )

    def _read_worker(self, worker_id: str) -> Worker:
        fields = deepcopy(self.workers[worker_id])
        given = fields["given_at"]
        # a set has no order, so the next leader must not depend on one
        return Worker(**fields, attempts=dict.fromkeys(sorted(self.attempts[worker_id]), given))

"""What operators ask of Redis: workers, runs, and why a step waits."""

import time
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from ganger_broker.definitions import action_of
from ganger_broker.errors import InvalidInput
from ganger_broker.labels import MAX_CONDITIONS, Requirement, parse_desired
from ganger_broker.messages import RunError

from .core.patience import stages
from .core.records import RunHeader, StepRun, Worker
from .core.versions import actions_of, as_defined
from .explanation import Explanation, Verdict, explain, verdict
from .placement import Placement
from .store.redis_store import RedisStore

__all__ = ["StepExplanation", "explain_step", "placement_of", "stuck_steps"]


class StepExplanation(msgspec.Struct):
    """Why a real step run waits; or, where it does not, what became of it."""

    step_run: str
    status: str
    verdict: str | None
    desired_worker_labels: dict[str, Any]
    worker: str | None
    selected: str | None
    workers: list[dict[str, Any]]
    pinned: str | None = None
    patient_until: int | None = None
    waits_for: str | None = None
    retry_at: int | None = None
    error: RunError | None = None


def placement_of(workers: list[Worker]) -> Placement:
    """A placement of live workers, as the leader has it."""
    placement = Placement()
    for worker in sorted(workers, key=lambda w: (w.given_at, w.registered_at, w.id)):
        placement.join(
            worker.id,
            worker.labels,
            actions_of(worker),
            worker.slots,
            worker.used,
            is_open=worker.is_open,
        )
        coming = [label for labels in worker.coming.values() for label in labels.items()]
        placement.expect(worker.id, dict(coming))
    return placement


async def explain_step(store: RedisStore, name: str, now: int | None = None) -> StepExplanation:
    """Explain ``<run>/<step>``; an attempt's id, or the id of a run of one step, will do.

    ``now``: ms, by default this machine's.

    Raises:
        InvalidInput: there is no such step run.
    """
    run_id, step, (header, step_run) = await _find(store, name)
    workers = await store.workers()
    placement = placement_of(workers)
    requirement = _by_its_definition(
        placement, workers, header, _requirement(header, step, step_run)
    )
    explanation = explain(placement, requirement)
    pending = step_run.status == "pending"
    now = round(time.time() * 1000) if now is None else now
    patient_until = _patient_until(placement, requirement, step_run, now) if pending else None
    if patient_until is not None:
        explanation.selected = None
    return StepExplanation(
        step_run=f"{run_id}/{step}",
        status=step_run.status.value,
        verdict=verdict(explanation) if pending else None,
        patient_until=patient_until,
        waits_for=step_run.waits_for or header.queued,
        desired_worker_labels=step_run.desired_worker_labels,
        worker=step_run.worker,
        pinned=header.pinned,
        retry_at=step_run.retry_at,
        error=step_run.error,
        selected=explanation.selected if pending else None,
        workers=_with_load(explanation, workers),
    )


async def stuck_steps(store: RedisStore, names: Iterable[str], workers: list[Worker]) -> list[str]:
    """Those of these step runs that are pending and whose requirement none of the workers meets."""
    placement = placement_of(workers)
    verdicts: dict[Requirement, Verdict] = {}
    stuck = []
    for name in names:
        try:
            run_id, step, (header, step_run) = await _find(store, name)
        except InvalidInput:
            continue  # it has ended since
        requirement = _requirement(header, step, step_run)
        if requirement not in verdicts:
            verdicts[requirement] = verdict(explain(placement, requirement))
        if step_run.status == "pending" and verdicts[requirement] == "never with this fleet":
            stuck.append(f"{run_id}/{step}")
    return stuck


def _requirement(header: RunHeader, step: str, step_run: StepRun) -> Requirement:
    # a step's and a trigger's, merged: each of them had as many as may be
    desired = parse_desired(step_run.desired_worker_labels, most=2 * MAX_CONDITIONS)
    conditions = [condition for group in desired.values() for condition in group]
    requirement = Requirement.of(action_of(header.workflow, step), conditions)
    return replace(requirement, worker=header.pinned)


def _by_its_definition(
    placement: Placement, workers: list[Worker], header: RunHeader, requirement: Requirement
) -> Requirement:
    """While workers have different definitions, that of those that have the run's own."""
    known = {worker.workflows.get(header.workflow) for worker in workers if worker.is_open}
    own = replace(requirement, action=as_defined(requirement.action, header.definition))
    return own if len(known - {None}) > 1 and placement.anyone(own) else requirement


def _patient_until(
    placement: Placement, requirement: Requirement, step_run: StepRun, now: int
) -> int | None:
    """Until when the step rather waits for a worker that it prefers, ms."""
    since = step_run.pending_since or 0
    for lasts, strict in stages(placement.expecting(requirement)):
        if since + lasts > now and placement.anyone(strict):
            return since + lasts
    return None


def _with_load(explanation: Explanation, workers: list[Worker]) -> list[dict[str, Any]]:
    by_id = {worker.id: worker for worker in workers}
    return [
        {
            **msgspec.to_builtins(explained),
            "state": by_id[explained.id].state.value,
            "slots": by_id[explained.id].slots,
            "used": by_id[explained.id].used,
        }
        for explained in explanation.workers
    ]


async def _find(store: RedisStore, name: str) -> tuple[str, str, tuple[RunHeader, StepRun]]:
    run_id, _, rest = name.partition("/")
    step = rest.partition("/")[0]
    found = await store.run(run_id)
    if found is None:
        raise InvalidInput(f"there is no run {run_id!r} (or its retention is over)")
    header, steps = found
    if not step and len(steps) == 1:
        step = next(iter(steps))
    if step not in steps:
        known = ", ".join(f"{run_id}/{each}" for each in steps)
        raise InvalidInput(f"there is no step run {name!r}; this run has {known}")
    return run_id, step, (header, steps[step])

"""What operators ask of Redis: workers, runs, and why a step waits."""

import time
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from ganger_broker.definitions import action_of
from ganger_broker.errors import InvalidInput
from ganger_broker.fields import AttemptId
from ganger_broker.labels import MAX_CONDITIONS, Requirement, parse_desired
from ganger_broker.messages import RunError

from .core.patience import stages
from .core.records import Held, RunHeader, StepRun, Worker, attempt_id
from .core.states import StepStatus
from .core.sticky import bound
from .core.versions import as_defined, take_in
from .explanation import Explanation, Verdict, explain, verdict
from .placement import Placement
from .store.redis_store import RedisStore

__all__ = ["HELD", "StepExplanation", "explain_step", "placement_of", "stuck_steps"]


HELD = "held"
"""The status of what is no run yet, as no worker has registered its workflow."""


class StepExplanation(msgspec.Struct):
    """Why a real step run waits; or, where it does not, what became of it.

    ``waits_for``: what holds it up beside the workers, in words. Of a trigger that is held
    ``status`` is ``held`` and ``held_until`` is when it is given up, ms.
    """

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
    held_until: int | None = None


def placement_of(workers: list[Worker]) -> Placement:
    """A placement of live workers, as the leader has it."""
    placement = Placement()
    for worker in sorted(workers, key=lambda w: (w.given_at, w.registered_at, w.id)):
        take_in(placement, worker)
        coming = [label for labels in worker.coming.values() for label in labels.items()]
        placement.expect(worker.id, dict(coming))
    return placement


async def explain_step(store: RedisStore, name: str, now: int | None = None) -> StepExplanation:
    """Explain ``<run>/<step>``; an attempt's id, or the id of a run of one step, will do.

    ``now``: ms, by default this machine's.

    Raises:
        InvalidInput: there is no such step run.
    """
    # before the run is looked for: it may begin in between
    held = await store.held_run(name.partition("/")[0])
    if held is not None:
        return _held(held, name)
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
        waits_for=step_run.waits_for
        or header.queued
        or await _parents(store, run_id, header, step)
        or _waits_for(workers, step_run, attempt_id(run_id, step, step_run.attempt)),
        desired_worker_labels=step_run.desired_worker_labels,
        worker=step_run.worker,
        pinned=header.pinned,
        retry_at=step_run.retry_at,
        error=step_run.error,
        selected=explanation.selected if pending else None,
        workers=_with_load(explanation, workers),
    )


def _held(held: Held, name: str) -> StepExplanation:
    return StepExplanation(
        step_run="/".join(name.split("/")[:2]),
        status=HELD,
        verdict=None,
        desired_worker_labels=held.trigger.desired_worker_labels,
        worker=None,
        selected=None,
        workers=[],
        waits_for=f"a worker with the workflow {held.trigger.workflow!r}; none has registered it",
        held_until=held.until,
    )


async def _parents(store: RedisStore, run_id: str, header: RunHeader, step: str) -> str | None:
    """The parents that a step waits for, each with its status."""
    found = await store.run(run_id)
    steps = {} if found is None else found[1]
    if step not in steps or steps[step].status is not StepStatus.WAITING:
        return None
    definition = await store.definition(header.workflow, header.definition)
    every = () if definition is None else definition.every_step()
    parents = [parent for each in every if each.name == step for parent in each.parents]
    undone = [p for p in parents if steps[p].status is not StepStatus.SUCCEEDED]
    named = ", ".join(f"{run_id}/{parent} ({steps[parent].status})" for parent in undone)
    return f"its parents: {named}" if named else None


def _waits_for(workers: list[Worker], step_run: StepRun, attempt: AttemptId) -> str | None:
    """What an attempt that runs waits for, by what its worker has said of it.

    Which of the steps that need a slot again has one already is known to the worker only.
    """
    worker = next((worker for worker in workers if worker.id == step_run.worker), None)
    word = 0 if worker is None else worker.waits.get(attempt, 0)
    if worker is None or not word:
        return None
    if word % 2:
        return "the end of another run, and its slot is for others meanwhile"
    if worker.used <= worker.slots:
        return None
    slots = "1 slot" if worker.slots == 1 else f"{worker.slots} slots"
    return (
        f"a slot of {worker.id} again, since the run that it waited for has ended: "
        f"{worker.used} steps there need one of {slots}"
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
    return bound(requirement, header)


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
    since = step_run.waits_since or 0
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
    if not steps:
        raise InvalidInput(f"run {run_id!r} has no steps: it was {header.status} before it began")
    if step not in steps:
        known = ", ".join(f"{run_id}/{each}" for each in steps)
        raise InvalidInput(f"there is no step run {name!r}; this run has {known}")
    return run_id, step, (header, steps[step])

"""Steps that stay with a worker: which one, and what becomes of them when it is lost."""

import sys

from msgspec.structs import replace

from ganger_broker.definitions import StickyOnLoss, StickyStrategy
from ganger_broker.labels import Requirement, conditions_to_desired, parse_desired
from ganger_broker.pool_labels import POOL

from .effects import StoreRun, Unpin
from .records import Run, RunHeader
from .state import State
from .states import StepStatus

__all__ = [
    "LENT_WITHIN",
    "bound",
    "may_repin",
    "pin",
    "preferred",
    "requirement_of",
    "soon_lent",
    "unpin",
]

LENT_WITHIN = 500
"""Milliseconds that a child waits for its parent to say that it waits for it."""


def requirement_of(run: Run, name: str) -> Requirement:
    """What the step requires now: with HARD, the run's worker too, once it has one."""
    return bound(run.requirements[name], run.header)


def bound(requirement: Requirement, header: RunHeader) -> Requirement:
    """The requirement of a step in a run: only the worker that the run is pinned to; or one to
    pin it to anew, which is chosen by the first steps' labels as the one before was."""
    if header.pinned is not None:
        return replace(requirement, worker=header.pinned)
    if header.pin_desires is None:
        return requirement
    desired = parse_desired(header.pin_desires, most=sys.maxsize)  # those of several steps
    more = [condition for group in desired.values() for condition in group]
    return Requirement.of(requirement.action, {*requirement.conditions, *more})


def preferred(run: Run, name: str) -> str | None:
    """With SOFT, the worker that ran the step before: of its parents the one that ended last;
    of the step for failures, what failed last.

    A child's first steps follow the step that spawned it, where it is to.
    """
    definition = run.definitions[name]
    if definition is run.workflow.on_failure:
        before = [step for step in run.steps.values() if step.status is StepStatus.FAILED]
    elif definition.parents:
        before = [run.steps[parent] for parent in definition.parents]
    else:
        return run.header.sticky_to
    if _strategy(run) is not StickyStrategy.SOFT:
        return None
    last = max(before, key=lambda step: step.finished_at or 0, default=None)
    return last.worker if last is not None else None


def soon_lent(state: State, run: Run, name: str, prefer: str | None) -> bool:
    """Whether a child's first step is to be on the worker of the step that spawned it, which has
    its slot still. That most likely waits for the child next, and lends it the slot; its word for
    that may come after the child, by another queue."""
    definition = run.definitions[name]
    if prefer is None or definition.parents or definition is run.workflow.on_failure:
        return False
    worker = state.workers.get(prefer)
    if worker is None or not worker.is_open or _strategy(run) is StickyStrategy.HARD:
        return False
    if state.deaf_since is not None:
        return False  # its word for that is not to be had soon
    parent = f"{run.header.parent}/"
    return any(a.startswith(parent) and not worker.waits.get(a, 0) % 2 for a in worker.attempts)


def _strategy(run: Run) -> StickyStrategy | None:
    """Its workflow's; SOFT of a child that is to stay with its parent, where that has none."""
    own = run.workflow.definition.sticky
    return StickyStrategy.SOFT if own is None and run.header.sticky_to is not None else own


def pin(state: State, run: Run, worker: str) -> bool:
    """With HARD, the first worker is the run's only one; whether it is that from now on."""
    hard = run.workflow.definition.sticky is StickyStrategy.HARD
    if not hard or run.header.pinned is not None:
        return False
    run.header = replace(run.header, pinned=worker)
    state.emit(StoreRun(run.id, run.header))
    return True


def unpin(state: State, run: Run) -> None:
    """The next worker is to be the run's one; it has to meet what the first steps required. (Their
    pool is that of all, and may be another by then.)"""
    first = [name for name, step in run.definitions.items() if not step.parents]
    conditions = {c for name in first for c in run.requirements[name].conditions}
    required = [c for c in conditions if c.required and c.key != POOL]
    desires = conditions_to_desired(sorted(required, key=repr)) or None
    run.header = replace(run.header, pinned=None, pin_desires=desires)
    state.emit(Unpin(run.id), StoreRun(run.id, run.header))


def may_repin(state: State, run: Run) -> bool:
    """Whether the run's worker is gone and another may take its place."""
    repin = run.workflow.definition.sticky_on_loss is StickyOnLoss.REPIN
    return repin and run.header.pinned is not None and run.header.pinned not in state.workers

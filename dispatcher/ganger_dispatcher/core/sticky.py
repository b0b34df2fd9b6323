"""Steps that stay with a worker: which one, and what becomes of them when it is lost."""

from msgspec.structs import replace

from ganger_broker.definitions import StickyOnLoss, StickyStrategy
from ganger_broker.labels import Requirement

from .effects import StoreRun, Unpin
from .records import Run
from .state import State
from .states import StepStatus

__all__ = ["may_repin", "pin", "preferred", "requirement_of", "unpin"]


def requirement_of(run: Run, name: str) -> Requirement:
    """What the step requires now: with HARD, the run's worker too, once it has one."""
    requirement = run.requirements[name]
    if run.header.pinned is None:
        return requirement
    return replace(requirement, worker=run.header.pinned)


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
    """The next worker is to be the run's one."""
    run.header = replace(run.header, pinned=None)
    state.emit(Unpin(run.id))


def may_repin(state: State, run: Run) -> bool:
    """Whether the run's worker is gone and another may take its place."""
    repin = run.workflow.definition.sticky_on_loss is StickyOnLoss.REPIN
    return repin and run.header.pinned is not None and run.header.pinned not in state.workers

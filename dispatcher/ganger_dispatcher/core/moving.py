"""Steps whose machines are replaced by others while their run is under way."""

from typing import Any

from msgspec.structs import replace

from ganger_broker.labels import Requirement
from ganger_broker.pool_labels import desired_in_pool, in_pool

from .patience import plain
from .records import Run
from .state import State

__all__ = ["desires", "follow_pool"]


def desires(run: Run, name: str, pool: str | None) -> dict[str, Any]:
    """What a step of a run desires, as it is written, with the pool that it is to run in."""
    definition = run.definitions[name]
    desired = {**definition.desired_worker_labels, **run.header.desired_worker_labels}
    return desired if pool is None else desired_in_pool(desired, pool)


def follow_pool(state: State, run: Run, name: str) -> bool:
    """Machines may be replaced by others while runs are under way: a step of an older definition
    whose pool has no workers any more goes to the pool that the newest one has for it.

    Whether there is another pool for it than its own, so that it may have to move again.
    """
    own = run.definitions[name].pool
    if own is None:
        return False
    newest = state.workflows.get(run.header.workflow)
    definition = newest.steps.get(name) if newest is not None else None
    other = (definition.pool if definition is not None else None) or own
    now = run.pools.get(name, own)
    if own == other == now:
        return False
    home = _in(own, now, run.requirements[name])
    pool = own if other == own or state.placement.anyone(plain(home)) else other
    if pool != now:
        run.pools[name] = pool
        run.requirements = {**run.requirements, name: _in(pool, own, home)}
        run.steps[name] = replace(run.steps[name], desired_worker_labels=desires(run, name, pool))
    return other != own


def _in(pool: str, before: str, requirement: Requirement) -> Requirement:
    """The requirement in this pool in place of the one before."""
    moved = [in_pool(pool) if c == in_pool(before) else c for c in requirement.conditions]
    return replace(Requirement.of(requirement.action, moved), worker=requirement.worker)

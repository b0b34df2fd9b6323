"""What pools of workers have to do, and how many replicas each wants (see ``scaling``).

Of a pool's workers those count that take steps. One that drains, is paused, or whose queue is gone,
takes none, so its slots are no capacity; and what still runs there needs none elsewhere. A pending
step counts where any worker of the pool would help it: not one that a rate limit holds, nor one
pinned to a worker.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ganger_broker.deployments import PoolLoad
from ganger_broker.pool_labels import POOL

from .effects import DropPool, StorePool
from .records import Worker, WorkerState
from .scaling import Wanted, follow
from .state import State

__all__ = ["Pool", "loads", "look", "noticed", "restore", "watch"]

_EVERY = 1000
"""Milliseconds between two looks at the pools."""
_KEPT = 86_400_000
"""Milliseconds for which a pool without workers and pending steps is kept: one that is scaled
to nothing over night still knows in the morning how many slots its replicas have."""


class Pool:
    """What is known of a pool: its load as it is stored, and what that wants. ``let_go``: workers
    that were paused; resumed, because another one is away, they do not come unasked, until as many
    are wanted as there are."""

    __slots__ = ("idle_since", "let_go", "load", "looked_at", "wanted")

    def __init__(self, load: PoolLoad, looked_at: int) -> None:
        self.load = load
        self.wanted = Wanted(load.wanted)
        self.looked_at = looked_at
        self.idle_since: int | None = None
        self.let_go: set[str] = set()


def restore(state: State, stored: Mapping[str, PoolLoad]) -> None:
    """After a take-over: what was wanted still is, and the windows begin anew."""
    state.pools = {name: Pool(load, state.now) for name, load in stored.items()}
    if state.pools:
        watch(state)


def noticed(state: State, labels: Mapping[str, Any]) -> None:
    """A worker has these labels: where they are those of a pool, it is looked at."""
    if POOL in labels:
        watch(state)


def watch(state: State) -> None:
    """There are pools: look at them now and then."""
    if not state.pools_watched:
        state.pools_watched = True
        state.wake(state.now + _EVERY, "pools", "")


def loads(state: State) -> dict[str, PoolLoad]:
    """What each pool has to do, as it was last seen."""
    return {name: pool.load for name, pool in state.pools.items()}


def look(state: State, _: str) -> None:
    """See what the pools have to do, and what that wants."""
    state.pools_watched = False
    workers = _by_pool(state)
    pending = state.placement.backlog.pools
    for name in sorted({*state.pools, *workers, *pending}):
        _look_at(state, name, workers.get(name, []), pending.get(name, 0))
    if state.pools:
        watch(state)


def _by_pool(state: State) -> dict[str, list[Worker]]:
    found: dict[str, list[Worker]] = {}
    for worker in state.workers.values():
        pool = worker.labels.get(POOL)
        if isinstance(pool, str):
            found.setdefault(pool, []).append(worker)
    return found


def _look_at(state: State, name: str, workers: list[Worker], pending: int) -> None:
    known = state.pools.get(name)
    pool = known or Pool(PoolLoad(0, 0, 0, 0, 0, state.now), state.now)
    if _is_over(state, pool, idle=not workers and not pending):
        del state.pools[name]
        state.emit(DropPool(name))
        return
    state.pools[name] = pool
    there = [worker for worker in workers if worker.is_open]
    load = _measured(pool, there, pending, state.now)
    pool.let_go = {
        each.id for each in workers if each.state is WorkerState.PAUSED or each.id in pool.let_go
    }
    come = sum(worker.id not in pool.let_go for worker in there)
    came_and_went = any(worker.given_at >= pool.looked_at for worker in there)
    pool.wanted = follow(
        state.policy.scaling,
        pool.wanted,
        demand=max(load.used + pending, int(came_and_went)),
        slots_each=load.slots_each,
        come=come if load.workers > pool.load.workers else 0,
        now=state.now,
    )
    if pool.wanted.replicas >= len(there):
        pool.let_go.difference_update(worker.id for worker in there)
    pool.looked_at = state.now
    load = replace(load, wanted=pool.wanted.replicas)
    if known is None or replace(load, at=pool.load.at) != pool.load:
        pool.load = load
        state.emit(StorePool(name, load))


def _measured(pool: Pool, workers: list[Worker], pending: int, now: int) -> PoolLoad:
    slots = sum(worker.slots for worker in workers)
    each = slots / len(workers) if workers else pool.load.slots_each
    used = sum(worker.used for worker in workers)
    return PoolLoad(len(workers), slots, used, pending, pool.load.wanted, now, each)


def _is_over(state: State, pool: Pool, *, idle: bool) -> bool:
    """Whether nobody is there and nothing waits, and that for long."""
    if not idle:
        pool.idle_since = None
    elif pool.idle_since is None:
        pool.idle_since = state.now
    return pool.idle_since is not None and state.now - pool.idle_since >= _KEPT

"""What a dispatcher says of itself to monitors, as one value that another thread may read."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

from ganger_broker.deployments import PoolLoad
from ganger_broker.errors import StoreError

from .core.pools import loads
from .core.state import State
from .store.redis_store import RedisStore

__all__ = ["Figures", "Metrics"]

_EVERY = 1.0
"""Seconds between two looks: monitors ask more seldom than that."""
_NONE: Mapping[str, Any] = MappingProxyType({})


class Figures(NamedTuple):
    """What can be said at one moment; by default what a standby says.

    ``pending_steps`` wait for a worker or a rate limit. ``counters`` are those of
    ``ganger:stats``, whoever counted them.
    """

    leading: bool = False
    pending_steps: int = 0
    live_workers: int = 0
    pools: Mapping[str, PoolLoad] = _NONE
    counters: Mapping[str, int] = _NONE


class Metrics:
    """Has the newest ``figures``. They are never changed, only replaced, so any thread may read
    them; the event loop of the dispatcher replaces them."""

    def __init__(self) -> None:
        self.figures = Figures()

    async def follow(self, state: State, store: RedisStore) -> None:
        """Keep the figures those of this leader; when this is cancelled, those of a standby."""
        counters: Mapping[str, int] = _NONE
        try:
            while True:
                with suppress(StoreError):  # the term says that Redis is away
                    counters = await store.counters()
                pending = len(state.placement.backlog) + len(state.limited)
                self.figures = Figures(True, pending, len(state.workers), loads(state), counters)
                await asyncio.sleep(_EVERY)
        finally:
            self.figures = Figures()

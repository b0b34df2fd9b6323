"""Rate limits: how many units of a key are given in any window of a length.

The window slides by sixtieths: units count until the sixtieth they were given in has left it
as a whole. So in no window of that length more than the limit is given, and a little of it may
be given late.
"""

from collections.abc import Mapping
from heapq import heappop, heappush

from ganger_broker.definitions import RateLimit

from .effects import StoreRate
from .records import RateUse, Run
from .state import State

__all__ = ["Rate", "blocked_by", "next_waiting", "take", "wait_for"]

_PARTS = 60


class Rate:
    """A limit, what was given of it lately, and the step runs that wait for it."""

    def __init__(self, limit: RateLimit, used: Mapping[int, int]) -> None:
        """``used``: start of a sixtieth, ms → the units given in it."""
        self.limit = limit
        self.used = dict(used)
        self.waiting: list[tuple[int, int, str]] = []
        self.looked_at: int | None = None
        """When it is looked at again for those that wait; one wake-up does for all."""

    @property
    def window(self) -> int:
        """Its length, ms."""
        return round(self.limit.per * 1000)

    @property
    def _part(self) -> int:
        return max(1, self.window // _PARTS)

    def room_at(self, units: int, now: int) -> int:
        """When so many units may be given: ``now``, or later."""
        self._forget(now)
        if units > self.limit.limit:  # it was lowered since: there never is, as it stands
            return now + self.window
        over = sum(self.used.values()) + units - self.limit.limit
        room = now
        for start in sorted(self.used):
            if over <= 0:
                break
            over -= self.used[start]
            room = start + self._part + self.window
        return room

    def take(self, units: int, now: int) -> None:
        """Give them."""
        start = now - now % self._part
        self.used[start] = self.used.get(start, 0) + units

    def _forget(self, now: int) -> None:
        horizon = now - self.window - self._part
        for start in [start for start in self.used if start <= horizon]:
            del self.used[start]


def blocked_by(
    state: State, run: Run, name: str, *, in_turn: bool = False
) -> tuple[str, int] | None:
    """The key of a limit that has no room for the step, and when it may; None: go.

    Nor may it overtake a step that waits for that limit, unless its turn is before that one's;
    ``in_turn``: it is known that it does not.
    """
    step = run.steps[name]
    own = state.turn(run.header.priority, step.pending_since or state.now)
    for key, units in run.definitions[name].rate_limits.items():
        rate = state.rates.get(key)
        if rate is None:
            continue
        first = next_waiting(state, key)
        room = rate.room_at(units, state.now)
        overtakes = first is not None and first[0] <= own
        if room > state.now or (overtakes and not in_turn):
            return key, max(room, state.now + 1)
    return None


def take(state: State, run: Run, name: str) -> None:
    """The step is given to a worker: its units are given."""
    for key, units in run.definitions[name].rate_limits.items():
        rate = state.rates.get(key)
        if rate is not None:
            rate.take(units, state.now)
            state.emit(StoreRate(RateUse(rate.limit, dict(rate.used))))


def wait_for(state: State, key: str, step_run: str, turn: int) -> None:
    """The step run waits for this limit, in its turn."""
    state.sequence += 1
    state.limited[step_run] = (key, state.sequence)
    heappush(state.rates[key].waiting, (turn, state.sequence, step_run))


def next_waiting(state: State, key: str) -> tuple[int, int, str] | None:
    """Whose turn it is of those that wait for this limit."""
    waiting = state.rates[key].waiting
    while waiting and state.limited.get(waiting[0][2]) != (key, waiting[0][1]):
        heappop(waiting)  # placed, ended, or waiting anew since
    return waiting[0] if waiting else None

"""Rate limits: how many units of a key are given in any window of a length.

The window slides by sixtieths: units count until the sixtieth they were given in has left it
as a whole. So in no window of that length more than the limit is given, and a little of it may
be given late.
"""

from collections.abc import Mapping
from heapq import heappop, heappush

from msgspec.structs import replace

from ganger_broker.definitions import RateLimit

from .effects import AddPending, Note, StoreRate, StoreStep
from .records import RateUse, Run, StepRun, step_run_id
from .state import State

__all__ = [
    "Rate",
    "blocked_by",
    "count_on",
    "has_room",
    "held_back",
    "look_at",
    "next_waiting",
    "take",
]

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
    state: State, run: Run, name: str, *, in_turn: str | None = None
) -> tuple[str, int] | None:
    """The key of a limit that has no room for the step, and when it may; None: go.

    Nor may it overtake a step that waits for that limit, unless its turn is before that one's;
    ``in_turn``: the key of the one limit in which it is known that it does not.
    """
    for key, units in run.definitions[name].rate_limits.items():
        rate = state.rates.get(key)
        if rate is None:
            continue
        first = next_waiting(state, key)
        room = rate.room_at(units, state.now)
        overtakes = first is not None and first[0] <= _turn(state, run, name)
        if room > state.now or (overtakes and key != in_turn):
            return key, max(room, state.now + 1)
        kept_until = _kept_until(state, run, name, key)
        if kept_until is not None:
            return key, kept_until
    return None


def _kept_until(state: State, run: Run, name: str, key: str) -> int | None:
    """When to look again at a limit whose room is kept for others; None: there is enough.

    A step waits for one limit at a time. Where it is the first that waits for one, its units of
    the slower ones are kept for it: were they given to later steps meanwhile, it would have to
    wait for those next, and so on for ever. Of the faster ones nothing is, they would stand still.
    """
    kept, until = 0, state.now + 1
    for other in state.rates:
        first = next_waiting(state, other) if _is_faster(state, other, key) else None
        if first is None or first[0] > _turn(state, run, name):
            continue
        run_id, _, its_name = first[2].partition("/")
        units = state.runs[run_id].definitions[its_name].rate_limits
        if first[2] != step_run_id(run.id, name) and key in units and _fits(state, units):
            kept += units[key]
            until = max(until, state.rates[other].looked_at or 0)
    rate, own = state.rates[key], run.definitions[name].rate_limits[key]
    return until if kept and rate.room_at(own + kept, state.now) > state.now else None


def _is_faster(state: State, one: str, other: str) -> bool:
    """In an order of all limits: steps that keep room of one for each other are in no circle."""
    return (state.rates[one].window, one) < (state.rates[other].window, other)


def _fits(state: State, units: Mapping[str, int]) -> bool:
    """Whether there can be room for these: no limit was lowered since below what it takes."""
    rates = state.rates
    return all(n <= rates[key].limit.limit for key, n in units.items() if key in rates)


def _turn(state: State, run: Run, name: str) -> int:
    return state.turn(run.header.priority, run.steps[name].pending_since or state.now)


def take(state: State, run: Run, name: str) -> None:
    """The step is given to a worker: its units are given."""
    for key, units in run.definitions[name].rate_limits.items():
        rate = state.rates.get(key)
        if rate is not None:
            rate.take(units, state.now)
            state.emit(StoreRate(RateUse(rate.limit, dict(rate.used))))


def held_back(state: State, run: Run, name: str, *, in_turn: str | None = None) -> bool:
    """Whether a rate limit has no room for the step now; then it waits for that, in its turn.

    Its schedule time-out does not run meanwhile: that is for want of workers.
    """
    blocked = blocked_by(state, run, name, in_turn=in_turn)
    if blocked is None:
        return False
    key, room_at = blocked
    text = _text(state.rates[key].limit)
    step = replace(run.steps[name], waits_for=text, limited_since=state.now)
    run.steps[name] = step
    step_run = step_run_id(run.id, name)
    state.sequence += 1
    state.limited[step_run] = (key, state.sequence)
    heappush(state.rates[key].waiting, (_turn(state, run, name), state.sequence, step_run))
    look_at(state, key, room_at)
    state.emit(
        StoreStep(run.id, name, step),
        AddPending(step_run, step.deadline or state.now),
        Note("limited", {"step_run": step_run, "key": key}),
    )
    count_on(state, run, name, key)
    return True


def _text(limit: RateLimit) -> str:
    return f"rate limit {limit.key!r}: {limit.limit} per {limit.per:g} s"


def has_room(state: State, run: Run, name: str) -> StepRun:
    """No limit holds the step back now: what it waits for from here on is a worker."""
    step = run.steps[name]
    if step.waits_for is not None:
        # nor did its patience run meanwhile
        held = state.now - step.limited_since if step.limited_since is not None else 0
        since = (step.waits_since or state.now) + held
        step = replace(_counting(state, step), waits_for=None, patient_since=since)
        run.steps[name] = step
    return step


def _counting(state: State, step: StepRun) -> StepRun:
    """Its schedule time-out runs, and has not run while a limit held it back."""
    if step.limited_since is None:
        return step
    deadline = (step.deadline or state.now) + state.now - step.limited_since
    return replace(step, deadline=deadline, limited_since=None)


def count_on(state: State, run: Run, name: str, key: str) -> None:
    """Where the limit was lowered and never has room for the step, as it stands, its schedule
    time-out runs all the same."""
    step = run.steps[name]
    limit, units = state.rates[key].limit, run.definitions[name].rate_limits[key]
    if units > limit.limit and step.limited_since is not None:
        step = run.steps[name] = replace(_counting(state, step), waits_for=_text(limit))
        step_run, deadline = step_run_id(run.id, name), step.deadline or state.now
        state.wake(deadline, "pending", step_run)
        state.emit(StoreStep(run.id, name, step), AddPending(step_run, deadline))


def look_at(state: State, key: str, at: int) -> None:
    """Look at the limit then, unless that is done before."""
    rate = state.rates[key]
    if rate.looked_at is None or at < rate.looked_at:
        rate.looked_at = at
        state.wake(at, "rate", key)


def next_waiting(state: State, key: str) -> tuple[int, int, str] | None:
    """Whose turn it is of those that wait for this limit."""
    waiting = state.rates[key].waiting
    while waiting and state.limited.get(waiting[0][2]) != (key, waiting[0][1]):
        heappop(waiting)  # placed, ended, or waiting anew since
    return waiting[0] if waiting else None

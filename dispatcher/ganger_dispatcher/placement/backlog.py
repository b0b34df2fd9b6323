"""Pending steps by signature, found from a worker's side.

When a worker changes, only the signatures it may now satisfy are looked at. Each
signature with pending steps waits under one *guard*, a required condition that a
worker must meet before anything else of the signature counts: an exact value, found
by hashing; else a numeric bound, found by bisection; else none. 100,000 signatures
that want ``customer = …`` cost a worker without that label nothing. Steps pinned to a
worker are found by its id.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, KeysView, Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from ganger_broker.labels import Condition, LabelValue, Requirement, WorkerLabelComparator
from ganger_broker.pool_labels import pool_of

__all__ = ["Backlog", "PendingStep"]

Op = WorkerLabelComparator

_SLACK = 64
"""Turns of steps that are gone which a queue may hold beyond one a pending step."""

_FEW_KEYS = 16
"""Guards on so many label keys are held against the keys of the whole fleet first: that needs
nothing of the worker's own, which in a large fleet is in no cache of the processor."""

_ABOVE = {Op.GREATER_THAN, Op.GREATER_THAN_OR_EQUAL}
_BELOW = {Op.LESS_THAN, Op.LESS_THAN_OR_EQUAL}


class PendingStep(NamedTuple):
    """A pending step in the order of its turn: the lowest first, then the one added first."""

    turn: int
    sequence: int
    step_run: str


class _Bounds:
    """Requirements that want more (or less) than a number under one key."""

    def __init__(self) -> None:
        self._bounds: list[tuple[float, int]] = []
        self._requirements: dict[int, Requirement] = {}
        self._numbers: dict[Requirement, int] = {}
        self._next = 0

    def add(self, bound: float, requirement: Requirement) -> None:
        self._next += 1
        self._numbers[requirement] = self._next
        self._requirements[self._next] = requirement
        insort(self._bounds, (bound, self._next))

    def remove(self, bound: float, requirement: Requirement) -> None:
        number = self._numbers.pop(requirement)
        del self._requirements[number]
        del self._bounds[bisect_left(self._bounds, (bound, number))]

    def up_to(self, value: float) -> Iterator[Requirement]:
        end = bisect_right(self._bounds, (value, self._next))
        return (self._requirements[number] for _, number in self._bounds[:end])

    def __bool__(self) -> bool:
        return bool(self._bounds)


class _KeyGuards:
    """Signatures guarded by a condition on one label key."""

    def __init__(self) -> None:
        self.exact: dict[LabelValue, dict[Requirement, None]] = {}
        self.above = _Bounds()
        self.below = _Bounds()

    def __bool__(self) -> bool:
        return bool(self.exact or self.above or self.below)

    def add(self, guard: Condition, requirement: Requirement) -> None:
        if guard.comparator is Op.EQUAL:
            self.exact.setdefault(guard.value, {})[requirement] = None  # type: ignore[arg-type]
        elif guard.comparator in _ABOVE:
            self.above.add(float(guard.value), requirement)  # type: ignore[arg-type]
        else:
            self.below.add(-float(guard.value), requirement)  # type: ignore[arg-type]

    def remove(self, guard: Condition, requirement: Requirement) -> None:
        if guard.comparator is Op.EQUAL:
            held = self.exact[guard.value]  # type: ignore[index]
            del held[requirement]
            if not held:
                del self.exact[guard.value]  # type: ignore[arg-type]
        elif guard.comparator in _ABOVE:
            self.above.remove(float(guard.value), requirement)  # type: ignore[arg-type]
        else:
            self.below.remove(-float(guard.value), requirement)  # type: ignore[arg-type]

    def open_to(self, value: LabelValue) -> Iterator[Requirement]:
        yield from self.exact.get(value, ())
        if not isinstance(value, str):
            yield from self.above.up_to(value)
            yield from self.below.up_to(-value)


class _Guards:
    """The signatures of one action that have pending steps, by their guards."""

    def __init__(self) -> None:
        self.none: dict[Requirement, None] = {}
        self.by_key: dict[str, _KeyGuards] = {}
        self.by_worker: dict[str, dict[Requirement, None]] = {}

    def __bool__(self) -> bool:
        return bool(self.none or self.by_key or self.by_worker)

    def add(self, requirement: Requirement) -> None:
        if requirement.worker is not None:
            self.by_worker.setdefault(requirement.worker, {})[requirement] = None
            return
        guard = _guard(requirement)
        if guard is None:
            self.none[requirement] = None
        else:
            self.by_key.setdefault(guard.key, _KeyGuards()).add(guard, requirement)

    def remove(self, requirement: Requirement) -> None:
        if requirement.worker is not None:
            pinned = self.by_worker[requirement.worker]
            del pinned[requirement]
            if not pinned:
                del self.by_worker[requirement.worker]
            return
        guard = _guard(requirement)
        if guard is None:
            del self.none[requirement]
            return
        guards = self.by_key[guard.key]
        guards.remove(guard, requirement)
        if not guards:
            del self.by_key[guard.key]

    def may_open_to(self, keys: KeysView[str], worker: str) -> bool:
        """Whether any guard may be met by this worker, in a fleet whose labels have these keys."""
        if self.none or worker in self.by_worker or len(self.by_key) > _FEW_KEYS:
            return True
        return not self.by_key.keys().isdisjoint(keys)

    def open_to(self, labels: Mapping[str, LabelValue], worker: str) -> list[Requirement]:
        """The signatures whose guard this worker meets (or nearly: a bound counts as met)."""
        found = [*self.none, *self.by_worker.get(worker, ())]
        by_key = self.by_key
        # whichever is shorter: guards are on few keys, or a worker has few labels
        keys = by_key if len(by_key) < len(labels) else labels
        for key in keys:
            if key in labels and key in by_key:
                found += by_key[key].open_to(labels[key])
        return found


def _guard(requirement: Requirement) -> Condition | None:
    """The condition to look a signature up by: the most telling of its required ones."""
    bound = None
    for condition in requirement.conditions:
        if condition.required:
            if condition.comparator is Op.EQUAL:
                return condition
            if condition.comparator in _ABOVE | _BELOW and not isinstance(condition.value, str):
                bound = condition
    return bound


class _Signature:
    """The pending steps of one signature: their turns, how many, and the pool they wait for.

    Steps pinned to a worker wait for that one: no other of its pool would help them.
    """

    __slots__ = ("count", "pool", "turns")

    def __init__(self, requirement: Requirement) -> None:
        self.turns: list[PendingStep] = []
        self.count = 0
        self.pool = pool_of(requirement.conditions) if requirement.worker is None else None


class Backlog:
    """All pending steps. It decides whose turn it is, not where a step goes."""

    def __init__(self) -> None:
        self._requirement_of: dict[str, Requirement] = {}
        self._turn_of: dict[str, PendingStep] = {}
        self._signatures: dict[Requirement, _Signature] = {}
        self._guards: dict[str, _Guards] = {}
        self._sequence = 0
        self.version = 0
        """Another whenever the signatures with pending steps are others."""
        self.pools: dict[str, int] = {}
        """How many steps wait for any worker of a pool, by pool; only those with some."""

    def __len__(self) -> int:
        return len(self._requirement_of)

    def __contains__(self, step_run: str) -> bool:
        return step_run in self._requirement_of

    def requirement_of(self, step_run: str) -> Requirement:
        """What a pending step waits for."""
        return self._requirement_of[step_run]

    def in_turn(self) -> list[str]:
        """All pending steps, in their turn."""
        return [turn.step_run for turn in sorted(self._turn_of.values())]

    def add(self, step_run: str, requirement: Requirement, turn: int) -> None:
        """A step that nobody can take now; the lowest ``turn`` goes first."""
        self._sequence += 1
        step = PendingStep(turn, self._sequence, step_run)
        self._requirement_of[step_run] = requirement
        self._turn_of[step_run] = step
        signature = self._signatures.get(requirement)
        if signature is None:
            signature = self._signatures[requirement] = _Signature(requirement)
            self.version += 1
            self._guards.setdefault(requirement.action, _Guards()).add(requirement)
        heappush(signature.turns, step)
        signature.count += 1
        if signature.pool is not None:
            self.pools[signature.pool] = self.pools.get(signature.pool, 0) + 1

    def remove(self, step_run: str) -> None:
        """The step is pending no more: placed, cancelled or timed out."""
        requirement = self._requirement_of.pop(step_run)
        del self._turn_of[step_run]
        signature = self._signatures[requirement]
        signature.count -= 1
        if signature.pool is not None:
            self._leave_pool(signature.pool)
        if not signature.count:
            self.version += 1
            del self._signatures[requirement]
            guards = self._guards[requirement.action]
            guards.remove(requirement)
            if not guards:
                del self._guards[requirement.action]
        elif len(signature.turns) > 2 * signature.count + _SLACK:
            self._tidy(signature)

    def _leave_pool(self, pool: str) -> None:
        self.pools[pool] -= 1
        if not self.pools[pool]:
            del self.pools[pool]

    def _tidy(self, signature: _Signature) -> None:
        """Drop the turns of steps that are pending no more."""
        live = [turn for turn in signature.turns if self._turn_of.get(turn.step_run) is turn]
        heapify(live)
        signature.turns = live

    def may_open_to(self, actions: frozenset[str], keys: KeysView[str], worker: str) -> bool:
        """Whether ``open_to`` may find any, in a fleet whose labels have these keys."""
        for action, guards in self._guards.items():
            if action in actions and guards.may_open_to(keys, worker):
                return True
        return False

    def open_to(
        self, actions: frozenset[str], labels: Mapping[str, LabelValue], worker: str
    ) -> list[Requirement]:
        """Signatures with pending steps that this worker, its actions and labels may satisfy."""
        found: list[Requirement] = []
        for action, guards in self._guards.items():
            if action in actions:
                found += guards.open_to(labels, worker)
        return found

    def pins_of(self, worker: str) -> list[Requirement]:
        """The signatures of pending steps that only this worker may take."""
        every = self._guards.values()
        return [pin for guards in every for pin in guards.by_worker.get(worker, ())]

    def pinned_to(self, worker: str) -> list[str]:
        """The pending steps that only this worker may take, in their turn."""
        turns = [
            turn
            for requirement in self.pins_of(worker)
            for turn in self._signatures[requirement].turns
            if self._turn_of.get(turn.step_run) is turn
        ]
        return [turn.step_run for turn in sorted(turns)]

    def first(self, requirement: Requirement) -> PendingStep:
        """The step of this signature whose turn it is."""
        turns = self._signatures[requirement].turns
        while self._turn_of.get(turns[0].step_run) is not turns[0]:
            heappop(turns)  # placed, cancelled or timed out since
        return turns[0]

"""How many replicas a pool wants, from what it has to do.

The *demand* is the slots in use and the pending steps, together. The *capacity* is the slots of
the replicas that are wanted, not of those that are there: so it makes no difference how fast
they come and go, or whether anybody follows the hint at all.

- **Up, at once**: where the demand is over ``up`` of the capacity, as many replicas are wanted
  as it takes to bring it down to that.
- **Down, slowly**: only when the demand was under ``down`` of the capacity, each time it was
  looked at, for a whole ``window``; then as many as the highest demand in it needs, and the next
  window begins. That many have room for this demand, so it alone never calls for more again;
  and what is pending for a moment does not move it down and up.
- **Replicas that come unasked count as wanted** until a window says otherwise: a pool that is
  just being started, or that somebody scaled by hand, is not told to shrink at once.
- A step that came and went between two looks is a demand of one: a pool that is in use now and
  then is not scaled to nothing between two short steps.
- Never fewer than ``least`` or more than ``most``; and as any demand needs one replica, a pool
  with something pending wants at least that.
"""

from math import ceil
from typing import NamedTuple

__all__ = ["Scaling", "Wanted", "follow"]


class Scaling(NamedTuple):
    """The thresholds; ``window`` is in ms."""

    window: int = 60_000
    up: float = 0.8
    down: float = 0.5
    least: int = 0
    most: int = 1000

    def needed(self, demand: int, slots_each: float) -> int:
        """Replicas of so many slots that ``demand`` keeps busy up to ``up``."""
        # rounded, as 21 of 30 slots are 0.7 of them and not a little more
        return self.bounded(ceil(round(demand / (self.up * slots_each), 9)))

    def bounded(self, replicas: int) -> int:
        """Not fewer than ``least``, not more than ``most``."""
        return min(self.most, max(self.least, replicas))


class Wanted(NamedTuple):
    """The replicas wanted; since when there has been little to do, ms, and the most of it."""

    replicas: int
    calm_since: int | None = None
    highest: int = 0


def follow(
    scaling: Scaling, wanted: Wanted, *, demand: int, slots_each: float, come: int, now: int
) -> Wanted:
    """What is wanted now. ``come``: how many replicas there are, where some are new; else 0."""
    replicas = scaling.bounded(wanted.replicas)
    more = max(scaling.needed(demand, slots_each), scaling.bounded(come))
    if more > replicas:
        return Wanted(more)
    if demand >= scaling.down * replicas * slots_each:
        return Wanted(replicas)
    if wanted.calm_since is None or replicas != wanted.replicas:
        return Wanted(replicas, now, demand)
    highest = max(demand, wanted.highest)
    if now - wanted.calm_since < scaling.window:
        return Wanted(replicas, wanted.calm_since, highest)
    return Wanted(min(replicas, scaling.needed(highest, slots_each)), now, demand)

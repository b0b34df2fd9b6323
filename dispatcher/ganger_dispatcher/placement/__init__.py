"""Which worker is best suited to a step, right now: columns, comparators, scores, index.

``Placement`` is the way in. Everything here is pure: no clock, no network, no log.
"""

from .backlog import Backlog
from .engine import Placement

__all__ = ["Backlog", "Placement"]

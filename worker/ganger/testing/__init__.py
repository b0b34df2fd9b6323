"""Test workflows in memory: the real matcher, a fleet of your choosing, and time in your hand.

Needs ``pip install 'ganger[embedded]'``.
"""

from .fleet import Fleet
from .runs import NotEnded, Run, Step

__all__ = ["Fleet", "NotEnded", "Run", "Step"]

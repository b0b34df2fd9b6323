"""The dispatcher's pure core: a fact and the time go in, effects come out.

It knows no asyncio, no clock, no network and no log. All scheduling, retry and state
logic is here; the shell (``ganger_dispatcher.service``) carries the effects out.
"""

from .core import Core

__all__ = ["Core"]

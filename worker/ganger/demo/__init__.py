"""``ganger demo``: a fleet of unlike workers in one process, each step on the best of them."""

from .play import demo

__all__ = ["demo"]

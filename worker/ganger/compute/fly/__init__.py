"""The adapter ``--on fly``: a machine of Fly.io for each replica."""

from .adapter import Fly

__all__ = ["Fly"]

"""The time that messages carry."""

import time

__all__ = ["wall_clock"]


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return round(time.time() * 1000)

"""Durations as people write them: ``"90s"``, ``"5m"``, ``"1h30m"``, ``250ms``, or seconds."""

import re
from datetime import timedelta

from .errors import InvalidInput

__all__ = ["DURATION_PATTERN", "Duration", "parse_duration"]

Duration = str | float | timedelta
"""``"60s"``, ``"5m"``, ``"1h30m"``, seconds, or a timedelta."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
DURATION_PATTERN = r"^\s*(\d+(\.\d+)?|(\d+(\.\d+)?(ms|s|m|h|d))+)\s*$"
"""Of a duration that is given as text, as the published schema says it."""
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(given: Duration, place: str = "duration") -> float:
    """Seconds of a duration.

    Raises:
        InvalidInput: it is not positive, or not written like ``"1h30m"`` or ``2.5``.
    """
    seconds = _seconds(given)
    if seconds is None or not 0 < seconds < float("inf"):
        raise InvalidInput(
            f"{place}: {given!r} must be a positive number of seconds or a duration "
            'such as "250ms", "90s", "5m", "1h30m" or "2d"'
        )
    return seconds


def _seconds(given: object) -> float | None:
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, bool):
        return None
    if isinstance(given, int | float):
        return float(given)
    if isinstance(given, str):
        text = given.strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        if _WHOLE.fullmatch(text):
            return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return None

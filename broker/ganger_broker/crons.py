"""Crons: when a workflow runs by the clock, and what of ticks at which nobody led."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta

from .errors import InvalidInput
from .fields import Priority

__all__ = ["Cron", "MissedTicks", "check_cron", "next_tick"]

_SECOND = timedelta(seconds=1)
_NO_TWO_CHANGES = timedelta(hours=12)
"""No zone puts its clock on and back within it."""
_STEPS = {
    "seconds": 60,
    "minutes": 60,
    "hours": 24,
    "days": 31,
    "months": 12,
    "days of the week": 7,
}
"""The largest step of each field of an expression."""


class MissedTicks(StrEnum):
    """What becomes of ticks at which no dispatcher led, once one does again."""

    SKIP = "skip"
    """They are passed over."""
    CATCH_UP = "catch_up"
    """Each of them has its run."""


class Cron(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """When a workflow runs by the clock: a cron expression of five fields, or of six with the
    seconds first, as ``timezone`` reads it; with this input, metadata, priority and desired
    labels."""

    expression: Annotated[str, Meta(max_length=256)]
    timezone: Annotated[str, Meta(max_length=64)] = "UTC"
    input: dict[str, Any] = {}
    missed: MissedTicks = MissedTicks.SKIP
    metadata: dict[str, Any] = {}
    priority: Priority = 1
    desired_worker_labels: dict[str, Any] = {}


def check_cron(cron: Cron, place: str) -> None:
    """Check expression and time zone.

    Raises:
        InvalidInput: one is wrong, or no tick ever comes; the text names it.
    """
    try:
        ZoneInfo(cron.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidInput(
            f"{place}.timezone: {cron.timezone!r} must be a name of the IANA database, such as "
            "'Europe/Berlin'"
        ) from exc
    try:
        tick = next_tick(cron, 0)  # what comes at all has come since 1970: this needs no clock
    except CronSimError as exc:
        raise InvalidInput(
            f"{place}.expression: {cron.expression!r} is no cron expression such as "
            f"'0 9 * * 1-5': {exc}"
        ) from exc
    if tick is None:
        raise InvalidInput(f"{place}.expression: {cron.expression!r} never comes")
    _check_steps(cron.expression, f"{place}.expression: {cron.expression!r}")


def _check_steps(expression: str, place: str) -> None:
    """cronsim takes a step of any size: one over its field's would be once in each round, which
    nobody means who writes ``*/61``."""
    fields = expression.split()
    for field, (name, most) in zip(reversed(fields), reversed(_STEPS.items()), strict=False):
        for part in field.split(","):
            _, _, step = part.partition("/")
            if step and int(step) > most:
                raise InvalidInput(f"{place}: the step {step} of the {name} must be 1 to {most}")


def next_tick(cron: Cron, after: int) -> int | None:
    """The first tick after this time, both ms since 1970; None where none ever comes.

    A time of day without a ``*`` in minute and hour has one tick a day: where the clock is put on
    over it, at the end of the missing hour; where it is put back, the first time. With one, ticks
    go by time as it passes (as Debian's cron has it).

    Raises:
        CronSimError: the expression is none.
    """
    zone = _zone(cron.timezone)
    begin = datetime.fromtimestamp(after // 1000, UTC)
    ticks = CronSim(cron.expression, begin.astimezone(zone))
    if ticks.fixup_tz is None:
        tick = _as_time_passes(cron.expression, zone, begin)
        return None if tick is None else round(tick.timestamp() * 1000)
    for tick in ticks:
        at = round(tick.timestamp() * 1000)
        if at > after:  # in an hour's second time cronsim still gives ticks of its first
            return at
    return None


def _as_time_passes(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first time after this one at which the zone's clock shows a tick.

    From one change of the clock to the next one, each by itself: cronsim takes such changes for
    whole hours, which not all are.
    """
    since, offset = after, _offset(zone, after)
    shown = (after + offset).replace(tzinfo=None)
    while True:
        tick = next(CronSim(expression, shown), None)
        if tick is None:
            return None
        at = tick.replace(tzinfo=UTC) - offset
        change = _first_change(zone, since, at)
        if change is None:
            return at
        since, offset = change, _offset(zone, change)
        shown = (change + offset).replace(tzinfo=None) - _SECOND


def _first_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """When the zone's clock is first put on or back after one time, until the other."""
    while after < until:
        later = min(after + _NO_TWO_CHANGES, until)
        if _offset(zone, after) != _offset(zone, later):
            while later - after > _SECOND:
                middle = after + timedelta(seconds=(later - after).total_seconds() // 2)
                if _offset(zone, middle) == _offset(zone, after):
                    after = middle
                else:
                    later = middle
            return later
        after = later
    return None


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


@lru_cache(256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)

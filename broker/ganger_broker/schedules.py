"""What programs say and hear of schedules: runs at given times, and those of crons."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .crons import MissedTicks
from .errors import InvalidInput
from .fields import Id, Name, Priority

__all__ = [
    "AskSchedules",
    "ScheduleInfo",
    "ScheduleList",
    "ScheduleRuns",
    "Unschedule",
    "check_times",
]

MAX_TIMES = 1_000
_BEGIN, _END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Of the times that are taken: beyond them there may be none in UTC, or in an operator's zone."""


class ScheduleRuns(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Asks for a run of a workflow at each of these times.

    Exchange ``ganger``, routing key ``schedule.<workflow>``. ``at`` are RFC 3339 times with their
    offset, such as ``2027-01-01T09:00:00+01:00``; one that has passed is now. With several of them
    the schedules are ``<schedule_id>-1``, ``-2`` and so on. A time that has had its run under this
    id has no other; what else was asked for under it and is still to come is deleted. Where there
    is a ``reply_to``, it is answered with a ``ScheduleList`` of them; the runs' results go nowhere.
    """

    workflow: Name
    at: Annotated[
        list[Annotated[datetime, Meta(tz=True)]], Meta(min_length=1, max_length=MAX_TIMES)
    ]
    schedule_id: Annotated[Id, Meta(max_length=120)] | None = None
    input: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    priority: Priority = 1
    desired_worker_labels: dict[str, Any] = {}


class Unschedule(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Asks to delete a schedule that has not run, or all that were asked for under this id.
    Routing key ``unschedule.<id>``.

    The one of a cron belongs to its workflow's definition, and stays while a worker has that.
    Answered where there is a ``reply_to``, with ``error`` where it was not deleted.
    """

    schedule_id: Id


class AskSchedules(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for all schedules. Routing key ``schedules``; answered to ``reply_to``."""


class ScheduleInfo(msgspec.Struct, omit_defaults=True):
    """A schedule. ``next_at``, ``last_at``: ms since 1970; the others are those of its cron."""

    schedule_id: str
    workflow: str
    next_at: int
    last_at: int | None = None
    expression: str | None = None
    timezone: str | None = None
    missed: MissedTicks | None = None


class ScheduleList(msgspec.Struct, omit_defaults=True):
    """The answer to what is asked about schedules."""

    schedules: list[ScheduleInfo] = []
    error: str | None = None


def check_times(at: Iterable[datetime], place: str) -> None:
    """Check that these times, which have a time zone, can be written in every other.

    Raises:
        InvalidInput: one cannot; the text names it.
    """
    for number, each in enumerate(at):
        if not _BEGIN <= each < _END:
            raise InvalidInput(
                f"{place}[{number}]: {each.isoformat()} must be in the years 1970 to 9998 (UTC)"
            )

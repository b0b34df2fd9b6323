"""What the core is told, besides the workers' own events (``ganger_broker.messages``)."""

from typing import Any

import msgspec

from ganger_broker.fields import AttemptId
from ganger_broker.messages import PushEvent, RunResult, Trigger
from ganger_broker.schedules import ScheduleRuns

from .records import ReplyAddress

__all__ = [
    "AssignmentImpossible",
    "AssignmentReturned",
    "BrokerRestored",
    "CancelRequested",
    "EventPushed",
    "MessageDropped",
    "MessageRefused",
    "ScheduleRequested",
    "SchedulesAsked",
    "TimePassed",
    "TriggerReceived",
    "UnscheduleRequested",
]


class TriggerReceived(msgspec.Struct, frozen=True):
    """A valid trigger has come. ``ended``: the result of a run of this id that has ended,
    ``parent_ended`` that of the run that spawned it."""

    trigger: Trigger
    run_id: str
    reply: ReplyAddress | None = None
    ended: RunResult | None = None
    parent_ended: RunResult | None = None


class EventPushed(msgspec.Struct, frozen=True):
    """An event has come that may start runs. ``ended``: by id the results of those of them that
    have ended."""

    key: str
    event: PushEvent
    event_id: str
    reply: ReplyAddress | None = None
    ended: dict[str, RunResult] = {}


class MessageRefused(msgspec.Struct, frozen=True):
    """A message that cannot be taken has come. ``reason`` is the dead-letter reason code.
    ``for_good``: its worker is to end."""

    body: bytes
    content_type: str | None
    routing_key: str
    reason: str
    detail: str
    reply: ReplyAddress | None = None
    headers: dict[str, Any] = {}
    message_id: str | None = None
    for_good: bool = False


class ScheduleRequested(msgspec.Struct, frozen=True):
    """A program wants runs at some times. ``ended``: ids of those of these runs that have."""

    request: ScheduleRuns
    schedule_id: str
    reply: ReplyAddress | None = None
    ended: frozenset[str] = frozenset()


class UnscheduleRequested(msgspec.Struct, frozen=True):
    """A program wants a schedule gone."""

    schedule_id: str
    reply: ReplyAddress | None = None


class SchedulesAsked(msgspec.Struct, frozen=True):
    """A program wants to know of all schedules."""

    reply: ReplyAddress | None = None


class CancelRequested(msgspec.Struct, frozen=True):
    """Somebody wants a run cancelled."""

    run_id: str
    reason: str


class AssignmentReturned(msgspec.Struct, frozen=True):
    """An assignment came back: ``no_queue``, or else it was not picked up in time, or its worker
    had no slot for it."""

    worker: str
    attempt: AttemptId
    no_queue: bool


class AssignmentImpossible(msgspec.Struct, frozen=True):
    """The broker will never take an assignment: with its inputs it is too large, say."""

    worker: str
    attempt: AttemptId


class MessageDropped(msgspec.Struct, frozen=True):
    """Something that was to be sent could not be, and is not tried again. ``what``: its kind."""

    what: str


class BrokerRestored(msgspec.Struct, frozen=True):
    """The broker is back after a loss: silence since then, ms, says nothing about the workers."""

    since: int


class TimePassed(msgspec.Struct, frozen=True):
    """A wake-up that was asked for. ``read_to``: what workers said until then, ms, has all been
    read; without it, what they said until now."""

    read_to: int | None = None

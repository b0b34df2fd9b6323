"""Deliveries as facts: what programs and workers sent, decoded and checked."""

from collections.abc import Iterable
from hashlib import blake2s
from uuid import uuid4

from msgspec.structs import replace

from ganger_broker.codec import (
    JSON,
    MSGPACK,
    BadEvent,
    decode_cancel,
    decode_each_event,
    decode_push,
    decode_schedule,
    decode_to_worker,
    decode_trigger,
    decode_unschedule,
    kind_of,
)
from ganger_broker.errors import InvalidInput, InvalidMessage, MalformedMessage
from ganger_broker.event_keys import check_event_key
from ganger_broker.quoting import shortened
from ganger_broker.to_worker import Assignment
from ganger_broker.transport import Delivery

from .core.core import Fact
from .core.facts import (
    AssignmentReturned,
    CancelRequested,
    EventPushed,
    MessageRefused,
    ScheduleRequested,
    SchedulesAsked,
    TriggerReceived,
    UnscheduleRequested,
)
from .core.records import ReplyAddress

__all__ = ["facts_of", "read", "refusal"]

_DIRECT_REPLY = "amq.rabbitmq.reply-to"
"""RabbitMQ closes the connection of who publishes to such a name that is made up: one trigger
must not have that done to every worker that says something."""


def read(delivery: Delivery, limit: int) -> list[Fact]:
    """The facts in a delivery; one that cannot be taken is itself a fact.

    ``limit``: the largest body taken, bytes.
    """
    try:
        return list(facts_of(delivery, limit))
    except InvalidMessage as exc:
        return [refusal(delivery, exc.reason, str(exc))]


def refusal(delivery: Delivery, reason: str, detail: str) -> MessageRefused:
    """The fact that a delivery cannot be taken."""
    return MessageRefused(
        delivery.body,
        delivery.content_type,
        delivery.routing_key,
        reason,
        shortened(detail),
        _reply(delivery),
        delivery.headers,
        delivery.message_id,
    )


def _bad(delivery: Delivery, event: BadEvent) -> MessageRefused:
    """The fact that one event of a body cannot be taken; the others are. A worker that cannot
    register for what it says would say it again for ever."""
    alone = replace(delivery, body=event.body)
    refused = refusal(alone, event.error.reason, str(event.error))
    return replace(refused, for_good=event.registers)


def facts_of(delivery: Delivery, limit: int) -> Iterable[Fact]:
    """The facts in a delivery, by the first word of its routing key.

    Raises:
        InvalidMessage: its body is too large or not what the key says.
    """
    if delivery.unreadable:
        raise MalformedMessage(f"its properties: {delivery.unreadable}")
    kind, _, name = delivery.routing_key.partition(".")
    match kind:
        case "event":
            for said in decode_each_event(delivery.body, limit):
                yield _bad(delivery, said) if isinstance(said, BadEvent) else said
        case "returned":
            message = decode_to_worker(delivery.body, limit)
            if isinstance(message, Assignment):
                yield AssignmentReturned(name, message.attempt, no_queue=False)
        case "event-push":
            event = decode_push(delivery.body, delivery.content_type, limit)
            try:
                check_event_key(name, f"routing key {delivery.routing_key!r}: the event's key")
            except InvalidInput as exc:
                raise MalformedMessage(str(exc)) from exc
            event_id = event.event_id or _id_of(delivery)
            yield EventPushed(name, event, event_id, _reply(delivery))
        case "schedule":
            request = decode_schedule(delivery.body, delivery.content_type, limit)
            schedule_id = request.schedule_id or _id_of(delivery)
            yield ScheduleRequested(request, schedule_id, _reply(delivery))
        case "unschedule":
            unwanted = decode_unschedule(delivery.body, delivery.content_type, limit)
            yield UnscheduleRequested(unwanted.schedule_id, _reply(delivery))
        case "schedules":
            yield SchedulesAsked(_reply(delivery))
        case "cancel":
            cancel = decode_cancel(delivery.body, delivery.content_type, limit)
            yield CancelRequested(cancel.run_id, cancel.reason)
        case _:
            trigger = decode_trigger(delivery.body, delivery.content_type, limit)
            run_id = trigger.run_id or _id_of(delivery)
            yield TriggerReceived(trigger, run_id, _reply(delivery, trigger.stream))


def _id_of(delivery: Delivery) -> str:
    """The same message gives the same run, also when the broker delivers it twice.

    A message id alone is not enough: another program may count its messages too.
    """
    if not delivery.message_id:
        return uuid4().hex
    words = blake2s(digest_size=16)
    for part in (delivery.routing_key.encode(), delivery.message_id.encode(), delivery.body):
        words.update(len(part).to_bytes(8) + part)
    return words.hexdigest()


def _reply(delivery: Delivery, stream: bool = False) -> ReplyAddress | None:
    if stream and (not delivery.reply_to or delivery.reply_to.startswith(_DIRECT_REPLY)):
        raise MalformedMessage(
            "$.stream: needs a reply_to that is a queue's name; direct reply-to takes only results"
        )
    if not delivery.reply_to:
        return None
    # whoever did not send MessagePack can hardly be expected to read it
    kind = MSGPACK if kind_of(delivery.content_type, delivery.body) == MSGPACK else JSON
    return ReplyAddress(delivery.reply_to, delivery.correlation_id, kind, stream)

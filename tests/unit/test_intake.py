"""Deliveries as facts, and dead letters as messages."""

import datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from pamqp import encode

from ganger_broker.codec import JSON
from ganger_broker.codec import encode as pack_events
from ganger_broker.errors import InvalidInput
from ganger_broker.event_keys import check_event_key
from ganger_broker.messages import Heartbeat
from ganger_broker.to_worker import Refused
from ganger_broker.topology import Topology
from ganger_broker.transport import Delivery
from ganger_dispatcher.core.core import Core
from ganger_dispatcher.core.effects import Bury, Note, Reply, Tell
from ganger_dispatcher.core.facts import EventPushed, MessageRefused, TriggerReceived
from ganger_dispatcher.intake import read
from ganger_dispatcher.outgoing import pack

LIMIT = 10_000
BODY = b'{"workflow": "add"}'


def came(body: bytes = BODY, key: str = "trigger.add", **properties: Any) -> Delivery:
    return Delivery(body=body, routing_key=key, tag=1, content_type=JSON, **properties)


def run_of(delivery: Delivery) -> str:
    [fact] = read(delivery, LIMIT)
    assert isinstance(fact, TriggerReceived)
    return fact.run_id


def test_the_same_message_is_the_same_run() -> None:
    assert run_of(came(message_id="1")) == run_of(came(message_id="1"))


@pytest.mark.parametrize(
    "other",
    [
        came(message_id="2"),
        came(b'{"workflow": "add", "input": {"n": 1}}', message_id="1"),
        came(key="trigger.other", message_id="1"),
        came(),
    ],
    ids=["another message id", "another body", "another key", "no message id"],
)
def test_what_differs_anywhere_is_another_run(other: Delivery) -> None:
    assert run_of(other) != run_of(came(message_id="1"))
    assert run_of(came()) != run_of(came())


def test_one_message_id_under_two_event_keys_is_two_events() -> None:
    ids = set()
    for key in ("event-push.a", "event-push.b"):
        [fact] = read(came(b"{}", key, message_id="1"), LIMIT)
        assert isinstance(fact, EventPushed)
        ids.add(fact.event_id)
    assert len(ids) == 2


def buried(delivery: Delivery) -> Any:
    """What is published to the dead letters for a delivery that cannot be taken."""
    [fact] = read(delivery, LIMIT)
    assert isinstance(fact, MessageRefused)
    [bury] = [each for each in Core().handle(fact, 0) if isinstance(each, Bury)]
    return pack(bury, Topology("p"))


def test_a_dead_letter_is_the_message_as_it_came_and_why_it_is_there() -> None:
    given = {"reply_to": "q", "correlation_id": "c", "message_id": "m-1"}
    letter = buried(came(b"{", headers={"tenant": "a"}, **given))
    assert (letter.body, letter.content_type) == (b"{", JSON)
    assert (letter.reply_to, letter.correlation_id, letter.message_id) == ("q", "c", "m-1")
    assert letter.headers.pop("ganger-detail").startswith("$: ")
    assert letter.headers == {
        "tenant": "a",
        "ganger-reason": "malformed",
        "ganger-routing-key": "trigger.add",
    }


def test_what_is_said_of_a_message_is_not_as_long_as_the_message() -> None:
    """A name in it that is as long goes into no log, feed, header or answer."""
    name = "k" * (LIMIT // 3)
    body = f'{{"workflow": "add", "input": {{"{name}": {{"x": 1, "x": 1}}}}}}'.encode()
    [fact] = read(came(body, reply_to="q"), LIMIT)
    effects = Core().handle(fact, 0)
    details = [each.detail for each in effects if isinstance(each, Bury)]
    details += [each.fields["detail"] for each in effects if isinstance(each, Note)]
    errors = [each.result.error for each in effects if isinstance(each, Reply)]
    details += [error.message for error in errors if error is not None]
    assert len(details) == 3
    for detail in details:
        assert detail.startswith("$.input.kkk")
        assert detail.endswith("kkk.x: given twice in one object")
        assert len(detail) <= 2_000


def test_foreign_headers_that_cannot_be_written_again_become_text() -> None:
    """AMQP has more kinds of values than a client can write."""
    headers = {
        "bytes": b"\xff",
        "many": [1, {"deep": b"\x00"}, None],
        "decimal": Decimal("1.5"),
        "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "large": 2**63,
        "nan": float("nan"),
        "ganger-reason": "forged",
    }
    letter = buried(came(b"{", headers=headers))
    assert letter.headers["bytes"] == repr(b"\xff")
    assert letter.headers["many"] == [1, {"deep": repr(b"\x00")}, None]
    assert letter.headers["large"] == str(2**63)
    assert letter.headers["ganger-reason"] == "malformed"
    assert encode.field_table(letter.headers)


@pytest.mark.parametrize("much", ["x" * 100_000, "\U0001f600" * 10_000])
def test_headers_that_would_not_fit_beside_ours_are_left_out(much: str) -> None:
    letter = buried(came(b"{", headers={"much": much}))
    assert "much" not in letter.headers
    assert letter.headers["ganger-headers"].startswith("left out")
    assert letter.headers["ganger-reason"] == "malformed"


def test_a_trigger_that_wants_the_stream_says_so_with_its_address() -> None:
    body = b'{"workflow": "add", "stream": true}'
    [fact] = read(came(body, reply_to="q"), LIMIT)
    assert isinstance(fact, TriggerReceived)
    assert fact.reply is not None
    assert fact.reply.stream
    [fact] = read(came(reply_to="q"), LIMIT)
    assert isinstance(fact, TriggerReceived)
    assert fact.reply is not None
    assert not fact.reply.stream


@pytest.mark.parametrize("reply_to", [None, "amq.rabbitmq.reply-to.g1h2AA.x=="])
def test_a_stream_needs_a_queue_of_its_own(reply_to: str | None) -> None:
    body = b'{"workflow": "add", "stream": true}'
    [fact] = read(came(body, reply_to=reply_to), LIMIT)
    assert isinstance(fact, MessageRefused)
    assert fact.reason == "malformed"
    assert fact.detail.startswith("$.stream: needs a reply_to that is a queue's name")
    assert (fact.reply.reply_to if fact.reply else None) == reply_to


# ── what workers send ─────────────────────────────────────────────────────────────────

HEAD = {"worker": "w", "incarnation": "1"}
BEAT = {"type": "heartbeat", **HEAD}


def said(*events: Any) -> list[Any]:
    body = pack_events(list(events))
    return read(Delivery(body=body, routing_key="event.w", tag=1), LIMIT)


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (
            {
                "type": "step_finished",
                **HEAD,
                "attempt": "r/s/1",
                "outcome": "failed",
                "retry_after": 2e9,
            },
            "$[1].retry_after: Expected `float` <= 1000000000.0",
        ),
        (
            {"type": "labels_changed", **HEAD, "seq": 1, "upsert": {"": 1}},
            "$[1].upsert: the key '' must have 1 to 128 characters",
        ),
        ({"type": "sneezed", **HEAD}, "$[1].type: Invalid value 'sneezed'"),
        (17, "$[1]: Expected `object`, got `int`"),
    ],
)
def test_a_bad_event_costs_none_of_those_that_came_with_it(bad: Any, detail: str) -> None:
    first, refused, last = said(BEAT, bad, BEAT)
    assert first == last == Heartbeat("w", "1")
    assert isinstance(refused, MessageRefused)
    assert (refused.reason, refused.for_good) == ("malformed", False)
    assert refused.detail.startswith(detail)
    letter = pack(next(e for e in Core().handle(refused, 0) if isinstance(e, Bury)), Topology("p"))
    assert msgpack.unpackb(letter.body) == [bad]


def test_a_registration_that_is_wrong_is_refused_for_good() -> None:
    """Its worker would ask again for ever."""
    flow = {"name": "w", "steps": [{"name": "a", "parents": ["b"]}]}
    bad = {"type": "worker_registered", **HEAD, "name": "w", "slots": 1, "workflows": [flow]}
    refused, beat = said(bad, BEAT)
    assert beat == Heartbeat("w", "1")
    told = [effect for effect in Core().handle(refused, 0) if isinstance(effect, Tell)]
    text = "$[0].workflows[0].steps[0].parents: 'b' is no step of it"
    assert told == [Tell("w", Refused(text, for_good=True))]


def test_what_is_no_list_of_events_is_refused_whole() -> None:
    [refused] = read(Delivery(body=b"\x01", routing_key="event.w", tag=1), LIMIT)
    assert isinstance(refused, MessageRefused)
    assert refused.detail == "$: Expected `array`, got `int`"


# ── events' keys ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["image:new", "a.b#c", "x" * 200, "é" * 100, "日" * 66])
def test_an_events_key_fits_a_routing_key(key: str) -> None:
    check_event_key(key, "key")
    assert len(f"event-push.{key}".encode()) <= 255


@pytest.mark.parametrize(
    "key", ["", "x" * 201, "é" * 101, "日" * 67, "a b", "a*", "\x00", "\ud800", "a\n", 3]
)
def test_what_can_be_no_events_key_is_named(key: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^key: "):
        check_event_key(key, "key")

"""Bytes to messages and back; what is malformed names its field."""

import math
import re
from typing import Any

import msgpack
import msgspec
import pytest

from ganger_broker.codec import (
    JSON,
    MSGPACK,
    decode_cancel,
    decode_events,
    decode_reply,
    decode_to_worker,
    decode_trigger,
    encode,
    kind_of,
    to_json,
)
from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.errors import InvalidMessage, MalformedMessage, OversizedMessage
from ganger_broker.messages import (
    CancelRun,
    Event,
    FailureReason,
    Heartbeat,
    LabelsChanged,
    Outcome,
    RunError,
    RunResult,
    RunStatus,
    StepFinished,
    StepRefreshed,
    StepReleased,
    StepStarted,
    StreamItem,
    Trigger,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_broker.to_worker import (
    Assignment,
    CancelAttempt,
    Refused,
    RegisterAgain,
    ToWorker,
)

LIMIT = 100_000
KINDS = pytest.mark.parametrize("kind", [JSON, MSGPACK])

FULL = Trigger(
    "caption",
    {"n": 1, "deep": [{"x": None}], "é": "\U0001f680"},
    run_id="img-17:a.b_c",
    metadata={"by": "me"},
    priority=3,
    desired_worker_labels={"model": {"value": "x", "weight": 10}, "memory": 512},
)


def packed(value: Any, kind: str = MSGPACK) -> bytes:
    body: bytes = msgspec.json.encode(value) if kind == JSON else msgpack.packb(value)
    return body


# ── there and back ────────────────────────────────────────────────────────────────────


@KINDS
@pytest.mark.parametrize("trigger", [Trigger("w"), FULL])
def test_a_trigger(trigger: Trigger, kind: str) -> None:
    assert decode_trigger(encode(trigger, kind), kind, LIMIT) == trigger


@KINDS
def test_a_cancellation_and_a_result(kind: str) -> None:
    cancel = CancelRun("r", "enough")
    assert decode_cancel(encode(cancel, kind), kind, LIMIT) == cancel
    error = RunError(FailureReason.STEP_FAILED, "no", "s", "r/s/1", "ValueError", "…")
    result = RunResult("w", "r", RunStatus.FAILED, {"s": [1, 2.5, None]}, error)
    assert decode_reply(encode(result, kind), kind, LIMIT) == result


@KINDS
def test_a_stream_s_item_is_told_apart_from_a_result(kind: str) -> None:
    item = StreamItem("r", "s", "r/s/1", 7, 1_000, "chunk", {"type": "stream_item"})
    body = encode(item, kind)
    assert decode_reply(body, kind, LIMIT) == item
    line = StreamItem("r", "s", "r/s/1", 8, 1_000, "log", "hello", "warning")
    assert decode_reply(encode(line, kind), kind, LIMIT) == line
    result = RunResult("w", "r", RunStatus.SUCCEEDED, {"type": {"type": "stream_item"}})
    assert decode_reply(encode(result, kind), kind, LIMIT) == result
    with pytest.raises(MalformedMessage, match=r"^\$\.kind: "):
        decode_reply(encode({"type": "stream_item", "kind": "x"}, JSON), JSON, LIMIT)


def test_events_keep_their_order() -> None:
    second = StepDefinition(
        "b", ["a"], 1.5, 30, 2, backoff_factor=1.5, desired_worker_labels={"m": 1}
    )
    definition = WorkflowDefinition(
        "w", [StepDefinition("a"), second], "v1", ["x:y"], on_failure=StepDefinition("oops")
    )
    events: list[Event] = [
        WorkerRegistered("w-1", "i", "name", 4, {"m": "x", "n": 1.5}, 3, [definition], ["r/s/1"]),
        LabelsChanged("w-1", "i", 4, {"m": "y"}, ["n"]),
        Heartbeat("w-1", "i", ["r/s/1"]),
        StepStarted("w-1", "i", "r/s/1", 5),
        StepRefreshed("w-1", "i", "r/s/1", 2.5),
        StepFinished("w-1", "i", "r/s/1", Outcome.SUCCEEDED, {"x": 1}),
        StepReleased("w-1", "i", "r/s/1"),
        WorkerDraining("w-1", "i"),
        WorkerLeft("w-1", "i"),
    ]
    assert decode_events(encode(events), LIMIT) == events
    assert decode_events(encode([]), LIMIT) == []


@pytest.mark.parametrize(
    "message",
    [
        Assignment("r/s/1", "i", "r", "w", "s", {"n": 1}, {"a": 2}, {"m": 3}, 1, 2.5, 3),
        CancelAttempt("r/s/1", "enough"),
        RegisterAgain(),
        Refused("another has it", for_good=True),
    ],
)
def test_words_to_a_worker(message: ToWorker) -> None:
    assert decode_to_worker(encode(message), LIMIT) == message


# ── content types ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "body", "kind"),
    [
        (None, b'{"a": 1}', JSON),
        (None, b' \n\t{"a": 1}', JSON),
        ("", b"{", JSON),
        (None, b"\x81", MSGPACK),
        (None, b"", MSGPACK),
        ("application/json; charset=utf-8", b"", JSON),
        ("Application/JSON", b"", JSON),
        ("application/msgpack", b"{", MSGPACK),
        ("text/plain", b"{", "text/plain"),
    ],
)
def test_the_kind_of_a_body(given: str | None, body: bytes, kind: str) -> None:
    assert kind_of(given, body) == kind


def test_a_trigger_without_a_content_type_is_taken_for_what_it_looks_like() -> None:
    for kind in (JSON, MSGPACK):
        assert decode_trigger(encode(FULL, kind), None, LIMIT) == FULL


@pytest.mark.parametrize("kind", ["text/plain", "application/x-python-serialize", "json"])
def test_other_content_types_are_refused_by_name(kind: str) -> None:
    text = f"content_type {kind!r} is not taken, only application/msgpack and application/json"
    with pytest.raises(MalformedMessage, match=re.escape(text)):
        decode_trigger(encode(FULL, JSON), kind, LIMIT)


# ── malformed triggers ────────────────────────────────────────────────────────────────

MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({}, "$: Object missing required field `workflow`"),
    ({"workflow": 5}, "$.workflow: Expected `str`, got `int`"),
    ({"workflow": "Upper"}, "$.workflow: Expected a name: 1 to 128 lower case"),
    ({"workflow": "w\n"}, "$.workflow: Expected a name: 1 to 128 lower case"),
    ({"workflow": ""}, "$.workflow: Expected a name: 1 to 128 lower case"),
    ({"workflow": "w", "inptu": {}}, "$: Object contains unknown field `inptu`"),
    ({"workflow": "w", "input": [1]}, "$.input: Expected `object`, got `array`"),
    (
        {"workflow": "w", "priority": 4},
        "$.priority: Expected `int` <= 3; it is 1, 2 or 3, and 3 goes",
    ),
    (
        {"workflow": "w", "priority": 0},
        "$.priority: Expected `int` >= 1; it is 1, 2 or 3, and 3 goes",
    ),
    (
        {"workflow": "w", "run_id": "a/b"},
        "$.run_id: Expected an id: 1 to 128 letters, digits and _ . : -",
    ),
    (
        {"workflow": "w", "run_id": "x" * 129},
        "$.run_id: Expected an id: 1 to 128 letters, digits and _ . : -",
    ),
    ({"workflow": "w", "sticky_to": "a:b"}, "$.sticky_to: Expected a worker's id: 1 to 128"),
    ({"workflow": "w", "parent": "r"}, "$.parent: Expected a step run: <run id>/<step>"),
    ({"workflow": "w", "priority": "high"}, "$.priority: Expected `int`, got `str`"),
    ({"workflow": "w", "metadata": None}, "$.metadata: Expected `object`, got `null`"),
    (
        {"workflow": "w", "desired_worker_labels": {"memory": {"value": 1, "comparator": ">"}}},
        "$.desired_worker_labels.memory.comparator: '>' must be one of",
    ),
    (
        {"workflow": "w", "desired_worker_labels": {"memory": None}},
        "$.desired_worker_labels.memory.value: None must be a string or a number",
    ),
    (
        {"workflow": "w", "desired_worker_labels": {"": 1}},
        "$.desired_worker_labels: the key ''",
    ),
]


@KINDS
@pytest.mark.parametrize(("fields", "text"), MALFORMED)
def test_a_malformed_trigger_names_its_field(fields: Any, text: str, kind: str) -> None:
    with pytest.raises(MalformedMessage, match="^" + re.escape(text)) as caught:
        decode_trigger(packed(fields, kind), kind, LIMIT)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"", JSON, "$: Input data was truncated"),
        (b"{", JSON, "$: Input data was truncated"),
        (b'{"workflow": "w"} x', JSON, "$: JSON is malformed"),
        (
            b'{"workflow": "w", "input": {"a": "\xff"}}',
            JSON,
            "$: 'utf-8' codec can't decode byte 0xff in position 34: invalid start byte",
        ),
        (b'{"workflow": "w", "input": {"n": NaN}}', JSON, "$: JSON is malformed"),
        (b"[]", JSON, "$: Expected `object`, got `array`"),
        (b"", MSGPACK, "$: is not valid application/msgpack"),
        (b"\x81", MSGPACK, "$: is not valid application/msgpack"),
        (b"\xc1", MSGPACK, "$: is not valid application/msgpack"),
        (packed({"workflow": "w"}) + b"\x00", MSGPACK, "$: is not valid application/msgpack"),
        (packed({b"workflow": "w"}), MSGPACK, "key in $: Expected `str`"),
        (b"\x81\xa8workflow\xa1\xff", MSGPACK, "$: is not valid application/msgpack"),
        (msgpack.packb({"workflow": msgpack.ExtType(5, b"x")}), MSGPACK, "$: is not valid"),
        (b"\xdd\x7f\xff\xff\xff", MSGPACK, "$: is not valid application/msgpack"),
        (b"\x81\x01\x02", MSGPACK, "$: is not valid application/msgpack"),
        (packed(5), MSGPACK, "$: Expected `object`, got `int`"),
        (b"[" * 50_000, JSON, "$: "),
        (b"\x91" * 50_000, MSGPACK, "$: is nested too deeply"),
        (b'{"workflow": "\\ud800"}', JSON, r"$: \ud800 (byte 14) is half of a surrogate pair"),
        (b'{"\\uDBFF": 1}', JSON, r"$: \uDBFF (byte 2) is half of a surrogate pair"),
        (b'{"workflow": "\\ude00 and more of it"}', JSON, r"$: \ude00 (byte 14) is half of a"),
        (
            b'{"input": {"\\ud83d\\ude00\\\\ud800": "\\ud801"}}',
            JSON,
            r"$: \ud801 (byte 35) is half of a surrogate pair",
        ),
        (b'{"workflow": "\\\\ud800', JSON, "$: Input data was truncated"),
    ],
)
def test_what_is_no_message_at_all(body: bytes, kind: str, text: str) -> None:
    with pytest.raises(MalformedMessage, match="^" + re.escape(text)):
        decode_trigger(body, kind, LIMIT)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"workflow": "w", "run_id": "a", "run_id": "b"}', "$.run_id"),
        (b'{"workflow": "w", "input": {"n": 1, "n": 1}}', "$.input.n"),
        (b'{"workflow": "w", "input": {"k": [1, {"\\u006e": 1, "n": 2}]}}', "$.input.k[1].n"),
        (b'{"workflow":"w","desired_worker_labels":{"m":1,"m":2}}', "$.desired_worker_labels.m"),
        (b'{"workflow": "w", "metadata": {"a": {"b": 1, "b": 1}, "a": 1}}', "$.metadata.a"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_place(body: bytes, place: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_trigger(body, JSON, LIMIT)
    assert str(caught.value) == f"{place}: given twice in one object"


def test_a_key_given_twice_is_found_among_as_many_as_a_message_may_have() -> None:
    """In hours, where each key is looked for among all others."""
    keys = b",".join(b'"k%d":1' % number for number in range(300_000))
    with pytest.raises(MalformedMessage, match=r"^\$\.input\.k299999: given twice"):
        decode_trigger(b'{"workflow":"w","input":{' + keys + b',"k299999":2}}', JSON, 4_000_000)


def test_keys_that_come_again_elsewhere_and_numbers_of_any_length_are_read() -> None:
    body = b'{"workflow": "w", "input": {"n": {"n": [{"n": 1}, {"n": 2}]}, "x": 0.' + b"1" * 9_000
    assert decode_trigger(body + b"}}", JSON, LIMIT).input["n"] == {"n": [{"n": 1}, {"n": 2}]}


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b'{"workflow": "w", "input": {"n": 18446744073709551616}}', JSON, "$.input.n: a whole"),
        (packed({"workflow": "w", "input": {"n": math.nan}}), MSGPACK, "$.input.n: nan"),
        (packed({"workflow": "w", "input": {"n": [b"x"]}}), MSGPACK, "$.input.n[0]: builtins.byte"),
        (packed({"workflow": "w", "input": {"n": {b"k": 1}}}), MSGPACK, "$.input.n: the key b'k'"),
        (packed({"workflow": "w", "metadata": {"n": b"x"}}), MSGPACK, "$.metadata.n: builtins"),
    ],
)
def test_values_that_json_or_msgpack_cannot_say_are_named(
    body: bytes, kind: str, text: str
) -> None:
    with pytest.raises(MalformedMessage, match="^" + re.escape(text)):
        decode_trigger(body, kind, LIMIT)


@KINDS
def test_the_largest_body_is_taken_and_a_larger_one_is_not(kind: str) -> None:
    body = encode(FULL, kind)
    assert decode_trigger(body, kind, len(body)) == FULL
    with pytest.raises(OversizedMessage, match=f"has {len(body)} bytes, at most {len(body) - 1}"):
        decode_trigger(body, kind, len(body) - 1)
    assert (OversizedMessage.reason, issubclass(OversizedMessage, InvalidMessage)) == (
        "oversized",
        True,
    )


# ── malformed events ──────────────────────────────────────────────────────────────────

HEAD = {"worker": "w", "incarnation": "i"}
REGISTERED = {**HEAD, "type": "worker_registered", "name": "w", "slots": 1}


def workflow(*steps: dict[str, Any]) -> dict[str, Any]:
    return {**REGISTERED, "workflows": [{"name": "f", "steps": list(steps)}]}


def with_cron(**fields: Any) -> dict[str, Any]:
    event = workflow({"name": "a"})
    event["workflows"][0]["on_crons"] = [{"expression": "* * * * *", **fields}]
    return event


MALFORMED_EVENTS: list[tuple[Any, str]] = [
    ({"a": 1}, "$: Expected `array`, got `object`"),
    ([5], "$[0]: Expected `object`, got `int`"),
    ([{"type": "nonsense"}], "$[0].type: Invalid value 'nonsense'"),
    ([{"worker": "w"}], "$[0]: Object missing required field `type`"),
    ([{"type": "heartbeat", "worker": "w"}], "$[0]: Object missing required field `incarnation`"),
    ([{"type": "heartbeat", **HEAD, "worker": "a b"}], "$[0].worker: Expected a worker's id"),
    ([{**REGISTERED, "slots": 0}], "$[0].slots: Expected `int` >= 1"),
    ([{**REGISTERED, "slots": 4097}], "$[0].slots: Expected `int` <= 4096"),
    ([{**REGISTERED, "labels": {"gpu": True}}], "$[0].labels"),
    ([{**REGISTERED, "labels": {"gpu": None}}], "$[0].labels"),
    ([{**REGISTERED, "labels": {"gpu": math.inf}}], "$[0].labels.gpu: inf must be"),
    ([{**REGISTERED, "labels": {"": 1}}], "$[0].labels: the key ''"),
    (
        [{"type": "labels_changed", **HEAD, "seq": 1, "upsert": {"n": 2**60}}],
        "$[0].upsert.n: the whole number",
    ),
    ([{"type": "labels_changed", **HEAD, "seq": -1}], "$[0].seq: Expected `int` >= 0"),
    ([workflow()], "$[0].workflows[0].steps: Expected `array` of length >= 1"),
    ([workflow({"name": "A"})], "$[0].workflows[0].steps[0].name: Expected a name"),
    ([workflow({"name": "a"}, {"name": "a"})], "$[0].workflows[0].steps: two steps have the same"),
    (
        [workflow({"name": "a", "parents": ["b"]})],
        "$[0].workflows[0].steps[0].parents: 'b' is no step of it",
    ),
    (
        [workflow({"name": "a", "parents": ["b"]}, {"name": "b", "parents": ["a"]})],
        "$[0].workflows[0].steps: parents form a cycle",
    ),
    (
        [workflow({"name": "a", "timeout": 0})],
        "$[0].workflows[0].steps[0].timeout: Expected `float` > 0",
    ),
    (
        [workflow({"name": "a", "schedule_timeout": math.inf})],
        "$[0].workflows[0].steps[0].schedule_timeout: Expected `float` <=",
    ),
    (
        [workflow({"name": "a", "desired_worker_labels": {"m": {"weight": 0, "value": 1}}})],
        "$[0].workflows[0].steps[0].desired_worker_labels.m.weight: 0 must be",
    ),
    (
        [with_cron(desired_worker_labels={"m": {"weight": 0, "value": 1}})],
        "$[0].workflows[0].on_crons[0].desired_worker_labels.m.weight: 0 must be",
    ),
    (
        [with_cron(priority=4)],
        "$[0].workflows[0].on_crons[0].priority: Expected `int` <= 3",
    ),
    (
        [{"type": "step_finished", **HEAD, "attempt": "r/s/1", "outcome": "great"}],
        "$[0].outcome: Invalid enum value 'great'",
    ),
    (
        [
            {"type": "heartbeat", **HEAD},
            {
                "type": "step_finished",
                **HEAD,
                "attempt": "r/s/1",
                "outcome": "succeeded",
                "output": {"x": b"y"},
            },
        ],
        "$[1].output.x: builtins.bytes has no JSON form",
    ),
]


@pytest.mark.parametrize(("events", "text"), MALFORMED_EVENTS)
def test_a_malformed_event_names_its_field(events: Any, text: str) -> None:
    with pytest.raises(MalformedMessage, match="^" + re.escape(text)):
        decode_events(packed(events), LIMIT)


def test_later_versions_may_add_fields_to_events() -> None:
    [event] = decode_events(packed([{"type": "heartbeat", **HEAD, "mood": "fine"}]), LIMIT)
    assert event == Heartbeat("w", "i")


# ── packing ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), {1, 2, object()}])
def test_what_cannot_be_packed_is_refused_and_the_next_message_is_whole(value: Any) -> None:
    with pytest.raises(MalformedMessage, match="cannot be packed"):
        encode(Trigger("w", {"value": value}))
    assert decode_trigger(encode(FULL), MSGPACK, LIMIT) == FULL


def test_json_text_for_redis_is_text() -> None:
    assert to_json({"é": [1, None, "x"]}) == '{"é":[1,null,"x"]}'
    assert to_json(Trigger("w")) == '{"workflow":"w"}'

"""The published schema is the code's, and says what the codec accepts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ganger_broker.codec import JSON, decode_trigger
from ganger_broker.errors import MalformedMessage
from ganger_broker.schema import MESSAGES, asyncapi, json_schema

ASYNCAPI = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"


def test_asyncapi_is_that_of_the_code() -> None:
    assert yaml.safe_load(ASYNCAPI.read_text()) == asyncapi()


def test_every_message_has_a_schema_and_every_reference_an_end() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert {type_.__name__ for type_ in MESSAGES} <= set(schema["$defs"])
    for reference in _references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


TRIGGERS = [
    ({"workflow": "caption"}, True),
    ({"workflow": "caption", "input": {"url": "x"}, "priority": 3, "run_id": "a.b:c"}, True),
    ({"workflow": "Caption"}, False),
    ({"workflow": "caption", "priority": 4}, False),
    ({"workflow": "caption", "input": []}, False),
    ({"workflow": "caption", "inputs": {}}, False),
    ({"workflow": "caption", "run_id": "a/b"}, False),
    ({}, False),
]


DESIRED: list[tuple[Any, bool]] = [
    ("x", True),
    (512, True),
    (0.5, True),
    (True, False),
    (None, False),
    (["x"], False),
    ([], False),
    (2**53, True),
    (2**53 + 1, False),
    ("x" * 1_024, True),
    ("x" * 1_025, False),
    ({}, False),
    ({"value": None}, False),
    ({"value": "x", "comparator": None, "weight": None, "required": None}, True),
    ({"value": "x", "comparator": "GREATER_THAN_OR_EQUAL", "required": True}, True),
    ({"value": "x", "comparator": ">"}, False),
    ({"value": "x", "comparator": "IN"}, False),
    ({"value": [], "comparator": "IN"}, False),
    ({"value": ["x", 1], "comparator": "NOT_IN", "weight": 5}, True),
    ({"value": ["x", True], "comparator": "NOT_IN"}, False),
    ({"value": ["x"]}, False),
    ({"comparator": "NOT_IN"}, False),
    ({"comparator": "EXISTS"}, True),
    ({"comparator": "NOT_EXISTS", "value": None}, True),
    ({"comparator": "EXISTS", "value": 1}, False),
    ({"value": 1, "weight": 0}, False),
    ({"value": 1, "weight": 1_000_001}, False),
    ({"value": 1, "weight": 1_000_000, "required": False}, True),
    ({"value": 1, "weight": 1.5}, False),
    ({"value": 1, "required": "yes"}, False),
    ({"value": 1, "prefer_for": "1m30s"}, True),
    ({"value": 1, "prefer_for": "2"}, True),
    ({"value": 1, "prefer_for": "soon"}, False),
    ({"value": 1, "prefer_for": 3_600}, True),
    ({"value": 1, "prefer_for": 3_601}, False),
    ({"value": 1, "prefer_for": 0}, False),
    ({"value": 1, "prefer_for": True}, False),
    ({"value": 1, "prefer_for": 1, "required": True}, False),
    ({"value": 1, "prefer_for": None, "required": True}, True),
    ({"value": 1, "wieght": 1}, False),
    ([{"value": 1, "comparator": "GREATER_THAN"}, {"value": 9, "comparator": "LESS_THAN"}], True),
    ([{"value": 1}, 2], False),
]
TRIGGERS += [
    ({"workflow": "caption", "desired_worker_labels": {"m": wish}}, good) for wish, good in DESIRED
]
TRIGGERS += [
    ({"workflow": "caption", "desired_worker_labels": {"k" * 128: 1, "n": 2}}, True),
    ({"workflow": "caption", "desired_worker_labels": {"k" * 129: 1}}, False),
    ({"workflow": "caption", "desired_worker_labels": {"": 1}}, False),
    (
        {"workflow": "caption", "desired_worker_labels": dict.fromkeys(map(str, range(65)), 1)},
        False,
    ),
    ({"workflow": "caption", "desired_worker_labels": [{"m": 1}]}, False),
]


def test_desired_labels_are_described_wherever_they_are() -> None:
    definitions = json_schema()["$defs"]
    where = {
        name: definition["properties"]["desired_worker_labels"]["$ref"]
        for name, definition in definitions.items()
        if "desired_worker_labels" in definition.get("properties", {})
    }
    assert set(where.values()) == {"#/$defs/DesiredLabels"}
    assert {"Trigger", "PushEvent", "ScheduleRuns", "StepDefinition", "Cron"} <= set(where)


@pytest.mark.parametrize(("trigger", "good"), TRIGGERS)
def test_schema_and_codec_agree(trigger: dict, good: bool) -> None:
    schema = json_schema()
    validator = Draft202012Validator({"$ref": "#/$defs/Trigger", "$defs": schema["$defs"]})
    assert validator.is_valid(trigger) is good
    body = json.dumps(trigger).encode()
    if good:
        assert decode_trigger(body, JSON, 10_000).workflow == "caption"
    else:
        with pytest.raises(MalformedMessage):
            decode_trigger(body, JSON, 10_000)

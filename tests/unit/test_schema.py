"""The published schema is the code's, and says what the codec accepts."""

import json
from pathlib import Path

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

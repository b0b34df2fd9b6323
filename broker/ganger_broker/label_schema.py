"""Desired labels in the published schema: what ``ganger_broker.labels.parse_desired`` takes."""

from collections.abc import Callable
from typing import Any

from .durations import DURATION_PATTERN
from .labels import (
    DEFAULT_WEIGHT,
    MAX_CONDITIONS,
    MAX_ELEMENTS,
    MAX_EXACT_INT,
    MAX_KEY_LENGTH,
    MAX_PATIENCE,
    MAX_STRING_LENGTH,
    MAX_WEIGHT,
    WorkerLabelComparator,
)

__all__ = ["label_definitions"]

Schema = dict[str, Any]


def label_definitions(references: str) -> dict[str, Schema]:
    """The definitions of ``DesiredLabels`` and what it refers to, by name.

    ``references`` is how one is referred to, such as ``#/$defs/{name}``.
    """

    def refer(name: str) -> Schema:  # a new one each: YAML writes one twice with an anchor
        return {"$ref": references.format(name=name)}

    return {
        "LabelValue": _label_value(),
        "DesiredLabel": _desired_label(lambda: refer("LabelValue")),
        "DesiredLabels": {
            "title": "DesiredLabels",
            "description": "What a step desires of its worker's labels, by key: a condition, a "
            "list of conditions that all count, or a bare value, which means EQUAL and required. "
            f"At most {MAX_CONDITIONS} conditions in all.",
            "type": "object",
            "maxProperties": MAX_CONDITIONS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_KEY_LENGTH},
            "additionalProperties": {
                "anyOf": [
                    refer("LabelValue"),
                    refer("DesiredLabel"),
                    {
                        "type": "array",
                        "items": refer("DesiredLabel"),
                        "minItems": 1,
                        "maxItems": MAX_CONDITIONS,
                    },
                ]
            },
        },
    }


def _label_value() -> Schema:
    return {
        "title": "LabelValue",
        "description": "A string or a number; a whole number is within ±2^53.",
        "anyOf": [
            {"type": "string", "maxLength": MAX_STRING_LENGTH},
            {"type": "integer", "minimum": -MAX_EXACT_INT, "maximum": MAX_EXACT_INT},
            {"type": "number", "not": {"type": "integer"}},
        ],
    }


def _desired_label(value: Callable[[], Schema]) -> Schema:
    """By comparator: the value is one, a list, or none. null is as good as not given."""
    every = list(WorkerLabelComparator)
    lists = [each for each in every if each.takes_list]
    alone = [each for each in every if each.takes_nothing]
    ones = [each for each in every if each not in lists and each not in alone]
    values = {"type": "array", "items": value(), "minItems": 1, "maxItems": MAX_ELEMENTS}
    return {
        "title": "DesiredLabel",
        "description": "A condition on one label: the worker's value on the left of the "
        "comparator, this one on the right.",
        "anyOf": [
            _condition([*map(str, ones), None], value(), ["value"], default="EQUAL"),
            _condition([*map(str, lists)], values, ["value", "comparator"]),
            _condition([*map(str, alone)], {"type": "null"}, ["comparator"]),
        ],
        "not": {
            "description": "A required label is always waited for.",
            "properties": {"required": {"const": True}, "prefer_for": {"not": {"type": "null"}}},
            "required": ["required", "prefer_for"],
        },
    }


def _condition(
    comparators: list[str | None], value: Schema, needed: list[str], **about: Any
) -> Schema:
    return {
        "type": "object",
        "properties": {
            "value": value,
            "comparator": {"enum": comparators, **about},
            "required": {
                "description": "Default: true, or false where there is a weight or prefer_for.",
                "type": ["boolean", "null"],
            },
            "weight": {
                "description": "Of a condition that is not required.",
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": MAX_WEIGHT,
                "default": DEFAULT_WEIGHT,
            },
            "prefer_for": {
                "description": "How long the step rather waits than takes a worker that does "
                f'not meet it: seconds, or a duration such as "2s", at most {MAX_PATIENCE:g} s.',
                "type": ["number", "string", "null"],
                "exclusiveMinimum": 0,
                "maximum": MAX_PATIENCE,
                "pattern": DURATION_PATTERN,
            },
        },
        "required": needed,
        "additionalProperties": False,
    }

"""The JSON Schema of all messages, made from the structs that validate them."""

from typing import Any

import msgspec

from ganger_broker.messages import CancelRun, Event, RunResult, ToWorker, Trigger

__all__ = ["message_schema"]


def message_schema() -> dict[str, Any]:
    """One JSON Schema document: each message under ``$defs``, and what a body may be.

    ``Events`` is the body that workers publish, ``ToWorker`` what they get.
    """
    bodies: dict[str, Any] = {
        "Trigger": Trigger,
        "CancelRun": CancelRun,
        "RunResult": RunResult,
        "Events": list[Event],
        "ToWorker": ToWorker,
    }
    schemas, components = msgspec.json.schema_components(
        bodies.values(), ref_template="#/$defs/{name}"
    )
    named = {
        name: components.get(name, schema) for name, schema in zip(bodies, schemas, strict=True)
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ganger messages",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in bodies],
        "$defs": {**dict(components), **named},
    }

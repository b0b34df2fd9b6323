"""The published schema of all messages: JSON Schema, and the channels as AsyncAPI 3.

``ganger schema`` prints the first; ``docs/asyncapi.yaml`` is the second, and a test holds
it to this module.
"""

import inspect
from typing import Any, get_args

import msgspec

from . import messages, schedules, to_worker
from .codec import JSON, MSGPACK
from .label_schema import label_definitions
from .topology import Topology

__all__ = ["MESSAGES", "asyncapi", "json_schema"]

EVENTS: tuple[type, ...] = get_args(messages.Event)
TO_WORKER: tuple[type, ...] = get_args(to_worker.ToWorker)
WITH_PROGRAMS: tuple[type, ...] = (
    messages.Trigger,
    messages.PushEvent,
    messages.CancelRun,
    messages.RunResult,
    schedules.ScheduleRuns,
    schedules.Unschedule,
    schedules.AskSchedules,
    schedules.ScheduleList,
    messages.StreamItem,
)
"""What programs send and get; JSON will do for these."""
MESSAGES: tuple[type, ...] = (*WITH_PROGRAMS, *EVENTS, *TO_WORKER)
"""Every message there is."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every message, under ``$defs`` by its name."""
    definitions = _definitions("#/$defs/{name}")
    return {
        "$schema": _DIALECT,
        "title": "Ganger messages",
        "$defs": dict(sorted(definitions.items())),
    }


def asyncapi() -> dict[str, Any]:
    """The channels, with the default names, and the schema of what goes through them."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ganger",
            "version": "0.1.0",
            "description": "What programs, workers and the dispatcher say to each other over "
            "RabbitMQ. The first word of every name is GANGER_PREFIX.",
        },
        "defaultContentType": MSGPACK,
        "servers": {"rabbitmq": {"host": "127.0.0.1:5672", "protocol": "amqp"}},
        "channels": _channels(Topology()),
        "operations": {
            "trigger": _operation("receive", "triggers", reply="results"),
            "push": _operation("receive", "pushedEvents"),
            "cancel": _operation("receive", "cancellations"),
            "schedule": _operation("receive", "schedules", reply="answers"),
            "unschedule": _operation("receive", "unschedules", reply="answers"),
            "askSchedules": _operation("receive", "questions", reply="answers"),
            "report": _operation("receive", "events"),
            "assign": _operation("send", "work"),
        },
        "components": {
            "messages": {type_.__name__: _message(type_) for type_ in MESSAGES},
            "schemas": dict(sorted(_definitions("#/components/schemas/{name}").items())),
        },
    }


def _channels(topology: Topology) -> dict[str, Any]:
    from_programs = {
        "triggers": (topology.trigger_key("{workflow}"), messages.Trigger),
        "pushedEvents": (topology.push_key("{key}"), messages.PushEvent),
        "cancellations": (topology.cancel_key("{run_id}"), messages.CancelRun),
        "schedules": (topology.schedule_key("{workflow}"), schedules.ScheduleRuns),
        "unschedules": (topology.unschedule_key("{schedule_id}"), schedules.Unschedule),
        "questions": (topology.schedules_key, schedules.AskSchedules),
    }
    return {
        **{
            name: _exchange(topology.exchange, "topic", key, [type_])
            for name, (key, type_) in from_programs.items()
        },
        "answers": _replies("what was asked", [schedules.ScheduleList]),
        "results": _replies("the trigger", [messages.RunResult, messages.StreamItem]),
        "events": {
            **_exchange(topology.exchange, "topic", topology.event_key("{worker}"), list(EVENTS)),
            "description": "a body is a list of these",
        },
        "work": _exchange(topology.work_exchange, "direct", "{worker}", list(TO_WORKER)),
    }


def _replies(to: str, types: list[type]) -> dict[str, Any]:
    return {
        "address": "{reply_to}",
        "description": f"the default exchange; reply_to of {to} is the queue",
        "messages": _references(types),
        "bindings": {"amqp": {"is": "queue"}},
    }


def _message(type_: type) -> dict[str, Any]:
    return {
        "contentType": JSON if type_ in WITH_PROGRAMS else MSGPACK,
        "description": (type_.__doc__ or "").strip().split("\n")[0],
        "payload": {"$ref": f"#/components/schemas/{type_.__name__}"},
    }


def _definitions(references: str) -> dict[str, Any]:
    _, definitions = msgspec.json.schema_components(MESSAGES, ref_template=references)
    for definition in definitions.values():
        if "description" in definition:
            # docstrings: Python 3.13 takes their indentation away, those before leave it
            definition["description"] = inspect.cleandoc(definition["description"])
        properties = definition.get("properties", {})
        if "desired_worker_labels" in properties:  # to msgspec it is a map of anything
            desired = references.format(name="DesiredLabels")
            properties["desired_worker_labels"] = {"$ref": desired, "default": {}}
    return {**definitions, **label_definitions(references)}


def _references(types: list[type]) -> dict[str, Any]:
    return {t.__name__: {"$ref": f"#/components/messages/{t.__name__}"} for t in types}


def _exchange(name: str, kind: str, key: str, types: list[type]) -> dict[str, Any]:
    exchange = {"name": name, "type": kind, "durable": True, "autoDelete": False}
    return {
        "address": key,
        "messages": _references(types),
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange}},
    }


def _operation(action: str, channel: str, reply: str | None = None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
    }
    if reply:
        operation["reply"] = {"channel": {"$ref": f"#/channels/{reply}"}}
    return operation

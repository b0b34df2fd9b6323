"""What tells two definitions of a workflow apart."""

from hashlib import blake2s
from typing import Any

import msgspec

from ganger_broker.definitions import WorkflowDefinition

__all__ = ["digest"]

_MOST_EXACT = 2**53
"""Up to here a whole number is the same as a float."""


def digest(definition: WorkflowDefinition) -> str:
    """The same for equal definitions only; a run keeps the one it began with by it.

    What has no order is put in one: parents, patterns of events, crons, and labels with their
    conditions and lists of values. Labels are equal as matching has it, 512 and 512.0.
    """
    form = msgspec.to_builtins(definition)
    form["on_events"] = sorted(form.get("on_events", ()))
    form["on_crons"] = sorted(form.get("on_crons", ()), key=_encoded)
    for step in (*form["steps"], *filter(None, [form.get("on_failure")])):
        step["parents"] = sorted(step.get("parents", ()))
        for labels in ("desired_worker_labels", "sets_labels"):
            step[labels] = _as_matched(step.get(labels, {}))
    return blake2s(_encoded(form), digest_size=8).hexdigest()


def _as_matched(value: Any) -> Any:
    """Labels with their lists in one order, and whole numbers for floats that are equal to them."""
    if isinstance(value, dict):
        return {key: _as_matched(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted(map(_as_matched, value), key=_encoded)
    if isinstance(value, float) and value.is_integer() and abs(value) <= _MOST_EXACT:
        return int(value)
    return value


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")

"""Hashes of Redis as records. One that cannot be read is told by its key, and costs no other."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
import structlog

from ganger_dispatcher.core.records import RunHeader, StepRun, Worker

__all__ = ["read_run", "read_worker", "readable", "unreadable"]

T = TypeVar("T")

_log = structlog.get_logger("ganger.store")

_TEXT = {
    *("workflow", "version", "definition", "status"),
    *("pinned", "parent", "sticky_to", "queued"),
    *("name", "incarnation", "state", "host"),
}
_UNREADABLE = (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError)


def readable(key: str, read: Callable[[], T]) -> T | None:
    """What is read, or None where somebody else has written there, or parts of it are lost.

    It stays as it is: a worker is written anew when it registers; of all else an operator has to
    think, and is told where it is.
    """
    try:
        return read()
    except _UNREADABLE as exc:
        unreadable(key, exc)
        return None


def unreadable(key: str, error: Exception) -> None:
    """Say so."""
    _log.error("unreadable, left aside", key=key, error=f"{type(error).__name__}: {error}")


def read_run(fields: dict[str, bytes]) -> tuple[RunHeader, dict[str, StepRun]]:
    """A run's hash as header and step runs."""
    header = msgspec.convert(_typed(fields, RunHeader.__struct_fields__), RunHeader)
    steps = {
        field.removeprefix("step:"): msgspec.json.decode(value, type=StepRun)
        for field, value in fields.items()
        if field.startswith("step:")
    }
    return header, steps


def read_worker(
    worker: str, fields: dict[str, bytes], labels: dict[str, bytes], attempts: Iterable[bytes]
) -> Worker:
    """A worker's keys as one value."""
    typed = _typed(fields, Worker.__struct_fields__)
    typed["id"] = worker
    typed["labels"] = {key: msgspec.json.decode(value) for key, value in labels.items()}
    given = typed.get("given_at", 0)
    typed["attempts"] = {attempt.decode(): given for attempt in attempts}
    return msgspec.convert(typed, Worker)


def _typed(fields: dict[str, bytes], names: Iterable[str]) -> dict[str, Any]:
    return {
        name: fields[name].decode() if name in _TEXT else msgspec.json.decode(fields[name])
        for name in names
        if name in fields
    }

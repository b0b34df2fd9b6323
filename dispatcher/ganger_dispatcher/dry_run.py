"""``ganger match FILE``: what the engine would do with a fleet that is written down."""

import json
from typing import Any

import msgspec

from ganger_broker.errors import InvalidInput
from ganger_broker.json_faults import json_fault
from ganger_broker.labels import Requirement, check_labels, parse_desired
from ganger_broker.repeated_keys import repeated_key

from .explanation import Explanation, explain
from .placement import Placement

__all__ = ["dry_run"]

_ANY_ACTION = "any:any"
_MOST_SLOTS = 4096


class _Worker(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    labels: dict[str, Any] = {}
    slots: int = 10
    used: int = 0
    actions: list[str] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    workers: list[_Worker]
    desired_worker_labels: dict[str, Any]
    action: str | None = None


def dry_run(text: bytes) -> Explanation:
    """Match ``{"workers": […], "desired_worker_labels": {…}}``.

    A worker is ``{"id", "labels", "slots", "used", "actions"}``; without ``actions`` it has
    registered every action. With a top-level ``action`` the step's action counts as well.

    Raises:
        InvalidInput: the text is not such JSON; the error names the place, such as
            ``workers[3].labels.memory``.
    """
    file = _read(text)
    if file.action == "":
        raise InvalidInput("action: must not be empty; leave it out where actions do not count")
    action = file.action or _ANY_ACTION
    placement = Placement()
    first: dict[str, int] = {}
    for index, worker in enumerate(file.workers):
        place = f"workers[{index}]"
        if worker.id in first:
            raise InvalidInput(
                f"{place}.id: {worker.id!r} is the id of workers[{first[worker.id]}] already"
            )
        first[worker.id] = index
        _check_slots(worker, place)
        labels = check_labels(worker.labels, f"{place}.labels")
        every = worker.actions is None or file.action is None
        actions = [action] if every else worker.actions or []
        placement.join(worker.id, labels, actions, worker.slots, worker.used)
    desired = parse_desired(file.desired_worker_labels)
    conditions = [condition for group in desired.values() for condition in group]
    return explain(placement, Requirement.of(action, conditions))


def _check_slots(worker: _Worker, place: str) -> None:
    if not worker.id:
        raise InvalidInput(f"{place}.id: must not be empty")
    if not 1 <= worker.slots <= _MOST_SLOTS:
        raise InvalidInput(f"{place}.slots: {worker.slots} must be from 1 to {_MOST_SLOTS}")
    if not 0 <= worker.used <= worker.slots:
        raise InvalidInput(
            f"{place}.used: {worker.used} must be from 0 to its slots, {worker.slots}"
        )


def _read(text: bytes) -> _File:
    try:
        return msgspec.convert(_json(text), _File)
    except msgspec.ValidationError as exc:
        message, found, place = str(exc).rpartition(" - at `$.")
        named = f"{place.rstrip('`')}: {message}" if found else str(exc)
        raise InvalidInput(named) from exc


def _json(text: bytes) -> Any:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        if "out of range" not in str(exc):
            raise InvalidInput(f"is not JSON: {json_fault(text, exc)}") from exc
    except RecursionError as exc:
        raise InvalidInput("is not JSON that can be read: it is nested too deeply") from exc
    try:
        given = text.decode()
        twice = repeated_key(given)
        if twice is None:
            return json.loads(given)  # 1e999 is infinite to it, and is refused with its place
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"is not JSON: {exc}") from exc
    raise InvalidInput(f"{twice.removeprefix('.')}: given twice in one object")

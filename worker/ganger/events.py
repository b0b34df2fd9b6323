"""``app.event``: push events that start runs; blocking, and awaitable under ``aio``."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ganger_broker.errors import InvalidInput
from ganger_broker.event_keys import check_event_key
from ganger_broker.messages import PushEvent
from ganger_broker.plain_values import plain
from ganger_broker.quoting import quoted

from .admin import checked
from .step import written

if TYPE_CHECKING:
    from .admin import Admin, AsyncAdmin

__all__ = ["AsyncEvents", "Events"]

EventToPush = (
    tuple[str, Mapping[str, Any] | None] | tuple[str, Mapping[str, Any] | None, Mapping[str, Any]]
)
_SHAPE = "(key, payload) or (key, payload, fields)"
_FIELDS = ("event_id", "metadata", "priority", "desired_worker_labels")


class AsyncEvents:
    """Awaitable; it goes through the connections of ``admin.aio``."""

    def __init__(self, admin: "AsyncAdmin") -> None:
        self._admin = admin

    async def push(
        self,
        key: str,
        payload: Mapping[str, Any] | None = None,
        *,
        event_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 1,
        desired_worker_labels: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run of every workflow that has a pattern in ``on_events`` for this key.

        Returns the event's id when the broker has confirmed it. ``payload`` is the runs'
        input. With an ``event_id`` of your own, a second push with the same id starts
        nothing anew. The other fields are those of ``admin.run_workflow``.

        Raises:
            InvalidInput: one of these is wrong; the text names the field.
            TransportError: the broker refuses the connection.
        """
        event = _event(
            key,
            payload,
            event_id=event_id,
            metadata=metadata,
            priority=priority,
            desired_worker_labels=desired_worker_labels,
        )
        await (await self._admin.client()).push([(key, event)])
        return event.event_id or ""

    async def bulk_push(self, events: Iterable[EventToPush], *, priority: int = 1) -> list[str]:
        """Push many at once; the events' ids, in their order.

        Each is (key, payload), or (key, payload, fields): a map of the other fields of ``push``,
        such as an ``event_id``. Returns when the broker has confirmed them all.

        Raises:
            InvalidInput: one of them is wrong, and none was pushed; the text names it.
            TransportError: the broker refuses the connection.
        """
        if isinstance(events, str | bytes | Mapping) or not isinstance(events, Iterable):
            raise InvalidInput(f"events: {quoted(events)} must be a list of {_SHAPE}")
        made = []
        for number, given in enumerate(events):
            try:
                key, payload, fields = _parts(given)
                made.append((key, _event(key, payload, **{"priority": priority, **fields})))
            except InvalidInput as exc:
                raise InvalidInput(f"events[{number}]: {exc}") from exc
        await (await self._admin.client()).push(made)
        return [event.event_id or "" for _, event in made]


class Events:
    """Blocking. ``aio`` holds the awaitable twins."""

    def __init__(self, admin: "Admin") -> None:
        self.aio = AsyncEvents(admin.aio)
        self._admin = admin

    def push(self, key: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """The same as ``aio.push``, blocking."""
        return self._admin.call(self.aio.push(key, payload, **fields))

    def bulk_push(self, events: Iterable[EventToPush], *, priority: int = 1) -> list[str]:
        """The same as ``aio.bulk_push``, blocking."""
        return self._admin.call(self.aio.bulk_push(events, priority=priority))


def _parts(given: object) -> tuple[str, Mapping[str, Any] | None, Mapping[str, Any]]:
    """Key, payload and the other fields of one of many events."""
    if not isinstance(given, tuple | list) or not 2 <= len(given) <= 3:
        raise InvalidInput(f"{quoted(given)} must be {_SHAPE}")
    key, payload, fields = given if len(given) == 3 else (*given, {})
    if not isinstance(fields, Mapping):
        raise InvalidInput(f"{quoted(fields)} must be a map of the other fields of an event")
    for field in fields:
        if field not in _FIELDS:
            raise InvalidInput(f"{field!r} is no field of an event; there are {', '.join(_FIELDS)}")
    return key, payload, fields


def _event(
    key: str,
    payload: Mapping[str, Any] | None,
    *,
    event_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    priority: int = 1,
    desired_worker_labels: Mapping[str, Any] | None = None,
) -> PushEvent:
    check_event_key(key, "key")
    fields = {
        "payload": plain({} if payload is None else payload, "payload"),
        "event_id": uuid4().hex if event_id is None else event_id,
        "metadata": plain({} if metadata is None else metadata, "metadata"),
        "priority": priority,
        "desired_worker_labels": written(desired_worker_labels, "desired_worker_labels"),
    }
    return checked(fields, PushEvent)

"""``app.event``: push events that start runs; blocking, and awaitable under ``aio``."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ganger_broker.errors import InvalidInput
from ganger_broker.event_keys import check_event_key
from ganger_broker.messages import PushEvent
from ganger_broker.plain_values import plain

from .admin import checked
from .step import written

if TYPE_CHECKING:
    from .admin import Admin, AsyncAdmin

__all__ = ["AsyncEvents", "Events"]


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
        event = _event(key, payload, event_id, metadata, priority, desired_worker_labels)
        await (await self._admin.client()).push([(key, event)])
        return event.event_id or ""

    async def bulk_push(
        self, events: Iterable[tuple[str, Mapping[str, Any]]], *, priority: int = 1
    ) -> list[str]:
        """Push many (key, payload) at once; the events' ids, in their order.

        Returns when the broker has confirmed them all.

        Raises:
            InvalidInput: one of them is wrong, and none was pushed; the text names it.
            TransportError: the broker refuses the connection.
        """
        made = []
        for number, (key, payload) in enumerate(events):
            try:
                made.append((key, _event(key, payload, None, None, priority, None)))
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

    def bulk_push(
        self, events: Iterable[tuple[str, Mapping[str, Any]]], *, priority: int = 1
    ) -> list[str]:
        """The same as ``aio.bulk_push``, blocking."""
        return self._admin.call(self.aio.bulk_push(events, priority=priority))


def _event(
    key: str,
    payload: Mapping[str, Any] | None,
    event_id: str | None,
    metadata: Mapping[str, Any] | None,
    priority: int,
    desired_worker_labels: Mapping[str, Any] | None,
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

"""``app.admin``: run workflows and cancel runs; blocking, and awaitable under ``aio``."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast
from uuid import uuid4

import msgspec

from ganger_broker.errors import InvalidInput
from ganger_broker.messages import CancelRun, Trigger
from ganger_broker.plain_values import plain
from ganger_broker.schedules import (
    AskSchedules,
    ScheduleInfo,
    ScheduleRuns,
    Unschedule,
    check_times,
)

from .background import BackgroundLoop
from .client import Client, WorkflowRunRef
from .embedded import ensure_dispatcher
from .step import written
from .workflow import workflow_name_of

if TYPE_CHECKING:
    from .app import Ganger

__all__ = ["Admin", "AsyncAdmin", "checked"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")


class AsyncAdmin:
    """Awaitable; it has a connection for each event loop it is used on."""

    def __init__(self, app: "Ganger") -> None:
        self._app = app
        self._clients: dict[asyncio.AbstractEventLoop, asyncio.Task[Client]] = {}
        self._guards: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    async def run_workflow(
        self,
        workflow: str | object,
        input: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 1,
        desired_worker_labels: Mapping[str, Any] | None = None,
        parent: str | None = None,
        sticky_to: str | None = None,
        stream: bool = False,
    ) -> WorkflowRunRef:
        """Trigger a run; returns when the broker has confirmed the trigger.

        ``workflow``: its name, or its class. ``run_id`` makes it idempotent: a second
        trigger with the same id is the same run. ``desired_worker_labels`` are merged over
        each step's own, by key. ``priority``: 1 to 3, 3 goes first. ``parent`` and
        ``sticky_to`` are for runs that steps spawn: see ``context.aio``. ``stream``: what its
        steps say comes here while it runs; see ``WorkflowRunRef.stream``.

        Raises:
            InvalidInput: one of these is wrong; the text names the field.
            TransportError: the broker refuses the connection.
        """
        fields = {
            "workflow": workflow_name_of(workflow),
            "input": plain({} if input is None else input, "input"),
            "run_id": uuid4().hex if run_id is None else run_id,
            "metadata": plain({} if metadata is None else metadata, "metadata"),
            "priority": priority,
            "desired_worker_labels": written(desired_worker_labels, "desired_worker_labels"),
            "parent": parent,
            "sticky_to": sticky_to,
            "stream": stream,
        }
        trigger = checked(fields, Trigger)
        return await (await self.client()).trigger(trigger, new=run_id is None)

    async def cancel(self, run_id: str, reason: str = "cancelled on request") -> None:
        """Ask to cancel a run; returns when the broker has confirmed the request.

        A run that has ended, or never was, is left as it is.

        Raises:
            InvalidInput: the id cannot be one.
            TransportError: the broker refuses the connection.
        """
        request = checked({"run_id": run_id, "reason": reason}, CancelRun)
        await (await self.client()).cancel(request)

    async def schedule_workflow(
        self,
        workflow: str | object,
        at: datetime | Iterable[datetime],
        input: Mapping[str, Any] | None = None,
        *,
        schedule_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 1,
        desired_worker_labels: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Have a workflow run once at each of these times; the ids of the schedules.

        ``at`` have a time zone; one that has passed is now. ``schedule_id`` makes it idempotent;
        of several times the ids are ``<schedule_id>-1`` and so on. The other fields are those of
        ``run_workflow``.

        Raises:
            InvalidInput: one of these is wrong; the text names the field.
            TimeoutError: no dispatcher answered; it may be scheduled all the same.
            TransportError: the broker refuses the connection.
        """
        fields = {
            "workflow": workflow_name_of(workflow),
            "at": _times(at),
            "schedule_id": uuid4().hex if schedule_id is None else schedule_id,
            "input": plain({} if input is None else input, "input"),
            "metadata": plain({} if metadata is None else metadata, "metadata"),
            "priority": priority,
            "desired_worker_labels": written(desired_worker_labels, "desired_worker_labels"),
        }
        request = checked(fields, ScheduleRuns)
        key = self._app.settings.topology().schedule_key(request.workflow)
        found = await self._ask(key, request)
        return [schedule.schedule_id for schedule in found]

    async def list_schedules(self) -> list[ScheduleInfo]:
        """All schedules, those of crons too, the next to come first.

        Raises:
            TimeoutError: no dispatcher answered.
            TransportError: the broker refuses the connection.
        """
        return await self._ask(self._app.settings.topology().schedules_key, AskSchedules())

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule that has not run yet, or all that were asked for under one id.

        Raises:
            InvalidInput: there is none, or it is a cron's of a workflow that a worker has.
            TimeoutError: no dispatcher answered; it may be deleted all the same.
            TransportError: the broker refuses the connection.
        """
        request = checked({"schedule_id": schedule_id}, Unschedule)
        await self._ask(self._app.settings.topology().unschedule_key(schedule_id), request)

    async def _ask(self, key: str, request: object) -> list[ScheduleInfo]:
        answer = await (await self.client()).ask(key, request)
        if answer.error is not None:
            raise InvalidInput(f"schedule: {answer.error}")
        return answer.schedules

    async def close(self) -> None:
        """Close the connection of this event loop; it is opened again when needed."""
        loop = asyncio.get_running_loop()
        opening, guard = self._clients.pop(loop, None), self._guards.get(loop)
        try:
            if opening is not None and opening.done() and not _failed(opening):
                await opening.result().close()
        finally:
            if guard is not None:
                guard.cancel()
                await asyncio.gather(guard, return_exceptions=True)

    async def client(self) -> Client:
        """This event loop's connection, opened when it is first asked for."""
        loop = asyncio.get_running_loop()
        opening = self._clients.get(loop)
        if opening is None or (opening.done() and _failed(opening)):
            opening = self._clients[loop] = asyncio.create_task(self._open())
        # shielded: others may wait for the same connection
        return await asyncio.shield(opening)

    async def _open(self) -> Client:
        settings = self._app.settings
        if settings.embedded:
            await asyncio.to_thread(ensure_dispatcher, settings)
        client = Client(settings, self._app.open_transport("client"))
        guard = asyncio.create_task(self._close_at_end(client))
        self._guards[asyncio.get_running_loop()] = guard
        try:
            await client.connect()
        except BaseException:
            await self.close()
            raise
        return client

    async def _close_at_end(self, client: Client) -> None:
        """Close the client when this is cancelled, as ``asyncio.run`` does at its end.

        By then it has cancelled all that a tidy end would need.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.create_future()
        finally:
            self._clients.pop(loop, None)
            self._guards.pop(loop, None)
            await client.disconnect()


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def _times(at: datetime | Iterable[datetime]) -> list[datetime]:
    times = [at] if isinstance(at, datetime) else list(at)
    for number, each in enumerate(times):
        if not isinstance(each, datetime) or each.tzinfo is None:
            raise InvalidInput(
                f"at[{number}]: {each!r} must be a datetime with a time zone, such as "
                "datetime.now(UTC) + timedelta(hours=1)"
            )
    check_times(times, "at")
    return times


_RIGHT = {
    "workflow": "must be a workflow's name: lower case letters, digits and _ . -",
    "input": "must be a map with strings as keys",
    "metadata": "must be a map with strings as keys",
    "payload": "must be a map with strings as keys",
    "event_id": "must be 1 to 128 letters, digits and _ . : -",
    "run_id": "must be 1 to 128 letters, digits and _ . : -",
    "schedule_id": "must be 1 to 120 letters, digits and _ . : -",
    "priority": "must be 1, 2 or 3 (3 goes first)",
}


_MOST_SHOWN = 200
"""Characters of a wrong value in what is said of it."""


def checked(fields: dict[str, Any], kind: type[M]) -> M:
    """The message of these fields.

    Raises:
        InvalidInput: one is wrong; the text names it and says what would be right.
    """
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as exc:
        message, _, place = str(exc).rpartition(" - at `$.")
        field = place.rstrip("`")
        given = repr(fields.get(field))
        shown = given if len(given) <= _MOST_SHOWN else f"{given[:_MOST_SHOWN]}…"
        raise InvalidInput(f"{field}: {shown} {_RIGHT.get(field, message)}") from exc


def _blocking(
    method: Callable[Concatenate[AsyncAdmin, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Admin", P], R]:
    """The blocking twin of an awaitable method: the one place where they are made."""

    @functools.wraps(method)
    def call(self: "Admin", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.call(method(self.aio, *args, **kwargs))

    return cast("Callable[Concatenate[Admin, P], R]", call)


class Admin:
    """Blocking; it works on a background thread of its own. ``aio`` holds the awaitable twins."""

    def __init__(self, app: "Ganger") -> None:
        self.aio = AsyncAdmin(app)
        self._loop: BackgroundLoop | None = None

    run_workflow = _blocking(AsyncAdmin.run_workflow)
    cancel = _blocking(AsyncAdmin.cancel)
    schedule_workflow = _blocking(AsyncAdmin.schedule_workflow)
    list_schedules = _blocking(AsyncAdmin.list_schedules)
    delete_schedule = _blocking(AsyncAdmin.delete_schedule)

    def close(self) -> None:
        """Close its connection and end its thread; both come back when needed."""
        loop, self._loop = self._loop, None
        if loop is not None:
            try:
                loop.call(self.aio.close())
            finally:
                loop.close()

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        """Run it on the background thread, and wait for it."""
        if self._loop is None:
            self._loop = BackgroundLoop("ganger-client")
        return self._loop.call(work)

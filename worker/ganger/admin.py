"""``app.admin``: run workflows and cancel runs; blocking, and awaitable under ``aio``."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast
from uuid import uuid4

import msgspec

from ganger_broker.errors import InvalidInput, TransportClosed
from ganger_broker.messages import CancelRun, Trigger
from ganger_broker.plain_values import plain
from ganger_broker.quoting import quoted
from ganger_broker.schedules import (
    AskSchedules,
    ScheduleInfo,
    ScheduleRuns,
    Unschedule,
    check_times,
)
from ganger_broker.settings import Settings
from ganger_broker.transports import open_transport

from .background import BackgroundLoop
from .client import Client, WorkflowRunRef
from .clock import wall_clock
from .current_step import children_here
from .embedded import ensure_dispatcher
from .step import written
from .workflow import workflow_name_of

if TYPE_CHECKING:
    from .app import Ganger

__all__ = ["Admin", "AsyncAdmin", "checked"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")


_Place: TypeAlias = tuple[asyncio.AbstractEventLoop, Settings]
_Connection: TypeAlias = tuple[asyncio.Future[Client], asyncio.Task[None]]
"""A client once it is connected, and the task that holds it open."""


class AsyncAdmin:
    """Awaitable; it has a connection for each event loop it is used on.

    And for each of the app's settings there: what is done now goes where they say now, and what
    is awaited still comes from where it was asked for.
    """

    def __init__(self, app: "Ganger") -> None:
        self._app = app
        self._connections: dict[_Place, _Connection] = {}

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

        ``at`` have a time zone; one that has passed is now. ``schedule_id`` makes it idempotent:
        a time that has had its run has no other, and with other times those that are not named any
        more are deleted. Of several times the ids are ``<schedule_id>-1`` and so on. The other
        fields are those of ``run_workflow``.

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
        """Close the connections of this event loop; they are opened again when needed.

        Who waits for one to be opened gets TransportClosed.
        """
        loop = asyncio.get_running_loop()
        own = [place for place in self._connections if place[0] is loop]
        await asyncio.gather(*[_close(*self._connections.pop(place)) for place in own])

    async def client(self) -> Client:
        """This event loop's connection, opened when it is first asked for."""
        place = asyncio.get_running_loop(), self._app.settings
        connection = self._connections.get(place)
        if connection is None:
            opened: asyncio.Future[Client] = place[0].create_future()
            connection = opened, asyncio.create_task(self._hold(place, opened))
            self._connections[place] = connection
        # shielded: others may wait for the same connection
        return await asyncio.shield(connection[0])

    async def _hold(self, place: _Place, opened: asyncio.Future[Client]) -> None:
        """Open the connection, and close it when this is cancelled, as ``asyncio.run`` does.

        By then it has cancelled all that a tidy end would need.
        """
        (loop, settings), client = place, None
        failure: Exception = TransportClosed("the connection was closed while it was opened")
        try:
            if settings.embedded:
                await asyncio.to_thread(ensure_dispatcher, settings)
            client = Client(settings, open_transport(settings, "client"))
            await client.connect()
            opened.set_result(client)
            await loop.create_future()
        except Exception as exc:  # raised by ``client``, where it is waited for
            failure = exc
        finally:
            if place in self._connections and self._connections[place][0] is opened:
                del self._connections[place]
            if client is not None:
                await client.disconnect()
            if not opened.done():
                opened.set_exception(failure)
                opened.exception()  # nobody needs to have waited for it


async def _close(opened: asyncio.Future[Client], holding: asyncio.Task[None]) -> None:
    try:
        if opened.done() and opened.exception() is None:
            await opened.result().close()
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


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
        shown = quoted(fields.get(field), _MOST_SHOWN)
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
        self._app = app
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
        """Run it on the background thread, and wait for it.

        Raises:
            GangerError: the app is on a test's fleet, whose time stands still meanwhile.
        """
        if self._loop is None:
            self._loop = BackgroundLoop("ganger-client")
        clock = self._app.clock
        if clock is wall_clock or children_here() is not None:
            return self._loop.call(work)
        return self._loop.call_in_time(work, clock)

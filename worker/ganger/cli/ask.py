"""The verbs of programs: ``trigger``, ``cancel``, ``unschedule`` and ``schema``."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from ganger.app import Ganger
from ganger.client import WorkflowRunRef
from ganger_broker.durations import parse_duration
from ganger_broker.errors import InvalidInput, InvalidSetting, RunFailed
from ganger_broker.logs import configure_logging
from ganger_broker.messages import RunResult, RunStatus, StreamItem
from ganger_broker.schema import json_schema
from ganger_broker.settings import Settings, environment_name, flag_name

from .options import BrokerUrl, Prefix, read_object
from .printing import print_json, print_line, say

__all__ = ["cancel", "schema", "trigger", "unschedule"]

T = TypeVar("T")

PATIENCE = "30s"
"""For the broker, and for an answer, where nothing else is waited for and no time is given."""
_IS_IT_UP = "is the broker up, and is --broker-url (GANGER_BROKER_URL) right?"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


WorkflowName = Annotated[
    str,
    typer.Argument(metavar="WORKFLOW", help="Its name: the class's, in lower case."),
]
Input = Annotated[str, typer.Option("--input", metavar="JSON", help="The run's input, an object.")]
RunId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Triggering the same id again is the same run."),
]
Metadata = Annotated[
    str, typer.Option(metavar="JSON", help="Kept with the run for its steps, an object.")
]
Priority = Annotated[int, typer.Option(metavar="1|2|3", help="Where steps wait, 3 goes first.")]
DesiredLabels = Annotated[
    str,
    typer.Option(
        metavar="JSON",
        help='What its steps desire of workers too, such as {"zone": "fra"}; merged over '
        "each step's own.",
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for its end and print what each step returned.")
]
Follow = Annotated[
    bool,
    typer.Option("--follow", help="As --wait, and print what its steps say while it runs."),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TIME",
        help="Run it then, such as 2027-01-01T09:00+01:00, with its offset; may be repeated. "
        "Prints the schedule's id.",
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="At most, such as 90s. With --wait or --follow for its end, and the run goes on; "
        f"default: no limit. Else for the broker to take it; default: {PATIENCE}.",
    ),
]
AskTimeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        help=f"For the broker, and for an answer, at most. Default: {PATIENCE}.",
    ),
]
RunAsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the run's id, or with --wait its end, as JSON; with --follow a line each.",
    ),
]


def trigger(
    workflow: WorkflowName,
    input: Input = "{}",
    run_id: RunId = None,
    metadata: Metadata = "{}",
    priority: Priority = 1,
    desired_labels: DesiredLabels = "{}",
    wait: Wait = False,
    at: At = None,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: RunAsJson = False,
    broker_url: BrokerUrl = None,
    prefix: Prefix = None,
) -> None:
    """Trigger a run of a workflow and print its id; with --wait or --follow, what it returned.

    Exit status 1: it failed, was cancelled, did not end in time, or the broker did not take it.
    """
    app = _app(broker_url, prefix)
    if at and (wait or follow):
        raise InvalidInput("--wait, --follow: are not for --at: nobody waits that long")
    values = read_object("--input", input)
    fields: dict[str, Any] = {
        "metadata": read_object("--metadata", metadata),
        "priority": priority,
        "desired_worker_labels": read_object("--desired-labels", desired_labels),
    }
    if at:
        times = [_time(each) for each in at]
        fields["schedule_id"] = run_id
        _schedule(app, workflow, times, values, fields, timeout, as_json)
        return
    fields |= {"run_id": run_id, "stream": follow}
    show = _follow if follow else _show_result if wait else _show_id
    most = timeout if wait or follow else timeout or PATIENCE
    asyncio.run(_trigger(app, workflow, values, fields, most, show, as_json))


async def _trigger(
    app: Ganger,
    workflow: str,
    values: dict[str, Any],
    fields: dict[str, Any],
    timeout: str | None,  # noqa: ASYNC109
    show: Callable[[WorkflowRunRef, bool], Awaitable[None]],
    as_json: bool,
) -> None:
    """Trigger it and show of it what is wanted, within the time."""
    ref = None
    seconds = None if timeout is None else parse_duration(timeout, "--timeout")
    try:
        async with asyncio.timeout(seconds) as bound:
            ref = await app.admin.aio.run_workflow(workflow, values, **fields)
            await show(ref, as_json)
    except TimeoutError:
        if not bound.expired():
            raise
        say(f"ganger: {_too_late(ref, workflow, timeout)}", err=True)
        raise typer.Exit(1) from None
    finally:
        await app.admin.aio.close()


async def _show_id(ref: WorkflowRunRef, as_json: bool) -> None:
    if as_json:
        print_json({"run_id": ref.run_id})
    else:
        say(ref.run_id)


def _schedule(
    app: Ganger,
    workflow: str,
    at: list[datetime],
    values: dict[str, Any],
    fields: dict[str, Any],
    timeout: str | None,
    as_json: bool,
) -> None:
    question = partial(app.admin.aio.schedule_workflow, workflow, at, values, **fields)
    ids = _asked(app, question, timeout, f"no answer to the schedule of {workflow}")
    if as_json:
        print_json({"schedule_ids": ids})
    else:
        say("\n".join(ids))


def _time(given: str) -> datetime:
    right = "write it with its offset, such as 2027-01-01T09:00+01:00, or Z for UTC"
    try:
        at = datetime.fromisoformat(given)
    except ValueError as exc:
        raise InvalidInput(f"--at: {given!r} is no time; {right}") from exc
    if at.tzinfo is None:
        raise InvalidInput(f"--at: {given!r} has no time zone; {right}")
    return at


def _asked(
    app: Ganger, question: Callable[[], Coroutine[Any, Any, T]], timeout: str | None, too_late: str
) -> T:
    """The answer, where it comes in time."""
    most = timeout or PATIENCE

    async def asking() -> T:
        try:
            async with asyncio.timeout(parse_duration(most, "--timeout")) as bound:
                return await question()
        except TimeoutError as exc:
            text = f"{too_late} within {most}; {_IS_IT_UP}" if bound.expired() else exc
            say(f"ganger: {text}", err=True)
            raise typer.Exit(1) from None
        finally:
            await app.admin.aio.close()

    return asyncio.run(asking())


async def _follow(ref: WorkflowRunRef, as_json: bool) -> None:
    """Print what its steps say while it runs, then its result; as JSON, each on one line."""
    attempts: dict[str, str] = {}
    async for item in ref.stream():
        before = attempts.setdefault(item.step, item.attempt)
        if before != item.attempt and not as_json:
            attempts[item.step] = item.attempt
            say(f"ganger: {item.attempt}: step {item.step} runs anew", err=True)
        if as_json:
            print_line(item)
        else:
            say(_said(item))
    await _show_result(ref, as_json, print_line if as_json else print_json)


def _said(item: StreamItem) -> str:
    data = item.data if isinstance(item.data, str) else msgspec.json.encode(item.data).decode()
    return data if item.level is None else f"{item.level:<7} {item.step}: {data}"


async def _show_result(
    ref: WorkflowRunRef, as_json: bool, show: Callable[[Any], None] | None = None
) -> None:
    show = show or print_json
    try:
        output = await ref.result()
    except RunFailed as exc:
        if not as_json:
            raise
        show(exc.result)
        raise typer.Exit(1) from None
    if as_json:
        show(RunResult(ref.workflow, ref.run_id, RunStatus.SUCCEEDED, output))
    else:
        show(output)


def _too_late(ref: WorkflowRunRef | None, workflow: str, timeout: str | None) -> str:
    if ref is None:
        return f"the broker did not take the trigger of {workflow} within {timeout}; {_IS_IT_UP}"
    return f"run {ref.run_id} of {ref.workflow} has not ended within {timeout}; it goes on"


def cancel(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Told to whoever waits for the run.")
    ] = "cancelled on request",
    timeout: AskTimeout = None,
    as_json: AsJson = False,
    broker_url: BrokerUrl = None,
    prefix: Prefix = None,
) -> None:
    """Ask to cancel a run, pending or running; one that has ended stays as it is.

    The broker takes the request; what became of the run `ganger runs` shows.
    """
    app = _app(broker_url, prefix)
    late = f"the broker did not take the request to cancel run {run_id}"
    _asked(app, lambda: app.admin.aio.cancel(run_id, reason), timeout, late)
    if as_json:
        print_json({"run_id": run_id, "reason": reason, "requested": True})
    else:
        say(f"asked to cancel run {run_id}")


def unschedule(
    schedule_id: Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's id.")],
    timeout: AskTimeout = None,
    as_json: AsJson = False,
    broker_url: BrokerUrl = None,
    prefix: Prefix = None,
) -> None:
    """Delete a schedule that has not run yet; `ganger schedules` shows them.

    A cron's is deleted where its workflow says on_crons, or when no worker has that any more.
    """
    app = _app(broker_url, prefix)
    late = f"no answer to the request to delete schedule {schedule_id}"
    _asked(app, lambda: app.admin.aio.delete_schedule(schedule_id), timeout, late)
    if as_json:
        print_json({"schedule_id": schedule_id, "deleted": True})
    else:
        say(f"deleted schedule {schedule_id}")


def schema() -> None:
    """Print the JSON Schema of all messages."""
    print_json(json_schema())


def _app(broker_url: str | None, prefix: str | None) -> Ganger:
    settings = Settings.load(flag_name, broker_url=broker_url, prefix=prefix)
    if settings.embedded:
        name = environment_name if broker_url is None else flag_name
        raise InvalidSetting(
            f"{name('broker_url')}: {settings.broker_url} lives in the process that opened it; "
            "give an amqp:// URL, or trigger from within that process"
        )
    configure_logging(settings)  # what is logged is no part of what is printed
    return Ganger(settings)

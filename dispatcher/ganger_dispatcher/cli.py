"""The command line's verbs that need NumPy and Redis: ``ganger.commands`` entry point."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganger_broker.errors import InvalidInput, InvalidSetting
from ganger_broker.logs import configure_logging
from ganger_broker.settings import MEMORY_URL, Settings, environment_name, flag_name
from ganger_broker.transports import open_transport

from .core.records import RunHeader, StepRun, Worker
from .dry_run import dry_run
from .explanation import Explanation, Reason
from .inspection import StepExplanation, explain_step
from .service import Dispatcher
from .store import RedisStore, open_redis

__all__ = ["commands"]

T = TypeVar("T")

BrokerUrl = Annotated[str | None, typer.Option("--broker-url", help="RabbitMQ [GANGER_BROKER_URL]")]
RedisUrl = Annotated[str | None, typer.Option("--redis-url", help="Redis [GANGER_REDIS_URL]")]
Prefix = Annotated[
    str | None,
    typer.Option("--prefix", help="First word of queues and keys [GANGER_PREFIX]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_WORKERS_SHOWN = 20
"""Workers a table of reasons shows; --json shows all."""


def commands(app: typer.Typer) -> None:
    """Add these verbs to the ``ganger`` command."""
    app.command()(dispatcher)
    app.command()(workers)
    app.command()(runs)
    app.command()(explain)
    app.command()(match)


def dispatcher(
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
    queue_type: Annotated[
        str | None,
        typer.Option(help="Of the shared queues: quorum or classic [GANGER_QUEUE_TYPE]"),
    ] = None,
) -> None:
    """Run a dispatcher: it leads, or stands by for the one that does."""
    settings = Settings.load(
        flag_name, broker_url=broker_url, redis_url=redis_url, prefix=prefix, queue_type=queue_type
    )
    if settings.embedded:
        raise InvalidSetting(
            f"{_named('broker_url', broker_url)}: {settings.broker_url} is a broker inside one "
            "process, which has a dispatcher of its own there; give an amqp:// URL"
        )
    configure_logging(settings)
    _collect_seldom()
    asyncio.run(_dispatch(settings))


def _collect_seldom() -> None:
    """Look for reference cycles seldom: a dispatcher makes few, and holds much that lives long.

    Looking after every 700 new objects, Python's default, takes a tenth of its time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


async def _dispatch(settings: Settings) -> None:
    store = RedisStore(open_redis(settings.redis_url), settings.keys(), settings.feed_length)
    service = Dispatcher(settings, open_transport(settings, "dispatcher"), store)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    try:
        await service.run()
    finally:
        await store.close()


def workers(as_json: AsJson = False, redis_url: RedisUrl = None, prefix: Prefix = None) -> None:
    """Show the live workers: labels, slots, load."""
    settings = _reading(redis_url, prefix)
    found = _ask(settings, lambda store: store.workers())
    if as_json:
        _print_json([_worker_json(worker) for worker in found])
        return
    table = Table("worker", "state", "slots", "labels", "actions", "heard", title="Workers")
    for worker in found:
        _add_row(
            table,
            worker.id,
            worker.state.value,
            f"{worker.used}/{worker.slots}",
            _labels_text(worker.labels),
            "\n".join(worker.actions),
            _time_text(worker.heartbeat_at),
        )
    _print_table(table, found, "no workers have registered")


def runs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show the newest runs and where their steps are."""
    settings = _reading(redis_url, prefix)
    found = _ask(settings, lambda store: store.newest_runs(limit))
    if as_json:
        _print_json([_run_json(*run) for run in found])
        return
    table = Table("run", "workflow", "status", "steps", "created", "took", title="Runs")
    for run_id, header, steps in found:
        end = header.finished_at
        _add_row(
            table,
            run_id,
            header.workflow,
            header.status.value + (f"\n{header.error.message}" if header.error else ""),
            "\n".join(_step_text(name, step) for name, step in steps.items()),
            _time_text(header.created_at),
            f"{end - header.created_at} ms" if end else "",
        )
    _print_table(table, found, "there are no runs")


def explain(
    step_run: Annotated[str, typer.Argument(help="<run>/<step>; a run's id if it has one step.")],
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Say why a step waits: not now, or never with this fleet; the nearest misses first."""
    settings = _reading(redis_url, prefix)
    found = _ask(settings, lambda store: explain_step(store, step_run))
    if as_json:
        _print_json(found)
        return
    console = Console(markup=False)
    console.print(_explain_text(found), highlight=False)
    if found.verdict is not None:
        console.print(_reasons_table(found.workers))


def match(
    file: Annotated[
        Path,
        typer.Argument(help="JSON with workers and desired_worker_labels; - is standard input."),
    ],
    as_json: AsJson = False,
) -> None:
    """Try a requirement on a fleet that is written down: who would get the step, and why."""
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        explanation = dry_run(text)
    except OSError as exc:
        _refuse(f"{file}: {exc.strerror}")
    except InvalidInput as exc:
        _refuse(f"{file}: {exc}")
    if as_json:
        _print_json(explanation)
        return
    console = Console(markup=False)
    chosen = explanation.selected
    console.print(f"selected: {chosen}" if chosen else "selected: nobody", highlight=False)
    console.print(_reasons_table(_plain(explanation)))


# ── showing ───────────────────────────────────────────────────────────────────────────


def _reading(redis_url: str | None, prefix: str | None) -> Settings:
    """Settings of a verb that reads Redis, and nothing else.

    Raises:
        InvalidSetting: what it would read is inside another process, or another fleet's.
    """
    settings = Settings.load(flag_name, redis_url=redis_url, prefix=prefix)
    if settings.redis_url.startswith(MEMORY_URL):
        raise InvalidSetting(
            f"{_named('redis_url', redis_url)}: {settings.redis_url} is a Redis inside one "
            "process, which cannot be read from another; give a redis:// URL"
        )
    if settings.embedded and redis_url is None:
        raise InvalidSetting(
            f"GANGER_BROKER_URL: {settings.broker_url} has a Redis of its own inside the same "
            "process, which cannot be read from here; give --redis-url to read another fleet's"
        )
    return settings


def _named(setting: str, given: str | None) -> str:
    """The name of a setting, as it was given."""
    return environment_name(setting) if given is None else flag_name(setting)


def _ask(settings: Settings, ask: Callable[[RedisStore], Awaitable[T]]) -> T:
    async def asking() -> T:
        store = RedisStore(open_redis(settings.redis_url), settings.keys())
        try:
            return await ask(store)
        finally:
            await store.close()

    return asyncio.run(asking())


def _refuse(text: str) -> NoReturn:
    typer.echo(f"ganger: {text}", err=True)
    raise typer.Exit(2)


def _print_json(value: Any) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_table(table: Table, rows: list[Any], nothing: str) -> None:
    Console().print(table if rows else nothing)


def _add_row(table: Table, *cells: str) -> None:
    """Cells are what users wrote: brackets in them are brackets, and no markup."""
    table.add_row(*map(Text, cells))


def _plain(explanation: Explanation) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = msgspec.to_builtins(explanation.workers)
    return workers


def _worker_json(worker: Worker) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(worker)
    return {**fields, "used": worker.used, "attempts": sorted(worker.attempts)}


def _run_json(run_id: str, header: RunHeader, steps: dict[str, StepRun]) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(header)
    del fields["reply"]
    return {"run_id": run_id, **fields, "steps": msgspec.to_builtins(steps)}


def _labels_text(labels: dict[str, Any]) -> str:
    values = {key: msgspec.json.encode(value).decode() for key, value in labels.items()}
    return "\n".join(f"{key}={value}" for key, value in values.items())


def _step_text(name: str, step: StepRun) -> str:
    return f"{name}: {step.status}" + (f" on {step.worker}" if step.worker else "")


def _time_text(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%H:%M:%S")


def _explain_text(found: StepExplanation) -> str:
    where = f" on {found.worker}" if found.worker else ""
    text = f"{found.step_run}: {found.status}{where}"
    if found.verdict is None:
        return text
    meaning = {
        "now": "a worker can take it; it is about to be placed",
        "not now": "workers that meet the requirement are full, draining or paused",
        "never with this fleet": "no live worker meets the requirement",
    }
    return f"{text}\n{found.verdict}: {meaning[found.verdict]}"


def _reasons_table(workers: list[dict[str, Any]]) -> Table:
    table = Table("worker", "eligible", "weight", "sum", "conditions")
    for worker in workers[:_WORKERS_SHOWN]:
        load = (
            f"\n{worker['used']}/{worker['slots']} {worker['state']}" if "state" in worker else ""
        )
        reasons = [msgspec.convert(reason, Reason) for reason in worker["reasons"]]
        _add_row(
            table,
            worker["id"] + load,
            "yes" if worker["eligible"] else "no",
            str(worker["highest_weight"]),
            str(worker["total_weight"]),
            "\n".join(map(_reason_text, reasons)),
        )
    if len(workers) > _WORKERS_SHOWN:
        table.caption = f"and {len(workers) - _WORKERS_SHOWN} more; --json shows all"
    return table


def _reason_text(reason: Reason) -> str:
    mark = "✓" if reason.met else "✗"
    kind = "required" if reason.required else "preferred"
    desired = "" if reason.desired is None else f" {msgspec.json.encode(reason.desired).decode()}"
    actual = "no label" if reason.actual is None else msgspec.json.encode(reason.actual).decode()
    return f"{mark} {reason.key} {reason.comparator}{desired} ({kind}): {actual}, {reason.code}"

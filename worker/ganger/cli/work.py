"""The verbs that run workers: ``worker`` and ``dev``."""

import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ganger.app import Ganger
from ganger.embedded import ensure_dispatcher
from ganger.worker import Worker
from ganger_broker.durations import parse_duration
from ganger_broker.errors import (
    GangerError,
    InvalidInput,
    InvalidSetting,
    InvalidWorkflow,
    MissingExtra,
    TransportClosed,
)
from ganger_broker.leaving import ignore_signals
from ganger_broker.logs import configure_logging
from ganger_broker.settings import MEMORY_URL, Settings, flag_name

from .loading import check_there, load
from .options import BrokerUrl, Prefix, read_labels, read_object
from .printing import print_json, say
from .waiting import tell_waiting

__all__ = ["demo", "dev", "worker"]

DEFAULT_SLOTS = 10
ANSWER_PATIENCE = 2.0
"""Seconds for the answer of a run whose last step has ended."""
END_PATIENCE = 1.0
"""Seconds to say in that the run of --trigger has not ended."""
RELOAD_PATIENCE = 7.0
"""Seconds beyond the grace that a worker has to leave in before it is killed for a reload."""

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:APP",
        help="A Ganger app in a module here or installed: tasks:app is `app` of tasks.py. It may "
        "name a Worker too.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The worker's id begins with it. Default: the module's."),
]
LabelFlags = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        help="A label of the worker; may be repeated. memory=512 is a number, zone=fra a string, "
        "and 'model=\"512\"' the string 512.",
    ),
]
SlotCount = Annotated[
    int | None,
    typer.Option(metavar="N", help=f"Steps it runs at once. Default: {DEFAULT_SLOTS}."),
]
PoolName = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="POOL",
        help="It is a machine of this pool, and takes the steps whose compute is that one; "
        "`ganger compute plan` shows the pools.",
    ),
]
RegionCode = Annotated[
    str | None,
    typer.Option("--region", metavar="CODE", help="With --pool: where it is, such as fra."),
]
WorkerId = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="ID",
        help="The worker's id; two live workers must never share one. Default: its name and "
        "eight random digits.",
    ),
]
UnusedRedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", hidden=True, help="Taken, so that all verbs take the same flags."),
]


def worker(
    target: Target,
    name: Name = None,
    label: LabelFlags = None,
    slots: SlotCount = None,
    pool: PoolName = None,
    region: RegionCode = None,
    worker_id: WorkerId = None,
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="What running steps are given to end after SIGTERM, such as 90s "
            "[GANGER_DRAIN_GRACE; default: 30s]",
        ),
    ] = None,
    broker_url: BrokerUrl = None,
    redis_url: UnusedRedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Run a worker with all workflows of an app, until SIGTERM or Ctrl-C.

    It then takes no more steps and ends when those that run have; a second signal ends it
    at once, and other workers run its steps again.
    """
    flags = {"broker_url": broker_url, "redis_url": redis_url, "prefix": prefix}
    Settings.load(flag_name, **flags)
    seconds = None if grace is None else parse_duration(grace, "--grace")
    place = {"pool": pool, "region": region, "worker_id": worker_id}
    made = _loaded(target, flags, name, label or [], slots, place)
    configure_logging(made.app.settings)
    made.start(grace=seconds)
    ignore_signals()


ReloadGrace = Annotated[
    str,
    typer.Option(metavar="TIME", help="What running steps are given to end at a reload."),
]
FirstTrigger = Annotated[
    str | None,
    typer.Option(
        metavar="WORKFLOW", help="Run this workflow after each start and print its result."
    ),
]
FirstInput = Annotated[
    str, typer.Option("--input", metavar="JSON", help="The input of --trigger, an object.")
]
Reload = Annotated[bool, typer.Option(help="Start anew when a file changes.")]
Watch = Annotated[
    Path, typer.Option(metavar="PATH", help="Watched for changes: a folder, or a file.")
]
DevBrokerUrl = Annotated[
    str | None,
    typer.Option(
        "--broker-url",
        metavar="URL",
        help="Use this RabbitMQ, and --redis-url [GANGER_BROKER_URL; default: memory://]",
    ),
]
DevRedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="Redis, where the broker is not memory:// [GANGER_REDIS_URL; "
        "default: redis://127.0.0.1:6379/0]",
    ),
]


def dev(
    target: Target,
    name: Name = None,
    label: LabelFlags = None,
    slots: SlotCount = None,
    grace: ReloadGrace = "2s",
    trigger: FirstTrigger = None,
    input: FirstInput = "{}",
    reload: Reload = True,
    watch: Watch = Path(),
    broker_url: DevBrokerUrl = None,
    redis_url: DevRedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Dispatcher and worker in one process, in memory; starts anew when a file changes.

    For developing: `ganger dev tasks:app --label memory=512 --trigger caption`. A step that
    has to wait is logged with the reason. Steps with compute have a worker of their pool, in its
    first region.
    """
    seconds = parse_duration(grace, "--grace")
    values = read_object("--input", input)
    if broker_url is None and "GANGER_BROKER_URL" not in os.environ:
        broker_url = MEMORY_URL
    flags = {"broker_url": broker_url, "redis_url": redis_url, "prefix": prefix}
    _check_redis(Settings.load(flag_name, **flags), redis_url)
    if reload:
        read_labels(label or [])
        check_there(target)
        _reloading(watch, seconds)
        return
    made = _loaded(target, flags, name, label or [], slots)
    app = made.app
    if trigger is not None and trigger not in app.workflows:
        known = ", ".join(sorted(app.workflows))
        raise InvalidInput(f"--trigger: {target} has no workflow {trigger!r}; it has {known}")
    configure_logging(app.settings)
    tell_waiting(ensure_dispatcher(app.settings))
    with ExitStack() as pools:
        for pool in _pool_workers(app, label or [], made.slots):
            pools.enter_context(pool)
        if trigger is not None:
            pools.enter_context(_running(app, trigger, values))
        made.start(grace=seconds)
        if not app.pools:  # their workers drain now, which a second signal may end
            ignore_signals()
    ignore_signals()


def _pool_workers(app: Ganger, label: Sequence[str], slots: int) -> list[Worker]:
    """A worker of each pool, in its first region."""
    workers = []
    for pool in app.pools.values():
        region = pool.compute.regions[0]
        worker = app.worker(
            pool.name, labels=read_labels(label), slots=slots, pool=pool.name, region=region
        )
        for workflow in app.workflows.values():
            worker.register_workflow(workflow)
        workers.append(worker)
    return workers


def _loaded(
    target: str,
    flags: dict[str, str | None],
    name: str | None,
    label: Sequence[str],
    slots: int | None,
    place: Mapping[str, str | None] | None = None,
) -> Worker:
    """The worker of an app, or the one that is named, with the settings of the flags."""
    found = load(target)
    app = found.app if isinstance(found, Worker) else found
    app.override(**flags)
    _check_redis(app.settings, flags["redis_url"])
    return _worker_of(found, target, name, label, slots, place or {})


def _check_redis(settings: Settings, redis_url: str | None) -> None:
    if settings.embedded and redis_url is not None:
        raise InvalidSetting(
            f"--redis-url: {settings.broker_url} has a Redis of its own; give an amqp:// URL "
            "as --broker-url too, or neither"
        )


def _worker_of(
    found: Ganger | Worker,
    target: str,
    name: str | None,
    label: Sequence[str],
    slots: int | None,
    place: Mapping[str, str | None],
) -> Worker:
    labels = read_labels(label)
    if isinstance(found, Worker):
        own = {"--name": name, "--slots": slots, "--id": place.get("worker_id")}
        own |= {"--pool": place.get("pool"), "--region": place.get("region")}
        for flag, given in own.items():
            if given is not None:
                raise InvalidInput(f"{flag}: {target} is a Worker, with its own; name its app")
        found.upsert_labels(labels)
        return found
    if not found.workflows:
        raise InvalidWorkflow(f"{target}: has no workflows; declare one with @app.workflow()")
    if name is None:
        name = place.get("pool") or target.partition(":")[0].rpartition(".")[2]
    made = found.worker(
        name, labels=labels, slots=DEFAULT_SLOTS if slots is None else slots, **place
    )
    for workflow in found.workflows.values():
        made.register_workflow(workflow)
    return made


def _reloading(watch: Path, grace: float) -> None:
    """Run this very command again without reloading, anew at each change of a file."""
    try:
        from watchfiles import PythonFilter, run_process
    except ImportError as exc:
        raise MissingExtra(
            "reloading needs: pip install 'ganger[embedded]'; or give --no-reload"
        ) from exc
    if not watch.exists():
        raise InvalidInput(f"--watch: there is no {watch}")
    logging.getLogger("watchfiles.main").addFilter(_is_news)
    command = [sys.executable, "-m", "ganger", *sys.argv[1:], "--no-reload"]
    run_process(
        watch,
        target=shlex.join(command),
        target_type="command",
        watch_filter=PythonFilter(),
        sigint_timeout=round(grace + RELOAD_PATIENCE),
    )
    ignore_signals()


def _is_news(record: logging.LogRecord) -> bool:
    """Not that it was told to end, or that what it ran has ended by itself: whoever develops has
    done the one, and was told the other. That it has to kill is."""
    return not record.getMessage().startswith(
        ("received signal", "KeyboardInterrupt caught", "process already dead")
    )


@contextmanager
def _running(app: Ganger, workflow: str, values: dict[str, object]) -> Iterator[None]:
    """Run it beside what is done here, and at the end say where it has not ended."""
    work = threading.Thread(target=_run_once, args=(app, workflow, values), daemon=True)
    work.start()
    yield
    work.join(ANSWER_PATIENCE)  # the run's last step may just have ended
    app.admin.close()
    work.join(END_PATIENCE)


def _run_once(app: Ganger, workflow: str, values: dict[str, object]) -> None:
    async def run() -> dict[str, Any]:
        return await (await app.admin.aio.run_workflow(workflow, values)).result()

    try:
        print_json(app.admin.call(run()))
    except TransportClosed:
        say(f"ganger: stopped before {workflow} had ended", err=True)
    except GangerError as exc:
        say(f"ganger: {exc}", err=True)


def demo() -> None:
    """Watch a small fleet of unlike workers, each step on the best of them; under 30 s."""
    from ganger.demo import demo as play  # it brings a view and a story nobody else needs

    raise typer.Exit(play())

"""The verbs below ``compute``: what machines an app's steps need, and running workers on them."""

import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from msgspec.structs import replace

from ganger.compute.adapter import DeployFailed, adapters
from ganger.compute.advice import advice
from ganger.compute.deploying import (
    plan_of,
    scaled,
)
from ganger.compute.planning import changes
from ganger.compute.store import WorkerUse
from ganger_broker.errors import GangerError, InvalidInput, StoreError

from .ask import print_json
from .compute_given import Given, prepared, read_bounds, read_counts
from .compute_text import SILENT, loads_json, plan_json, print_plan, print_replicas, replica_json
from .options import BrokerUrl, Prefix
from .work import SlotCount, Target

__all__ = ["commands"]

T = TypeVar("T")

RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="Redis, where deployments are kept [GANGER_REDIS_URL; "
        "default: redis://127.0.0.1:6379/0]",
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--deployment", metavar="NAME", help="Of this name. Default: the module's."),
]
WhichOne = Annotated[
    str | None,
    typer.Argument(metavar="[DEPLOYMENT]", help="Its name; may be left out where there is one."),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(sorted(adapters())),
        help="What runs the replicas. Default: what it runs on already, else local.",
    ),
]
Scale = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POOL=N", help="So many replicas, whatever its Compute says; may be repeated."
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What replicas draw their regions from; another seed moves them. Default: the "
        "deployment's, which is its name at first.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="An option of what runs the replicas; may be repeated."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

commands = typer.Typer(
    name="compute",
    help="Plan the machines that steps ask for with compute=…, and run workers on them.",
    no_args_is_help=True,
)


@commands.command()
def plan(
    target: Target,
    deployment: Name = None,
    on: On = None,
    scale: Scale = None,
    seed: Seed = None,
    option: Options = None,
    as_json: AsJson = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show pools, replicas in each region and what they take, and what `up` would change.

    Changes nothing. What runs, and what it uses, is asked of Redis; where that is away the
    plan is shown without.
    """
    given = Given(broker_url, redis_url, prefix)
    made, known = prepared(given, target, deployment, on, scale, seed, option, slots=None)
    intended = plan_of(made)
    uses: list[WorkerUse] = []
    change = None
    if known:
        uses = given.uses(made.name)
        running = given.adapter(made).running(made, intended)
        change = None if running is None else changes(intended, running)
    found = advice(intended, uses)
    if as_json:
        print_json(plan_json(made, intended, change, found))
    else:
        print_plan(made, intended, change, found)


@commands.command()
def up(
    target: Target,
    deployment: Name = None,
    on: On = None,
    scale: Scale = None,
    autoscale: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX|off",
            help="Each pool follows its load between so many replicas: on this machine, and on "
            "Kubernetes with KEDA.",
        ),
    ] = None,
    slots: SlotCount = None,
    seed: Seed = None,
    option: Options = None,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply", help="Do it. Without it, all but local only print what they would send."
        ),
    ] = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Run an app's pools: here (--on local), or where --on says.

    Again it changes only what has changed: replicas that stay are left alone.
    """
    given = Given(broker_url, redis_url, prefix)
    made, known = prepared(given, target, deployment, on, scale, seed, option, slots=slots)
    if autoscale is not None:
        made = replace(made, autoscale=read_bounds(autoscale))
    adapter, intended = given.adapter(made), plan_of(made)
    if made.on != "local" and not apply:
        for text in adapter.render(made, intended).values():
            typer.echo(text.rstrip("\n"))
        typer.echo("ganger: nothing was changed; --apply does it", err=True)
        return
    if not known:
        raise StoreError("deployments are kept in Redis, which cannot be reached")
    given.ask(lambda store: store.save(made))
    _say(adapter.apply(made, intended))


@commands.command()
def down(
    deployment: WhichOne = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Forget it, whatever becomes of its replicas: what ran them is gone."
        ),
    ] = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Drain and end all replicas of a deployment: running steps may end first."""
    given = Given(broker_url, redis_url, prefix)
    made = replace(given.one(deployment), leaving=True)
    if forget:
        supervisor = given.ask(lambda store: store.supervisor(made.name))
        if supervisor is not None and time.time() - supervisor.seen_at / 1000 < SILENT:
            raise InvalidInput(
                f"--forget: its supervisor is alive, on {supervisor.host}; without it"
            )
        given.ask(lambda store: store.forget(made.name))
        typer.echo(f"{made.name} is forgotten")
        return
    given.change(made.name, lambda found: replace(found, leaving=True))
    try:
        _say(given.adapter(made).remove(made))
    except GangerError as exc:
        hint = f"where {made.on} is gone: ganger compute down {made.name} --forget"
        raise DeployFailed(f"{exc}\n{hint}") from exc
    given.ask(lambda store: store.forget(made.name))
    typer.echo(f"{made.name} is down")


@commands.command()
def scale(
    pools: Annotated[list[str], typer.Argument(metavar="POOL=N...", help="So many replicas.")],
    deployment: Name = None,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Change how many replicas pools have; those that stay are not touched."""
    given = Given(broker_url, redis_url, prefix)
    counts = read_counts(pools, "POOL=N")
    made = given.change(given.one(deployment).name, lambda found: scaled(found, counts))
    _say(given.adapter(made).apply(made, plan_of(made)))


@commands.command()
def ps(
    deployment: WhichOne = None,
    as_json: AsJson = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show deployments, their pools and replicas."""
    given = Given(broker_url, redis_url, prefix)
    every = given.ask(lambda store: store.deployments())
    if deployment is not None:
        every = {deployment: given.one(deployment)}
    loads = given.ask(lambda store: store.loads())
    found = []
    for name, made in sorted(every.items()):
        records = given.ask(lambda store, name=name: store.replicas(name))  # type: ignore[misc]
        supervisor = given.ask(lambda store, name=name: store.supervisor(name))  # type: ignore[misc]
        found.append((made, supervisor, records))
    if as_json:
        print_json([{**replica_json(*each), "pools": loads_json(each[0], loads)} for each in found])
    elif not found:
        typer.echo("there are no deployments")
    else:
        for each in found:
            print_replicas(*each, loads)


@commands.command()
def logs(
    replica: Annotated[
        str, typer.Argument(metavar="REPLICA", help="As `ganger compute ps` shows it.")
    ],
    lines: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many, the last.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And those that come.")] = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show what a replica of this machine has written."""
    given = Given(broker_url, redis_url, prefix)
    path = _log_of(given, replica)
    try:
        with path.open(errors="replace") as log:
            for line in deque(log, lines):
                typer.echo(line, nl=False)
            while follow:
                line = log.readline()
                if line:
                    typer.echo(line, nl=False)
                    continue
                if path.stat().st_size < log.tell():
                    log.seek(0)  # it has begun anew
                time.sleep(0.2)
    except OSError as exc:
        raise InvalidInput(f"the log of {replica} is not on this machine: {exc}") from exc


def _log_of(given: "Given", replica: str) -> Path:
    known = []
    for name in given.ask(lambda store: store.deployments()):
        records = given.ask(lambda store, name=name: store.replicas(name))  # type: ignore[misc]
        for worker, record in records.items():
            if replica in (worker, f"{record.pool}.{record.number}"):
                return Path(record.log)
        known += list(records)
    raise InvalidInput(f"there is no replica {replica!r}; there are {', '.join(known) or 'none'}")


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)

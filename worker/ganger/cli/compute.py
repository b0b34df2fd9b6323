"""The verbs below ``compute``: what machines an app's steps need, and running workers on them."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from msgspec.structs import replace

from ganger.app import Ganger
from ganger.compute.adapter import DeployAdapter, adapters, make_adapter
from ganger.compute.advice import advice
from ganger.compute.deploying import (
    check_deployment_name,
    deployment_of,
    name_from,
    plan_of,
    scaled,
)
from ganger.compute.planning import changes
from ganger.compute.store import DeploymentStore, WorkerUse, open_store
from ganger.worker import Worker
from ganger_broker.deployments import Autoscale, Deployment
from ganger_broker.errors import InvalidInput, MissingExtra, StoreError
from ganger_broker.settings import Settings, flag_name

from .ask import print_json
from .compute_text import loads_json, plan_json, print_plan, print_replicas, replica_json
from .loading import load
from .options import BrokerUrl, Prefix
from .work import DEFAULT_SLOTS, SlotCount, Target

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
    given = _Given(broker_url, redis_url, prefix)
    made, known = _prepared(given, target, deployment, on, scale, seed, option, slots=None)
    intended = plan_of(made)
    uses: list[WorkerUse] = []
    change = None
    if known:
        uses = given.ask(lambda store: store.uses())
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
            metavar="MIN:MAX",
            help="With --on local: each pool follows its load between so many replicas.",
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
    given = _Given(broker_url, redis_url, prefix)
    made, known = _prepared(given, target, deployment, on, scale, seed, option, slots=slots)
    made = replace(made, autoscale=_bounds(autoscale))
    if made.autoscale is not None and made.on != "local":
        raise InvalidInput(f"--autoscale: {made.on} does not follow it; local does")
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
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Drain and end all replicas of a deployment: running steps may end first."""
    given = _Given(broker_url, redis_url, prefix)
    made = replace(given.one(deployment), leaving=True)
    given.ask(lambda store: store.save(made))
    _say(given.adapter(made).remove(made))
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
    given = _Given(broker_url, redis_url, prefix)
    made = scaled(given.one(deployment), _counts(pools, "POOL=N"))
    given.ask(lambda store: store.save(made))
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
    given = _Given(broker_url, redis_url, prefix)
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
    given = _Given(broker_url, redis_url, prefix)
    path = _log_of(given, replica)
    try:
        with path.open(errors="replace") as log:
            for line in log.readlines()[-lines:]:
                typer.echo(line, nl=False)
            while follow:
                line = log.readline()
                if line:
                    typer.echo(line, nl=False)
                else:
                    time.sleep(0.2)
    except OSError as exc:
        raise InvalidInput(f"the log of {replica} is not on this machine: {exc}") from exc


def _log_of(given: "_Given", replica: str) -> Path:
    known = []
    for name in given.ask(lambda store: store.deployments()):
        records = given.ask(lambda store, name=name: store.replicas(name))  # type: ignore[misc]
        for worker, record in records.items():
            if replica in (worker, f"{record.pool}.{record.number}"):
                return Path(record.log)
        known += list(records)
    raise InvalidInput(f"there is no replica {replica!r}; there are {', '.join(known) or 'none'}")


# ── what the verbs share ──────────────────────────────────────────────────────────────


class _Given:
    """The settings that a verb was given, and what they lead to."""

    def __init__(self, broker_url: str | None, redis_url: str | None, prefix: str | None) -> None:
        self.flags = {"broker_url": broker_url, "redis_url": redis_url, "prefix": prefix}
        self.settings = Settings.load(flag_name, **self.flags)

    def ask(self, question: Callable[[DeploymentStore], Awaitable[T]]) -> T:
        """The store's answer, on a connection of its own."""

        async def asking() -> T:
            store = open_store(self.settings)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(asking())

    def adapter(self, deployment: Deployment) -> DeployAdapter:
        """What runs its replicas."""
        return make_adapter(deployment.on, self.settings, deployment.options)

    def one(self, name: str | None) -> Deployment:
        """The deployment of this name, or without one the only one.

        Raises:
            InvalidInput: there is none, or more than one.
        """
        every = self.ask(lambda store: store.deployments())
        names = ", ".join(sorted(every)) or "none"
        if name is None and len(every) == 1:
            return next(iter(every.values()))
        if name is None:
            raise InvalidInput(f"deployment: say which; there are {names}")
        if name not in every:
            raise InvalidInput(f"deployment: there is no {name!r}; there are {names}")
        return every[name]


def _prepared(
    given: _Given,
    target: str,
    name: str | None,
    on: str | None,
    scale: Iterable[str] | None,
    seed: str | None,
    option: Iterable[str] | None,
    *,
    slots: int | None,
) -> tuple[Deployment, bool]:
    """The deployment of an app as it is to be, and whether it is known what there was."""
    name = name_from(target) if name is None else check_deployment_name(name)
    app = _app(target)
    try:
        before = given.ask(lambda store: store.deployment(name))
        known = True
    except (StoreError, MissingExtra) as exc:
        typer.echo(f"ganger: what runs is not known: {exc}", err=True)
        before, known = None, False
    if before is not None and on is not None and before.on != on:
        raise InvalidInput(
            f"--on: {name} runs on {before.on}; take it down first, or give another --deployment"
        )
    options = dict(_pair(text, "--set", "KEY=VALUE") for text in option or [])
    where = before.on if before is not None else "local"
    made = deployment_of(
        app,
        target,
        name=name,
        on=where if on is None else on,
        now=round(time.time() * 1000),
        slots=_slots(slots, before),
        folder=os.getcwd(),
        before=before,
        seed=seed,
        scale=_counts(scale or [], "--scale"),
        options={**(before.options if before is not None else {}), **options},
    )
    return made, known


def _slots(slots: int | None, before: Deployment | None) -> int:
    if slots is not None:
        return slots
    return DEFAULT_SLOTS if before is None else before.slots


def _app(target: str) -> Ganger:
    found = load(target)
    return found.app if isinstance(found, Worker) else found


def _pair(text: str, place: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"{place}: {text!r} must be {form}")
    return key, value


def _counts(given: Iterable[str], place: str) -> dict[str, int]:
    counts = {}
    for text in given:
        pool, count = _pair(text, place, "POOL=N")
        if not count.isdecimal():
            raise InvalidInput(f"{place}: {text!r}: {count!r} must be a whole number")
        counts[pool] = int(count)
    return counts


def _bounds(text: str | None) -> Autoscale | None:
    if text is None:
        return None
    least, colon, most = text.partition(":")
    if not (colon and least.isdecimal() and most.isdecimal() and int(most) >= max(1, int(least))):
        raise InvalidInput(f"--autoscale: {text!r} must be MIN:MAX, such as 1:6")
    return Autoscale(int(least), int(most))


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)

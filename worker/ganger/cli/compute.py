"""The verbs below ``compute``: what machines an app's steps need, and running workers on them."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, TypeVar

import typer
from msgspec.structs import replace

from ganger.compute.adapter import (
    DeployAdapter,
    DeployFailed,
    Overtaken,
    Prepares,
    adapters,
    check_leaving,
)
from ganger.compute.advice import advice, shared_pools
from ganger.compute.deploying import awake, plan_of, scaled
from ganger.compute.planning import Plan, Replica, changes
from ganger.compute.replacing import same_versions
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import Deployment
from ganger_broker.errors import GangerError, InvalidInput, StoreError

from .compute_given import Given, check_not_following, log_of, prepared, read_counts
from .compute_text import (
    SILENT,
    begins_with,
    loads_json,
    plan_json,
    print_plan,
    print_replicas,
    replica_json,
    slots_kept,
)
from .options import BrokerUrl, Prefix
from .printing import print_json, say
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
    made = awake(made)  # as `up` does
    intended = plan_of(made)
    uses: list[WorkerUse] = []
    change = None
    if known:
        uses = _uses(given, made.name) or []
        running = _running(given, made, intended)
        change = None if running is None else changes(intended, running)
    others = given.deployments() if known else {}
    found = advice(intended, uses, others, follows=made.autoscale is not None)
    if as_json:
        print_json(plan_json(made, intended, change, found))
    else:
        print_plan(made, intended, change, found)


def _uses(given: Given, deployment: str | None) -> list[WorkerUse] | None:
    """What workers use; None where that cannot be said, which is told."""
    try:
        return given.uses(deployment)
    except StoreError as exc:
        say(f"ganger: what workers use is not known: {exc}", err=True)
        return None


def _running(given: Given, made: Deployment, intended: Plan) -> list[Replica] | None:
    """The replicas that there are; None where that cannot be said, which is told."""
    why = f"{made.on} does not say"
    try:
        running = given.adapter(made).running(made, intended)
    except DeployFailed as exc:
        running, why = None, str(exc)
    if running is None:
        say(f"ganger: what runs is not known: {why}", err=True)
    return running


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
    made, known = prepared(
        given, target, deployment, on, scale, seed, option, slots=slots, autoscale=autoscale
    )
    made = awake(made)
    adapter, intended = given.adapter(made), plan_of(made)
    if made.on != "local" and not apply:
        for text in adapter.render(made, intended).values():
            say(text.rstrip("\n"))
        say("ganger: nothing was changed; --apply does it", err=True)
        return
    if not known:
        raise StoreError("deployments are kept in Redis, which cannot be reached")
    for text in begins_with(made, scale):
        say(f"! {text}", err=True)
    _apply(given, adapter, made, intended)


def _apply(given: Given, adapter: DeployAdapter, made: Deployment, intended: Plan) -> None:
    """Make it so, and keep what was deployed; what users should know of it first, they are told."""
    if isinstance(adapter, Prepares):
        adapter.prepare(made)
    before = given.ask(lambda store: store.deployment(made.name))
    there = given.ask(lambda store: store.replicas(made.name)).values()
    shared = map(str, shared_pools(intended, given.deployments()))
    for text in [*shared, *slots_kept(before, made), *same_versions(made, there)]:
        say(f"! {text}", err=True)
    given.ask(lambda store: store.save(made))
    _done(adapter, made, intended, lambda: _undo(given, adapter, made, before))


def _done(
    adapter: DeployAdapter, made: Deployment, intended: Plan, undo: Callable[[], object]
) -> None:
    """Make it so; where nothing of it could be done, have what was kept before."""
    said = False
    try:
        for line in adapter.apply(made, intended):
            said = True
            say(line)
    except GangerError:
        if not said and made.on != "local":  # whose supervisor has seen it already
            undo()
        raise


def _undo(
    given: Given, adapter: DeployAdapter, made: Deployment, before: Deployment | None
) -> None:
    """Keep what was deployed before, as nothing of this was: but for what runs nevertheless."""
    running = None
    with suppress(GangerError):
        running = adapter.running(made, plan_of(made))
    if before is not None:
        given.ask(lambda store: store.save(before))
    elif not running:
        given.ask(lambda store: store.forget(made.name))


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
        say(f"{made.name} is forgotten")
        return
    given.change(made.name, lambda found: replace(found, leaving=True))
    try:
        _say(given.adapter(made).remove(made))
    except Overtaken:
        raise
    except GangerError as exc:
        hint = f"where {made.on} is gone: ganger compute down {made.name} --forget"
        raise DeployFailed(f"{exc}\n{hint}") from exc
    check_leaving(given.ask(lambda store: store.deployment(made.name)))
    given.ask(lambda store: store.forget(made.name))
    say(f"{made.name} is down")


@commands.command()
def scale(
    pools: Annotated[list[str], typer.Argument(metavar="POOL=N...", help="So many replicas.")],
    deployment: Name = None,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Change how many replicas pools have; those that stay are not touched.

    Those of a deployment that follows its load are not for you to say, until that is off.
    """
    given = Given(broker_url, redis_url, prefix)
    counts, now = read_counts(pools, "POOL=N"), round(time.time() * 1000)
    before = given.one(deployment)
    adapter = given.adapter(before)

    def change(found: Deployment) -> Deployment:
        check_not_following(found)
        return replace(scaled(found, counts), asked_at=now)

    made = given.change(before.name, change)
    _done(adapter, made, plan_of(made), lambda: given.put_back(made, before))


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
    every = given.deployments()
    if deployment is not None:
        every = {deployment: given.one(deployment)}
    loads = given.ask(lambda store: store.loads())
    uses = _uses(given, None)
    found = []
    for name, made in sorted(every.items()):
        records = given.ask(lambda store, name=name: store.replicas(name))  # type: ignore[misc]
        supervisor = given.ask(lambda store, name=name: store.supervisor(name))  # type: ignore[misc]
        found.append((made, supervisor, records))
    if as_json:
        print_json(
            [{**replica_json(*each), "pools": loads_json(each[0], loads, uses)} for each in found]
        )
    elif not found:
        say("there are no deployments")
    else:
        for each in found:
            print_replicas(*each, loads, uses)


@commands.command()
def logs(
    replica: Annotated[
        str,
        typer.Argument(
            metavar="REPLICA", help="As `ganger compute ps` shows it, or its worker's id."
        ),
    ],
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", metavar="NAME", help="Where several have one of that name."),
    ] = None,
    lines: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many, the last.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And those that come.")] = False,
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show what a replica of this machine has written."""
    given = Given(broker_url, redis_url, prefix)
    path = log_of(given, replica, deployment)
    try:
        with path.open(errors="replace") as log:
            for line in deque(log, lines):
                say(line, end="")
            while follow:
                line = log.readline()
                if line:
                    say(line, end="")
                    continue
                if path.stat().st_size < log.tell():
                    log.seek(0)  # it has begun anew
                time.sleep(0.2)
    except OSError as exc:
        raise InvalidInput(f"the log of {replica} is not on this machine: {exc}") from exc


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)

"""What the verbs below ``compute`` are given: settings, an app as a deployment, numbers."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import typer

from ganger.app import Ganger
from ganger.compute.adapter import DeployAdapter, make_adapter
from ganger.compute.configs import MAX_REPLICAS
from ganger.compute.deploying import check_deployment_name, deployment_of, name_from
from ganger.compute.store import DeploymentStore, WorkerUse, open_store
from ganger.worker import MAX_SLOTS, Worker
from ganger_broker.deployments import Autoscale, Deployment, ReplicaRecord
from ganger_broker.errors import InvalidInput, MissingExtra, StoreError
from ganger_broker.settings import Settings, flag_name

from .loading import load
from .work import DEFAULT_SLOTS

__all__ = ["Given", "prepared", "read_bounds", "read_counts"]

T = TypeVar("T")


class Given:
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

    def uses(self, deployment: str) -> list[WorkerUse]:
        """What the live workers of pools use; of replicas of this machine, with what the
        processes use that they started."""
        found = self.ask(lambda store: store.uses())
        records = self.ask(lambda store: store.replicas(deployment))
        return [_whole(use, records.get(use.worker)) for use in found]

    def change(self, name: str, change: Callable[[Deployment], Deployment]) -> Deployment:
        """The deployment as ``change`` makes it, kept.

        Raises:
            InvalidInput: there is none of that name.
        """
        changed = self.ask(lambda store: store.change(name, change))
        if changed is None:
            raise InvalidInput(f"deployment: there is no {name!r} any more")
        return changed

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


def _whole(use: WorkerUse, record: ReplicaRecord | None) -> WorkerUse:
    if record is None:
        return use
    memory = max(use.memory_mb or 0.0, record.memory_mb or 0.0) or None
    cpus = use.cpus if record.cpus is None else max(use.cpus or 0.0, record.cpus)
    return use._replace(memory_mb=memory, cpus=cpus)


def prepared(
    given: Given,
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
    is_named = name is not None
    name = name_from(target) if name is None else check_deployment_name(name)
    app, folder = _app(target), os.getcwd()
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
    if before is not None and not is_named and (before.target, before.folder) != (target, folder):
        raise InvalidInput(
            f"deployment: {name!r} is there already, of {before.target} in {before.folder}; give "
            f"this one another name (--deployment), or say --deployment {name} to replace it"
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
        folder=folder,
        before=before,
        seed=seed,
        scale=read_counts(scale or [], "--scale"),
        autoscale=None if before is None else before.autoscale,
        options={**(before.options if before is not None else {}), **options},
    )
    return made, known


def _slots(slots: int | None, before: Deployment | None) -> int:
    if slots is None:
        return DEFAULT_SLOTS if before is None else before.slots
    if not 1 <= slots <= MAX_SLOTS:
        raise InvalidInput(f"--slots: {slots} must be from 1 to {MAX_SLOTS:,}")
    return slots


def _app(target: str) -> Ganger:
    found = load(target)
    if isinstance(found, Worker):
        raise InvalidInput(f"{target} is a Worker, with a machine of its own; name its app")
    return found


def _pair(text: str, place: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"{place}: {text!r} must be {form}")
    return key, value


def read_counts(given: Iterable[str], place: str) -> dict[str, int]:
    counts = {}
    for text in given:
        pool, count = _pair(text, place, "POOL=N")
        if not count.isdecimal():
            raise InvalidInput(f"{place}: {text!r}: {count!r} must be a whole number")
        counts[pool] = int(count)
    return counts


def read_bounds(text: str) -> Autoscale | None:
    if text == "off":
        return None
    least, colon, most = text.partition(":")
    right = colon and least.isdecimal() and most.isdecimal()
    if not right or not max(1, int(least)) <= int(most) <= MAX_REPLICAS:
        raise InvalidInput(
            f"--autoscale: {text!r} must be MIN:MAX, such as 1:6, of at most {MAX_REPLICAS:,}, "
            "or off"
        )
    return Autoscale(int(least), int(most))

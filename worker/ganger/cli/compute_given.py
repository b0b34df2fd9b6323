"""What the verbs below ``compute`` are given: settings, an app as a deployment, numbers."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ganger.app import Ganger
from ganger.compute.adapter import DeployAdapter, make_adapter
from ganger.compute.configs import MAX_REPLICAS
from ganger.compute.deploying import check_deployment_name, deployment_of, name_from
from ganger.compute.store import DeploymentStore, WorkerUse, open_store, reading
from ganger.worker import MAX_SLOTS, Worker
from ganger_broker.deployments import Autoscale, Deployment, ReplicaRecord
from ganger_broker.errors import InvalidInput, MissingExtra, StoreError
from ganger_broker.logs import configure_logging
from ganger_broker.settings import Settings, flag_name

from .loading import load
from .printing import say
from .work import DEFAULT_SLOTS

__all__ = ["Given", "check_not_following", "log_of", "prepared", "read_counts"]

T = TypeVar("T")


class Given:
    """The settings that a verb was given, and what they lead to."""

    def __init__(self, broker_url: str | None, redis_url: str | None, prefix: str | None) -> None:
        self.flags = {"broker_url": broker_url, "redis_url": redis_url, "prefix": prefix}
        self.settings = Settings.load(flag_name, **self.flags)
        configure_logging(self.settings)  # what is logged is no part of what is printed

    def ask(self, question: Callable[[DeploymentStore], Awaitable[T]]) -> T:
        """The store's answer, on a connection of its own."""

        async def asking() -> T:
            store = open_store(self.settings)
            try:
                with reading(self.settings):
                    return await question(store)
            finally:
                await store.close()

        return asyncio.run(asking())

    def adapter(self, deployment: Deployment) -> DeployAdapter:
        """What runs its replicas."""
        return make_adapter(deployment.on, self.settings, deployment.options)

    def deployments(self) -> dict[str, Deployment]:
        """All that are known, by name."""
        return self.ask(lambda store: store.deployments())

    def uses(self, deployment: str | None) -> list[WorkerUse]:
        """What the live workers of pools use; of a deployment's replicas on this machine, with
        what the processes use that they started."""
        found = self.ask(lambda store: store.uses())
        if deployment is None:
            return found
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

    def put_back(self, made: Deployment, before: Deployment) -> None:
        """Keep what there was before this was made of it, unless somebody has changed it since."""
        self.change(made.name, lambda found: before if found == made else found)

    def one(self, name: str | None) -> Deployment:
        """The deployment of this name, or without one the only one.

        Raises:
            InvalidInput: there is none, or more than one.
        """
        every = self.deployments()
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
    autoscale: str | None = None,
) -> tuple[Deployment, bool]:
    """The deployment of an app as it is to be, and whether it is known what there was."""
    is_named = name is not None
    name = name_from(target) if name is None else check_deployment_name(name)
    app, folder = _app(target), os.getcwd()
    try:
        before = given.ask(lambda store: store.deployment(name))
        known = True
    except (StoreError, MissingExtra) as exc:
        say(f"ganger: what runs is not known: {exc}", err=True)
        before, known = None, False
    if before is not None:
        _check_place(before, on, None if is_named else (target, folder))
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
        autoscale=_bounds(autoscale, before),
        options={**(before.options if before is not None else {}), **options},
    )
    return made, known


def _check_place(before: Deployment, on: str | None, own: tuple[str, str] | None) -> None:
    """What is deployed stays where it is. ``own``: target and folder of one that was not named,
    and so must not replace another's."""
    if on is not None and before.on != on:
        raise InvalidInput(
            f"--on: {before.name} runs on {before.on}; take it down first, or give another "
            "--deployment"
        )
    if own is not None and (before.target, before.folder) != own:
        name = before.name
        raise InvalidInput(
            f"deployment: {name!r} is there already, of {before.target} in {before.folder}; give "
            f"this one another name (--deployment), or say --deployment {name} to replace it"
        )


def _slots(slots: int | None, before: Deployment | None) -> int:
    if slots is None:
        return DEFAULT_SLOTS if before is None else before.slots
    if not 1 <= slots <= MAX_SLOTS:
        raise InvalidInput(f"--slots: {slots} must be from 1 to {MAX_SLOTS:,}")
    return slots


def _bounds(text: str | None, before: Deployment | None) -> Autoscale | None:
    if text is not None:
        return _read_bounds(text)
    return None if before is None else before.autoscale


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


def check_not_following(deployment: Deployment) -> None:
    """Refuse to scale by hand what follows its load, which would undo it.

    Raises:
        InvalidInput: it does.
    """
    bounds = deployment.autoscale
    if bounds is not None:
        raise InvalidInput(
            f"scale: {deployment.name} follows its load, from {bounds.least} to {bounds.most} "
            "replicas a pool, and would undo this; `ganger compute up` with other bounds "
            "(--autoscale MIN:MAX) or --autoscale off changes that"
        )


def log_of(given: Given, replica: str, deployment: str | None) -> Path:
    """The log of a replica, of this deployment or of any.

    Raises:
        InvalidInput: there is none, or it cannot be said which is meant.
    """
    known: list[str] = []
    fitting: dict[str, str] = {}
    names = sorted(given.deployments()) if deployment is None else [given.one(deployment).name]
    for name in names:
        records = given.ask(lambda store, name=name: store.replicas(name))  # type: ignore[misc]
        known += sorted(records)
        for worker, record in records.items():
            if replica in (worker, f"{record.pool}.{record.number}"):
                fitting[worker] = record.log
    if len(fitting) > 1:
        raise InvalidInput(
            f"{replica!r} is in several deployments: {', '.join(fitting)}; give one of these, or "
            "--deployment"
        )
    if not fitting:
        raise InvalidInput(
            f"there is no replica {replica!r}; there are {', '.join(known) or 'none'}"
        )
    return Path(*fitting.values())


def read_counts(given: Iterable[str], place: str) -> dict[str, int]:
    counts = {}
    for text in given:
        pool, count = _pair(text, place, "POOL=N")
        if not count.isdecimal():
            raise InvalidInput(f"{place}: {text!r}: {count!r} must be a whole number")
        if pool in counts:
            raise InvalidInput(f"{place}: {pool!r} is given twice")
        counts[pool] = int(count)
    return counts


def _read_bounds(text: str) -> Autoscale | None:
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

"""Deployments of worker processes, as Redis keeps them for operators and for who runs them."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = [
    "DEPLOYMENT_PATTERN",
    "Autoscale",
    "Deployment",
    "Launch",
    "PoolLoad",
    "PoolRecord",
    "ReplicaRecord",
    "ReplicaState",
    "SupervisorRecord",
]

DEPLOYMENT_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$(?!\n)"


class Autoscale(msgspec.Struct, frozen=True):
    """Bounds of replicas, between which each pool follows its load."""

    least: Annotated[int, Meta(ge=0)]
    most: Annotated[int, Meta(ge=1)]


class PoolRecord(msgspec.Struct, frozen=True):
    """A pool of a deployment: its ``Compute``, and the actions that its workers take."""

    cpu_kind: str
    cpus: int
    memory_mb: int
    num_replicas: int
    regions: list[str]
    actions: list[str]


class Deployment(msgspec.Struct, frozen=True, omit_defaults=True):
    """An app whose pools were deployed: a value of the hash ``<prefix>:deployments``.

    ``target`` is its MODULE:APP in ``folder``, ``on`` the adapter. ``seed`` is what each
    replica's region is drawn from. ``scale``: pools that have another number of replicas than
    their ``Compute`` says. ``options`` are the adapter's. ``leaving``: it is being taken down.
    ``unpooled``: actions of steps without compute, which workers of no pool take. ``asked_at``:
    when it was put up or scaled last, ms. ``versions`` of its workflows.
    """

    name: Annotated[str, Meta(pattern=DEPLOYMENT_PATTERN)]
    target: str
    on: str
    seed: str
    slots: int
    created_at: int
    pools: dict[str, PoolRecord] = {}
    unpooled: list[str] = []
    folder: str = ""
    scale: dict[str, int] = {}
    autoscale: Autoscale | None = None
    options: dict[str, str] = {}
    leaving: bool = False
    asked_at: int = 0
    versions: dict[str, str] = {}


class Launch(msgspec.Struct, frozen=True):
    """What a replica was started with, which its deployment may have no more.

    ``versions`` of the workflows with steps in its pool, as far as they are known.
    """

    target: str
    folder: str
    slots: int
    pool: PoolRecord
    versions: dict[str, str]


class ReplicaState(StrEnum):
    """What a replica's process does."""

    STARTING = "starting"
    """It has been started and has not registered yet."""
    RUNNING = "running"
    BACKOFF = "backoff"
    """It ended by itself and is started again soon."""
    DRAINING = "draining"
    """It takes no more steps and ends when those that run have ended, unless it is wanted again."""
    STOPPING = "stopping"
    """It was told to drain and end."""


class ReplicaRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A replica on this machine: a field of the hash ``<prefix>:deployment:<name>``.

    ``worker`` is its worker's id. ``pid`` and ``began`` (when the process was created, seconds
    since 1970, as the system says) tell it from another process of the same number.
    ``ended``: how its process ended last, in words. ``limit``: what bounds its memory.
    ``memory_mb`` and ``cpus``: what it and the processes that it started use. ``launch``: what it
    was started with. ``served``: it has registered with that.
    """

    worker: str
    pool: str
    number: int
    region: str
    state: ReplicaState
    since: int
    pid: int | None = None
    began: float | None = None
    restarts: int = 0
    retry_at: int | None = None
    ended: str | None = None
    log: str = ""
    limit: str = ""
    memory_mb: float | None = None
    cpus: float | None = None
    launch: Launch | None = None
    served: bool = False


class SupervisorRecord(msgspec.Struct, frozen=True):
    """Who keeps the replicas of a local deployment: the field ``supervisor`` of its hash."""

    host: str
    pid: int
    began: float
    seen_at: int


class PoolLoad(msgspec.Struct, frozen=True):
    """What a pool has to do, and how many replicas that wants: a value of the hash
    ``<prefix>:pools``, by the dispatcher.

    ``pending`` steps wait for its workers, of whose ``slots`` ``used`` are in use; those that
    are draining do not count. ``slots_each``: of a replica, as last seen. ``wanted`` follows
    ``ganger_dispatcher.core.scaling``.
    """

    workers: int
    slots: int
    used: int
    pending: int
    wanted: int
    at: int
    slots_each: float = 1.0

"""What is kept of deployments, in Redis; the dispatcher's side has the adapter."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from ganger.embedded import load_part
from ganger_broker.deployments import Deployment, PoolLoad, ReplicaRecord, SupervisorRecord
from ganger_broker.errors import GangerError, StoreError
from ganger_broker.settings import Settings

__all__ = ["DeploymentStore", "WorkerUse", "open_store", "reading"]


class WorkerUse(NamedTuple):
    """What a live worker of a pool uses of its machine, as it last said."""

    worker: str
    pool: str
    region: str
    incarnation: str
    memory_mb: float | None
    """Of 2^20 bytes, resident."""
    cpus: float | None
    """Cores' worth of time that it used lately."""
    slots: int = 0
    used: int = 0
    """Slots in use."""
    is_open: bool = True
    """Whether it takes steps: it does not drain, say."""
    is_paused: bool = False
    """Whether it takes those only that are pinned to it."""
    held: int = 0
    """Attempts that it has, those that need no slot while they wait as well."""


class DeploymentStore(Protocol):
    """Deployments, their replicas, and the load of pools.

    Every method raises ``StoreError`` where Redis cannot be reached or refuses.
    """

    async def deployments(self) -> dict[str, Deployment]:
        """All of them, by name."""

    async def deployment(self, name: str) -> Deployment | None:
        """One of them."""

    async def save(self, deployment: Deployment) -> None:
        """Keep it, in place of what was kept under its name."""

    async def change(
        self, name: str, change: Callable[[Deployment], Deployment]
    ) -> Deployment | None:
        """Keep what ``change`` makes of it, which is called again where somebody else was faster;
        None where there is none."""

    async def forget(self, name: str) -> None:
        """Keep nothing of it any more."""

    async def supervisor(self, name: str) -> SupervisorRecord | None:
        """Who keeps its replicas."""

    async def save_supervisor(self, name: str, supervisor: SupervisorRecord) -> None:
        """Say who keeps its replicas."""

    async def replicas(self, name: str) -> dict[str, ReplicaRecord]:
        """Its replicas, by their workers' ids."""

    async def save_replicas(self, name: str, changed: Mapping[str, ReplicaRecord | None]) -> None:
        """Keep these; None: it is no more."""

    async def loads(self) -> dict[str, PoolLoad]:
        """What the dispatcher says of each pool."""

    async def uses(self) -> list[WorkerUse]:
        """What the live workers of pools use of their machines."""

    async def close(self) -> None:
        """Close the connections."""


def open_store(settings: Settings) -> DeploymentStore:
    """The store of these settings, not connected yet.

    Raises:
        MissingExtra: it is not installed.
    """
    store: DeploymentStore = load_part("ganger.deployment_store", "this")(settings)
    return store


@contextmanager
def reading(settings: Settings) -> Iterator[None]:
    """While the store is asked: what it holds may be no record of ours.

    Raises:
        StoreError: something there cannot be read.
    """
    try:
        yield
    except GangerError:
        raise
    except Exception as exc:
        raise StoreError(
            f"Redis: something under {settings.prefix!r} cannot be read: "
            f"{type(exc).__name__}: {exc}"
        ) from exc

"""Deployments in Redis: what was deployed, its replicas, and what pools have to do."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import WatchError

from ganger_broker.codec import to_json
from ganger_broker.deployments import Deployment, PoolLoad, ReplicaRecord, SupervisorRecord
from ganger_broker.errors import StoreError
from ganger_broker.pool_labels import POOL, REGION
from ganger_broker.settings import Settings
from ganger_dispatcher.core.records import WorkerState

from .redis_store import RedisStore, asked, open_redis

__all__ = ["DeploymentStore"]

T = TypeVar("T")

_SUPERVISOR = "supervisor"

_log = structlog.get_logger("ganger.store")


class _Use(NamedTuple):
    worker: str
    pool: str
    region: str
    incarnation: str
    memory_mb: float | None
    cpus: float | None
    slots: int
    used: int
    is_open: bool
    is_paused: bool
    held: int


class DeploymentStore:
    """See ``ganger.compute.store.DeploymentStore``, which this is for Redis."""

    def __init__(self, settings: Settings, redis: Redis | None = None) -> None:
        self._redis = open_redis(settings.redis_url) if redis is None else redis
        self._keys = settings.keys()
        self._store = RedisStore(self._redis, self._keys)

    async def deployments(self) -> dict[str, Deployment]:
        return await self._values(self._keys.deployments, Deployment)

    async def deployment(self, name: str) -> Deployment | None:
        return await self._value(self._keys.deployments, name, Deployment)

    async def save(self, deployment: Deployment) -> None:
        await self._set(self._keys.deployments, {deployment.name: deployment})

    async def change(
        self, name: str, change: Callable[[Deployment], Deployment]
    ) -> Deployment | None:
        while True:
            async with self._redis.pipeline() as pipe:
                await asked(pipe.watch(self._keys.deployments))
                found = await asked(pipe.hget(self._keys.deployments, name))
                if found is None:
                    return None
                changed = change(_read(self._keys.deployments, name, found, Deployment))
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.hset(self._keys.deployments, name, to_json(changed))
                with suppress(WatchError):
                    await asked(pipe.execute())
                    return changed

    async def forget(self, name: str) -> None:
        pipe = self._redis.pipeline()
        pipe.hdel(self._keys.deployments, name)
        pipe.delete(self._keys.deployment(name))
        await asked(pipe.execute())

    async def supervisor(self, name: str) -> SupervisorRecord | None:
        return await self._value(self._keys.deployment(name), _SUPERVISOR, SupervisorRecord)

    async def save_supervisor(self, name: str, supervisor: SupervisorRecord) -> None:
        await self._set(self._keys.deployment(name), {_SUPERVISOR: supervisor})

    async def replicas(self, name: str) -> dict[str, ReplicaRecord]:
        return await self._values(self._keys.deployment(name), ReplicaRecord)

    async def save_replicas(self, name: str, changed: Mapping[str, ReplicaRecord | None]) -> None:
        key = self._keys.deployment(name)
        pipe = self._redis.pipeline()
        for worker, record in changed.items():
            if record is None:
                pipe.hdel(key, worker)
            else:
                pipe.hset(key, worker, to_json(record))
        await asked(pipe.execute())

    async def loads(self) -> dict[str, PoolLoad]:
        return await self._store.pools()

    async def uses(self) -> list[_Use]:
        return [
            _Use(
                worker.id,
                str(worker.labels[POOL]),
                str(worker.labels.get(REGION, "")),
                worker.incarnation,
                worker.memory_mb,
                worker.cpus,
                worker.slots,
                worker.used,
                worker.is_open,
                worker.state is WorkerState.PAUSED,
                len(worker.attempts),
            )
            for worker in await self._store.workers()
            if POOL in worker.labels
        ]

    async def close(self) -> None:
        await self._store.close()

    # ── hashes of JSON ────────────────────────────────────────────────────────────────

    async def _set(self, key: str, fields: Mapping[str, Any]) -> None:
        words = [word for field, value in fields.items() for word in (field, to_json(value))]
        await asked(self._redis.hset(key, items=words))

    async def _value(self, key: str, field: str, kind: type[T]) -> T | None:
        found = await asked(self._redis.hget(key, field))
        return None if found is None else _read(key, field, found, kind)

    async def _values(self, key: str, kind: type[T]) -> dict[str, T]:
        """All that can be read: one that cannot be does not hide the others."""
        values = {}
        for name, value in (await asked(self._redis.hgetall(key))).items():
            field = name.decode(errors="replace")
            if field == _SUPERVISOR:
                continue
            try:
                values[field] = _read(key, field, value, kind)
            except StoreError as exc:
                _log.warning("left out", error=str(exc))
        return values


def _read(key: str, field: str, value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise StoreError(f"Redis: {key}: {field}: is no {kind.__name__}: {exc}") from exc

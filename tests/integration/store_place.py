"""A place for a store in a Redis, and things to keep in it."""

from typing import Any

from redis.asyncio import Redis

from ganger_broker.keys import Keys
from ganger_broker.messages import RunStatus
from ganger_dispatcher.core.effects import Effect
from ganger_dispatcher.core.records import (
    RunHeader,
    Worker,
)
from ganger_dispatcher.store import RedisStore

LEASE = 60_000


class Place:
    """A store in a place of its own, and a plain client that looks at what it wrote."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis = redis
        self.keys = Keys(prefix)
        self.store = RedisStore(redis, self.keys)
        self.epoch = 0

    async def commit(self, *effects: Effect) -> None:
        """Commit as the leader."""
        if not self.epoch:
            self.epoch, _ = await self.store.lease("leader", LEASE)
        await self.store.commit(self.epoch, effects)

    async def hash(self, key: str) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in (await self.redis.hgetall(key)).items()}

    async def zset(self, key: str) -> dict[str, int]:
        return {k.decode(): int(v) for k, v in await self.redis.zrange(key, 0, -1, withscores=True)}

    async def members(self, key: str) -> set[str]:
        return {member.decode() for member in await self.redis.smembers(key)}

    async def names(self) -> set[str]:
        """All keys, without the prefix."""
        prefix = f"{self.keys.prefix}:"
        found = [key.decode() async for key in self.redis.scan_iter(f"{prefix}*", count=10_000)]
        return {key.removeprefix(prefix) for key in found}

    async def all(self) -> dict[str, bytes]:
        """Everything there is, as Redis would dump it."""
        prefix = f"{self.keys.prefix}:*"
        return {
            key: await self.redis.dump(key)
            async for key in self.redis.scan_iter(prefix, count=10_000)
        }


def header(status: RunStatus = RunStatus.RUNNING, **fields: Any) -> RunHeader:
    given: dict[str, Any] = {
        "workflow": "w",
        "version": "v1",
        "definition": "d1",
        "status": status,
        "input": {"n": 1},
        "metadata": {},
        "priority": 2,
        "desired_worker_labels": {},
        "created_at": 1_000,
    }
    return RunHeader(**{**given, **fields})


def worker(name: str = "a", **fields: Any) -> Worker:
    given: dict[str, Any] = {
        "id": name,
        "incarnation": "i1",
        "name": "gpu",
        "slots": 4,
        "labels": {"model": "x", "memory": 512},
        "label_seq": 3,
        "actions": ["w:s"],
        "registered_at": 1_000,
        "heartbeat_at": 2_000,
    }
    return Worker(**{**given, **fields})

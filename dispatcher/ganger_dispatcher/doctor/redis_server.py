"""Checks of the Redis server itself."""

import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from ganger_broker.errors import StoreError

from .broker import is_older
from .findings import Finding, Status

__all__ = ["RedisServer", "ask_redis", "redis_findings", "text_of"]

_OLDEST = (7, 0)
_SKEW = 1.0
"""Seconds that two clocks may differ by: deadlines and times of runs are that wrong."""


@dataclass
class RedisServer:
    """What it says of itself. ``config`` is None where it may not be asked."""

    version: str
    mode: str
    now: float
    """Its clock, in seconds since 1970."""
    skew: float
    """This host's clock minus its own, seconds; what the asking took is taken off."""
    config: dict[str, str] | None


async def ask_redis(redis: Redis) -> RedisServer:
    """Ask it.

    Raises:
        StoreError: it cannot be reached, or refuses.
    """
    try:
        info = await redis.info("server")
        asked = time.time()
        seconds, microseconds = await redis.time()
        answered = time.time()
        now = seconds + microseconds / 1e6
        apart = max(asked - now, 0.0) or min(answered - now, 0.0)
        version, mode = str(info["redis_version"]), str(info.get("redis_mode", "standalone"))
        return RedisServer(version, mode, now, apart, await _config(redis))
    except (RedisError, OSError) as exc:
        raise StoreError(f"{type(exc).__name__}: {exc}") from exc


async def _config(redis: Redis) -> dict[str, str] | None:
    try:
        found: dict[Any, Any] = await redis.config_get("appendonly", "maxmemory-policy")
    except ResponseError:
        return None  # services that run Redis for others forbid it
    return {text_of(name): text_of(value) for name, value in found.items()}


def text_of(value: Any) -> str:
    """A word of Redis's as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def redis_findings(server: RedisServer) -> list[Finding]:
    """What it means."""
    return [_version(server), *_settings(server.config), _clocks(server.skew)]


def _version(server: RedisServer) -> Finding:
    found = f"Redis {server.version}"
    if is_older(server.version, _OLDEST):
        return Finding("redis", Status.WRONG, found, "Redis 7 or newer is needed")
    if server.mode == "cluster":
        advice = "use one that is no cluster: a commit writes keys of many names at once"
        return Finding("redis", Status.WRONG, f"{found}, a cluster", advice)
    return Finding("redis", Status.OK, found)


def _settings(config: dict[str, str] | None) -> list[Finding]:
    if config is None:
        text, advice = "may not be asked (CONFIG is forbidden)", "see to `appendonly yes` yourself"
        return [Finding("persistence", Status.WARNING, text, advice)]
    append, policy = config.get("appendonly"), config.get("maxmemory-policy")
    findings = [Finding("persistence", Status.OK, "appendonly yes")]
    if append != "yes":
        advice = "set `appendonly yes`: what Redis confirms is lost when it ends otherwise"
        findings = [Finding("persistence", Status.WARNING, f"appendonly {append}", advice)]
    if policy != "noeviction":
        advice = "set `maxmemory-policy noeviction`: Redis may throw away state when it is full"
        findings.append(Finding("eviction", Status.WARNING, f"maxmemory-policy {policy}", advice))
    else:
        findings.append(Finding("eviction", Status.OK, "maxmemory-policy noeviction"))
    return findings


def _clocks(skew: float) -> Finding:
    if abs(skew) <= _SKEW:
        return Finding("clocks", Status.OK, "this host and Redis agree")
    way = "ahead of" if skew > 0 else "behind"
    text = f"this host is {abs(skew):.1f} s {way} Redis"
    return Finding("clocks", Status.WARNING, text, "keep both in time with NTP")

"""``ganger doctor``: is everything there that Ganger needs, and as it must be?

Each module asks and judges apart: a function of what was found gives the findings.
"""

import asyncio

from ganger_broker.errors import StoreError
from ganger_broker.settings import Settings
from ganger_dispatcher.store import open_redis

from .broker import check_broker
from .findings import Finding, Status
from .fleet import check_fleet
from .redis_server import ask_redis, redis_findings

__all__ = ["Finding", "Status", "examine"]

_PATIENCE = 15.0
"""Seconds for Redis to answer all that it is asked."""


async def examine(settings: Settings) -> list[Finding]:
    """All findings, those on which others rest first."""
    of_broker, of_redis = await asyncio.gather(check_broker(settings), _check_redis(settings))
    return [*of_broker, *of_redis]


async def _check_redis(settings: Settings) -> list[Finding]:
    redis = open_redis(settings.redis_url)
    findings: list[Finding] = []
    advice = "start Redis, or set GANGER_REDIS_URL to where it is"
    try:
        async with asyncio.timeout(_PATIENCE):
            server = await ask_redis(redis)
            findings += redis_findings(server)
            findings += await check_fleet(settings, redis, server.now)
    except TimeoutError:
        findings.append(Finding("redis", Status.WRONG, f"no answer in {_PATIENCE:g} s", advice))
    except StoreError as exc:
        findings.append(Finding("redis", Status.WRONG, str(exc), advice))
    finally:
        await redis.aclose()
    return findings

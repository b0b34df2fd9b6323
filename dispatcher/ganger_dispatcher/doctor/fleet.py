"""Checks of the deployment, as Redis has it: leader, workers, what waits."""

from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ganger_broker.errors import StoreError
from ganger_broker.settings import Settings
from ganger_dispatcher.core.records import Worker, WorkerState
from ganger_dispatcher.inspection import stuck_steps
from ganger_dispatcher.store import RedisStore

from .findings import Finding, Status
from .redis_server import text_of

__all__ = ["check_fleet", "leader_finding", "pending_findings", "worker_findings"]

_STEPS_EXAMINED = 1_000
"""Pending steps, those with the nearest deadlines first."""
_NAMED = 3
"""Steps or workers that a line names."""


async def check_fleet(settings: Settings, redis: Redis, now: float) -> list[Finding]:
    """All of them; ``now`` is the time by Redis's clock.

    Raises:
        StoreError: Redis cannot be reached, or refuses.
    """
    keys, store = settings.keys(), RedisStore(redis, settings.keys())
    try:
        leader = await redis.hgetall(keys.leader)
        held = await redis.hlen(keys.held)
        count = await redis.zcard(keys.pending)
        pending = await redis.zrange(keys.pending, 0, _STEPS_EXAMINED - 1)
    except (RedisError, OSError) as exc:
        raise StoreError(f"{type(exc).__name__}: {exc}") from exc
    workers = await store.workers()
    stuck = await stuck_steps(store, map(text_of, pending), workers)
    fields = {text_of(field): text_of(value) for field, value in leader.items()}
    return [
        leader_finding(fields, now),
        *worker_findings(workers, now, settings.worker_timeout),
        *pending_findings(count, stuck, held),
    ]


def leader_finding(leader: Mapping[str, str], now: float) -> Finding:
    """Is there one, and does it lead still?"""
    advice = "start one: ganger dispatcher"
    if not leader:
        return Finding("leader", Status.WRONG, "no dispatcher has ever led here", advice)
    said = f"{leader['dispatcher']}, epoch {leader['epoch']}"
    left = int(leader["lease_end"]) / 1000 - now
    if left > 0:
        return Finding("leader", Status.OK, f"{said}, lease good for {left:.1f} s")
    ended = f"its lease ended {-left:.0f} s ago" if int(leader["lease_end"]) else "it resigned"
    text = f"none: the last one was {said}; {ended}"
    return Finding("leader", Status.WRONG, text, advice)


def worker_findings(workers: list[Worker], now: float, timeout: float) -> list[Finding]:
    """Are there any, and are they heard?"""
    if not workers:
        advice = "start one: ganger worker MODULE:APP"
        return [Finding("workers", Status.WARNING, "none", advice)]
    silent = [worker.id for worker in workers if now - worker.heartbeat_at / 1000 > timeout]
    closed = sum(not worker.is_open for worker in workers)
    text = f"{len(workers)} live" + (f", {closed} of them take no steps now" if closed else "")
    cut_off = [worker.id for worker in workers if worker.state is WorkerState.UNREACHABLE]
    if cut_off:
        advice = (
            "somebody deleted their queues, or what binds these to the exchange: they declare it "
            "again within seconds, where a dispatcher leads"
        )
        said = f"{text}; what is sent to these comes back: {_names(cut_off)}"
        return [Finding("workers", Status.WRONG, said, advice)]
    if not silent:
        return [Finding("workers", Status.OK, text)]
    said = f"{text}; silent for more than {timeout:g} s: {_names(silent)}"
    return [Finding("workers", Status.WARNING, said, "the leader declares them lost, if one leads")]


def pending_findings(count: int, stuck: list[str], held: int) -> list[Finding]:
    """What waits, and whether anybody can take it."""
    text = f"{count} waiting for a worker" if count else "no step waits for a worker"
    findings = [Finding("pending", Status.OK, text)]
    if stuck:
        text = f"{count} waiting, {len(stuck)} for what no worker here has: {_names(stuck)}"
        advice = f"see what is missing: ganger explain {stuck[0]}"
        findings = [Finding("pending", Status.WARNING, text, advice)]
    if held:
        text = f"{held} waiting for a workflow that no worker has registered"
        advice = "start a worker with it; after GANGER_HOLD the trigger is dead-lettered"
        findings.append(Finding("triggers", Status.WARNING, text, advice))
    return findings


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

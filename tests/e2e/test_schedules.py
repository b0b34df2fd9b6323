"""Crons over real servers and real processes, which die."""

import asyncio
import json
import signal
from collections.abc import Callable
from datetime import datetime, timedelta

from .fleet import Fleet, name_of
from .processes import Process, ganger_json


async def test_a_cron_has_one_run_a_tick_though_its_leader_and_its_worker_die(fleet: Fleet) -> None:
    fleet.environment |= {
        "GANGER_LEASE": "1s",
        "GANGER_WORKER_TIMEOUT": "2s",
        "GANGER_HEARTBEAT_INTERVAL": "250ms",
    }
    leader = await fleet.dispatcher("leader")
    standby = await fleet.dispatcher("standby", until="standing_by")
    await ticking(fleet, "us", "us")
    first = await ticking(fleet, "first", "eu")
    await until_ticked(fleet, lambda runs: len(runs) >= 2)
    leader.signal(signal.SIGKILL)
    await standby.says("leading")
    first.signal(signal.SIGKILL)
    await ticking(fleet, "second", "eu")
    runs = await until_ticked(
        fleet, lambda runs: sum(worker_of(run) == "second" for run in runs) >= 3
    )
    ticks = sorted(datetime.fromisoformat(run["metadata"]["scheduled_for"]) for run in runs)
    assert ticks == [ticks[0] + timedelta(seconds=number) for number in range(len(ticks))]
    assert {worker_of(run) for run in runs} == {"first", "second"}
    assert len({run["metadata"]["schedule"] for run in runs}) == 1
    [cron] = await ganger_json("schedules", **fleet.environment)
    assert cron["last_at"] >= ticks[-1].timestamp() * 1000


async def ticking(fleet: Fleet, name: str, zone: str) -> Process:
    label = f"--label=zone={json.dumps(zone)}"
    words = ("worker", "tests.e2e.ticking_app:app", "--name", name, "--slots=50", label)
    return await fleet.start(name, *words, until="worker registered")


async def until_ticked(fleet: Fleet, fits: Callable[[list[dict]], bool]) -> list[dict]:
    """The runs, when all of them have succeeded and are what is waited for."""
    async with asyncio.timeout(60):
        while True:
            runs = await ganger_json("runs", "--limit", "500", **fleet.environment)
            if fits(runs) and all(run["status"] == "succeeded" for run in runs):
                return runs


def worker_of(run: dict) -> str:
    return name_of(run["steps"]["tick"]["worker"] or "")

"""``ganger compute`` on this machine: real processes, as a user deploys them."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from .fleet import Fleet, until_busy
from .processes import ganger, ganger_json
from .publisher import publisher

APP = "tests.e2e.compute_app:app"
SMALL, LARGE = "shared-1cpu-256mb-fra-iad-sin", "performance-1cpu-2048mb-ams-fra"


class Deployment:
    """The deployment of one test."""

    def __init__(self, fleet: Fleet) -> None:
        self.environment = fleet.environment

    async def run(self, *words: str) -> str:
        status, text = await ganger("compute", *words, **self.environment)
        assert status == 0, text
        return text

    async def shown(self) -> dict[str, Any]:
        [found] = await ganger_json("compute", "ps", **self.environment)
        return found  # type: ignore[no-any-return]

    async def replicas(self, pool: str) -> dict[int, dict[str, Any]]:
        return {r["number"]: r for r in (await self.shown())["replicas"] if r["pool"] == pool}

    async def until_running(self, pool: str, numbers: set[int]) -> dict[int, dict[str, Any]]:
        async with asyncio.timeout(60):
            while True:
                found = await self.replicas(pool)
                running = {n for n, r in found.items() if r["state"] == "running"}
                if running == numbers == found.keys():
                    return found


@pytest.fixture
async def deployed(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A dispatcher, and a deployment that is killed at the end where it is not down."""
    fleet.environment |= {
        "XDG_STATE_HOME": str(tmp_path),
        "GANGER_WORKER_TIMEOUT": "3s",
        "GANGER_HEARTBEAT_INTERVAL": "500ms",
    }
    await fleet.dispatcher()
    deployment = Deployment(fleet)
    try:
        yield deployment
    finally:
        for shown in await ganger_json("compute", "ps", **fleet.environment):
            for record in [shown["supervisor"], *shown["replicas"]]:
                if record and record.get("pid") and psutil.pid_exists(record["pid"]):
                    os.kill(record["pid"], signal.SIGKILL)


def pids(replicas: dict[int, dict[str, Any]]) -> dict[int, int]:
    return {number: replica["pid"] for number, replica in replicas.items()}


def alive(numbers: Iterable[int]) -> list[int]:
    """Those of these processes that run; what has ended may be left for init to take note of."""
    found = []
    for number in numbers:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                found.append(number)
    return found


async def test_steps_land_on_their_pools_and_scaling_keeps_the_stayers(
    fleet: Fleet, deployed: Deployment, broker_url: str, prefix: str
) -> None:
    plan = await ganger_json("compute", "plan", APP, **fleet.environment)
    assert plan["changes"]["keep"] == []
    assert plan["replicas"] == len(plan["changes"]["create"]) == 7
    await deployed.run("up", APP, "--on", "local", "--slots", "2")
    small = await deployed.until_running(SMALL, {1, 2, 3, 4, 5, 6})
    regions = {pool["pool"]: pool["per_region"] for pool in plan["pools"]}
    assert Counter(r["region"] for r in small.values()) == Counter(
        {region: count for region, count in regions[SMALL].items() if count}
    )

    with publisher(broker_url, prefix) as program:
        for number in range(20):
            program.trigger("report", f"r{number}")
        results = [program.result()[1] for _ in range(20)]
    workers = {number: replica["worker"] for number, replica in small.items()}
    for result in results:
        collected, crunched = result["output"]["collect"], result["output"]["crunch"]
        assert collected["ganger.pool"] == SMALL
        assert collected["worker"] in workers.values()
        assert crunched["ganger.pool"] == LARGE
        assert crunched["worker"].endswith(f"{LARGE}.1")
        assert crunched["ganger.memory_mb"] == 2048

    # 6 → 9 → 4: who stays is the same process, in the same region
    await deployed.run("scale", f"{SMALL}=9")
    nine = await deployed.until_running(SMALL, set(range(1, 10)))
    assert {n: pids(nine)[n] for n in small} == pids(small)
    await deployed.run("scale", f"{SMALL}=4")
    four = await deployed.until_running(SMALL, {1, 2, 3, 4})
    assert pids(four) == {n: pids(small)[n] for n in four}
    plan = await ganger_json("compute", "plan", APP, **fleet.environment)
    assert {what: len(found) for what, found in plan["changes"].items()} == {
        "create": 0,
        "keep": 5,
        "remove": 0,
    }

    assert "is down" in await deployed.run("down")
    assert await ganger_json("compute", "ps", **fleet.environment) == []
    assert not alive(pids(four).values())
    assert await ganger_json("workers", **fleet.environment) == []


async def test_a_killed_replica_and_a_killed_supervisor_come_back(
    fleet: Fleet, deployed: Deployment
) -> None:
    up = ("up", APP, "--scale", f"{SMALL}=2", "--scale", f"{LARGE}=0")
    await deployed.run(*up)
    before = await deployed.until_running(SMALL, {1, 2})
    os.kill(before[1]["pid"], signal.SIGKILL)
    async with asyncio.timeout(30):
        while (now := await deployed.replicas(SMALL))[1].get("restarts", 0) != 1:
            pass
    now = await deployed.until_running(SMALL, {1, 2})
    assert now[1]["ended"] == "killed by SIGKILL"
    assert now[1]["pid"] != before[1]["pid"]
    assert now[2]["pid"] == before[2]["pid"]

    # without a supervisor the replicas go on; the next one picks them up, and what ended meanwhile
    supervisor = (await deployed.shown())["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    os.kill(now[2]["pid"], signal.SIGKILL)
    assert "supervisor started" in await deployed.run(*up)
    last = await deployed.until_running(SMALL, {1, 2})
    assert last[1]["pid"] == now[1]["pid"]
    assert last[2]["pid"] != now[2]["pid"]
    assert (await deployed.shown())["supervisor"]["pid"] != supervisor
    assert "draining" not in await deployed.run("logs", f"{SMALL}.1", "-n", "5")


async def test_what_redis_forgets_is_kept_again_and_nothing_is_started_twice(
    deployed: Deployment, redis_url: str, prefix: str
) -> None:
    up = ("up", APP, "--scale", f"{SMALL}=2", "--scale", f"{LARGE}=0")
    await deployed.run(*up)
    before = await deployed.until_running(SMALL, {1, 2})
    keys = (f"{prefix}:deployments", f"{prefix}:deployment:compute-app")
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*keys)
        async with asyncio.timeout(30):
            while client.exists(*keys) != 2:
                await asyncio.to_thread(client.ping)
        assert pids(await deployed.until_running(SMALL, {1, 2})) == pids(before)

        # nor where the supervisor is gone as well
        os.kill((await deployed.shown())["supervisor"]["pid"], signal.SIGKILL)
        client.delete(*keys)
    await deployed.run(*up)
    assert pids(await deployed.until_running(SMALL, {1, 2})) == pids(before)
    await deployed.run("down")
    assert not alive(pids(before).values())


async def test_a_hog_is_stopped_by_its_limit_and_its_step_says_why(
    deployed: Deployment, broker_url: str, prefix: str
) -> None:
    up = ("up", APP, "--scale", f"{SMALL}=1", "--scale", f"{LARGE}=0")
    await deployed.run(*up, "--slots", "1")
    before = await deployed.until_running(SMALL, {1})
    with publisher(broker_url, prefix) as program:
        program.trigger("hog", "fits", input={"mb": 185})  # beside what the worker holds itself
        assert program.result()[1]["status"] == "succeeded"
        program.trigger("hog", "large", input={"mb": 400})
        _, large = program.result()
        assert large["status"] == "failed"
        assert large["error"]["reason"] == "OUT_OF_MEMORY"
        program.trigger("hog", "small", input={"mb": 10})
        _, small = program.result()
    assert small["output"] == {"hog": 10 * 2**20}
    if before[1]["limit"] == "rlimit":  # the step is told, and the process goes on
        assert pids(await deployed.until_running(SMALL, {1})) == pids(before)


async def test_a_replica_is_ended_with_all_that_it_started_and_its_step_says_why(
    deployed: Deployment, broker_url: str, prefix: str, tmp_path: Path
) -> None:
    await deployed.run("up", APP, "--scale", f"{SMALL}=1", "--scale", f"{LARGE}=0")
    before = await deployed.until_running(SMALL, {1})
    worker = psutil.Process(before[1]["pid"])
    with publisher(broker_url, prefix) as program:
        program.trigger("hog", input={"mb": 100, "processes": 3, "pids": str(tmp_path / "pids")})
        _, result = program.result()
        family = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(family) == 3
        assert result["error"]["reason"] == "OUT_OF_MEMORY"
        assert "of memory" in result["error"]["message"]
        psutil.wait_procs([worker], timeout=10)
        assert alive([worker.pid, *family]) == []

        await deployed.until_running(SMALL, {1})
        program.trigger("hog", "it", input={"mb": 1, "aborts": True})
        _, result = program.result()
    assert result["error"]["reason"] == "OUT_OF_MEMORY"
    assert "killed by SIGABRT" in result["error"]["message"]


async def test_down_lets_running_steps_end(
    fleet: Fleet, deployed: Deployment, broker_url: str, prefix: str
) -> None:
    await deployed.run("up", APP, "--scale", f"{SMALL}=1", "--scale", f"{LARGE}=0")
    with publisher(broker_url, prefix) as program:
        program.trigger("nap", "it", run_id="it", input={"seconds": 3})
        await until_busy(fleet, "it")
        await deployed.run("down")
        _, result = program.result()
    assert result["status"] == "succeeded"


async def test_down_goes_on_where_its_supervisor_dies_meanwhile(
    fleet: Fleet, deployed: Deployment, broker_url: str, prefix: str
) -> None:
    await deployed.run("up", APP, "--scale", f"{SMALL}=1", "--scale", f"{LARGE}=0")
    with publisher(broker_url, prefix) as program:
        program.trigger("nap", "it", run_id="it", input={"seconds": 15})  # beyond the slowest `ps`
        await until_busy(fleet, "it")
        keeper = (await deployed.shown())["supervisor"]["pid"]
        down = asyncio.create_task(deployed.run("down"))
        async with asyncio.timeout(30):
            while (await deployed.replicas(SMALL))[1]["state"] != "stopping":
                pass
        os.kill(keeper, signal.SIGKILL)
        said = await down
        _, result = program.result()
    assert "supervisor started" in said
    assert "compute-app is down" in said
    assert result["status"] == "succeeded"


async def test_a_pool_follows_its_load_between_its_bounds(
    fleet: Fleet, deployed: Deployment, broker_url: str, prefix: str
) -> None:
    fleet.environment["GANGER_SCALE_WINDOW"] = "2s"
    await fleet.processes.pop("dispatcher").stop()
    await fleet.dispatcher()
    up = ("up", APP, "--slots", "1", "--scale", f"{SMALL}=1", "--scale", f"{LARGE}=0")
    await deployed.run(*up, "--autoscale", "0:3")
    with publisher(broker_url, prefix) as program:
        for number in range(6):
            program.trigger("nap", f"r{number}", input={"seconds": 3})
        await deployed.until_running(SMALL, {1, 2, 3})
        results = [program.result()[1] for _ in range(6)]
    assert {result["status"] for result in results} == {"succeeded"}
    assert len({result["output"]["nap"] for result in results}) > 1
    await deployed.until_running(SMALL, set())  # nothing to do for a whole window
    assert (await deployed.shown())["pools"][SMALL]["load"]["wanted"] == 0


async def test_replicas_whose_steps_fit_on_fewer_drain_until_they_are_needed_again(
    fleet: Fleet, deployed: Deployment, broker_url: str, prefix: str
) -> None:
    """A load that is spread over all replicas keeps none of them, and no step is cut off."""
    fleet.environment["GANGER_SCALE_WINDOW"] = "2s"
    await fleet.processes.pop("dispatcher").stop()
    await fleet.dispatcher()
    up = ("up", APP, "--slots", "4", "--scale", f"{SMALL}=3", "--scale", f"{LARGE}=0")
    await deployed.run(*up)

    async def until_state(state: str) -> int:
        async with asyncio.timeout(60):
            while (last := (await deployed.replicas(SMALL)).get(3)) is None or (
                last["state"] != state
            ):
                pass
        return int(last["pid"])

    with publisher(broker_url, prefix) as program:
        for number in range(3):  # one on each, which all fit on one
            program.trigger("naps", f"long{number}", input={"seconds": 12})
        await deployed.run(*up, "--autoscale", "0:3")
        pid = await until_state("draining")
        for number in range(12):
            program.trigger("nap", f"short{number}", input={"seconds": 5})
        assert await until_state("running") == pid
        short = [program.result()[1] for _ in range(12)]
        long = [program.result()[1] for _ in range(3)]
    assert {result["status"] for result in short + long} == {"succeeded"}
    last = f"compute-app.{SMALL}.3"
    assert last in {result["output"]["nap"] for result in short}
    assert last in {result["output"]["second"] for result in long}, "what was pinned to it ended"


async def test_while_the_load_stays_the_same_nobody_is_drained(
    fleet: Fleet, deployed: Deployment, broker_url: str, prefix: str
) -> None:
    """What is wanted is well within the bounds, and one more than there are at first."""
    up = ("up", APP, "--slots", "2", "--scale", f"{SMALL}=1", "--scale", f"{LARGE}=0")
    await deployed.run(*up, "--autoscale", "0:6")
    with publisher(broker_url, prefix) as program:
        for number in range(3):  # with two slots each, over 0.8 of one replica, and under of two
            program.trigger("nap", f"r{number}", input={"seconds": 20})
        before = await deployed.until_running(SMALL, {1, 2})
        deadline = asyncio.get_running_loop().time() + 12  # six looks of the supervisor
        while asyncio.get_running_loop().time() < deadline:
            shown = await deployed.shown()
            assert shown["pools"][SMALL]["load"]["wanted"] == 2
            there = {r["number"]: r for r in shown["replicas"] if r["pool"] == SMALL}
            assert pids(there) == pids(before)
            assert {r["state"] for r in there.values()} == {"running"}
        results = [program.result()[1] for _ in range(3)]
    assert {result["status"] for result in results} == {"succeeded"}


REPLACED = """
import sys
from ganger import Compute, Ganger

app = Ganger()
if {broken} and "worker" in sys.argv:
    sys.exit("broken")


@app.task(version="{memory}", compute=Compute("shared", 1, {memory}, 2, ["fra"]))
def where(input, context):
    return context.worker.get_labels()["ganger.pool"]
"""


async def test_other_machines_take_over_when_they_are_there(
    deployed: Deployment, broker_url: str, prefix: str, tmp_path: Path
) -> None:
    deployed.environment |= {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    module, up = tmp_path / "replaced.py", ("up", "replaced:app")
    old, new = "shared-1cpu-256mb-fra", "shared-1cpu-512mb-fra"
    module.write_text(REPLACED.format(memory=256, broken=False))
    await deployed.run(*up)
    before = await deployed.until_running(old, {1, 2})

    module.write_text(REPLACED.format(memory=512, broken=True))
    status, said = await ganger("compute", *up, **deployed.environment)
    assert status == 1
    assert "backoff: exit status 1" in said
    assert pids(await deployed.until_running(old, {1, 2})) == pids(before)
    with publisher(broker_url, prefix) as program:
        program.trigger("where", "old")
        assert program.result()[1]["output"] == {"where": old}

        module.write_text(REPLACED.format(memory=512, broken=False))
        await deployed.run(*up)
        await deployed.until_running(new, {1, 2})
        assert await deployed.replicas(old) == {}
        program.trigger("where", "new")
        assert program.result()[1]["output"] == {"where": new}

"""What a dispatcher tells monitors, over HTTP."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from urllib.request import urlopen
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ganger_broker.deployments import PoolLoad
from ganger_broker.keys import Keys
from ganger_broker.pool_labels import POOL
from ganger_broker.settings import Settings
from ganger_broker.transports import open_transport
from ganger_dispatcher.exporter import exporting
from ganger_dispatcher.metrics import Figures, Metrics
from ganger_dispatcher.service import Dispatcher
from ganger_dispatcher.store import RedisStore, open_redis

from .core.world import World, one_step

PATIENCE = 30.0

Scraped = dict[tuple[str, str], float]


def scraped(port: int) -> Scraped:
    """(name, value of its label or nothing) → value, as Prometheus reads it."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def port(metrics: Metrics) -> Iterator[int]:
    with exporting(metrics, 0) as port:
        yield port


def test_a_standby_says_only_that_it_is_one(port: int) -> None:
    assert scraped(port) == {("ganger_leader", ""): 0}


def test_a_leader_tells_of_pools_and_all_counters(metrics: Metrics, port: int) -> None:
    counters = {"runs_created": 5, "messages_dead": 3, "messages_dead:malformed": 3}
    pools = {'p "1"': PoolLoad(2, 8, 7, 3, 4, 0, 4.0)}
    metrics.figures = Figures(True, 4, 3, pools, counters)
    assert scraped(port) == {
        ("ganger_leader", ""): 1,
        ("ganger_pending_steps", ""): 4,
        ("ganger_live_workers", ""): 3,
        ("ganger_pool_workers", 'p "1"'): 2,
        ("ganger_pool_slots", 'p "1"'): 8,
        ("ganger_pool_used", 'p "1"'): 7,
        ("ganger_pool_pending", 'p "1"'): 3,
        ("ganger_pool_wanted_replicas", 'p "1"'): 4,
        ("ganger_runs_created_total", ""): 5,
        ("ganger_messages_dead_total", "malformed"): 3,
    }


def test_when_it_is_over_the_port_is_free_again(metrics: Metrics) -> None:
    with exporting(metrics, 0) as port:
        pass
    with exporting(metrics, port):
        assert scraped(port)


async def until_leading(metrics: Metrics) -> None:
    async with asyncio.timeout(PATIENCE):
        while not metrics.figures.leading:  # noqa: ASYNC110 - figures are replaced, not told
            await asyncio.sleep(0.01)


async def test_the_figures_are_those_of_the_core_and_of_redis(metrics: Metrics) -> None:
    world = World()
    world.join("a", {POOL: "p"}, workflows=[one_step(pool="p")])
    world.trigger("x")
    world.trigger("y")
    world.wait(1, "a")
    redis = open_redis(f"memory://{uuid4().hex}")
    await redis.hincrby(Keys().stats, "runs_created", 2)
    store = RedisStore(redis, Keys())
    following = asyncio.create_task(metrics.follow(world.core.state, store))
    await until_leading(metrics)
    assert metrics.figures == Figures(
        True, 1, 1, {"p": world.stored.pools["p"]}, {"runs_created": 2}
    )
    following.cancel()
    await asyncio.wait([following])
    assert metrics.figures == Figures()
    await store.close()


async def test_a_dispatcher_says_whether_it_leads(metrics: Metrics) -> None:
    url = f"memory://{uuid4().hex}"
    settings = Settings.load(broker_url=url, redis_url=url)
    store = RedisStore(open_redis(url), settings.keys())
    service = Dispatcher(settings, open_transport(settings, "d"), store, metrics=metrics)
    running = asyncio.create_task(service.run())
    await until_leading(metrics)
    service.stop()
    await running
    assert metrics.figures == Figures()
    await store.close()


# ── the command ───────────────────────────────────────────────────────────────────────


async def dispatching(*words: str) -> asyncio.subprocess.Process:
    """``ganger dispatcher`` in a process of its own, whose servers are away."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
    away = ("--broker-url", "amqp://127.0.0.1:1/", "--redis-url", "redis://127.0.0.1:1/0")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ganger", "dispatcher", *away, *words),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_command_serves_them_and_says_where() -> None:
    process = await dispatching("--metrics-port", "0")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while b"serving_metrics" not in (line := await process.stderr.readline()):
            assert line
        (port,) = re.findall(rb'"port": ?(\d+)', line)
        assert await asyncio.to_thread(scraped, int(port)) == {("ganger_leader", ""): 0}
        process.send_signal(signal.SIGKILL)
        await process.communicate()


async def test_a_port_in_use_is_named_with_its_flag(port: int) -> None:
    process = await dispatching("--metrics-port", str(port))
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()
    assert process.returncode == 2
    text = f"ganger: --metrics-port: port {port} cannot be had: Address already in use"
    assert err.decode().splitlines()[-1] == text

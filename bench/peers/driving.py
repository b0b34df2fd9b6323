"""How every client is driven: the same number of jobs, the same number in flight.

Standard library only: it runs in the peers' environment and in Ganger's.
"""

import argparse
import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

READY = "bench worker ready"
"""What a peer's worker prints when it takes jobs."""

CONFIRMED = os.environ.get("BENCH_CONFIRMED") == "yes"
"""Whether a client waits until the broker has taken each job; most peers' default is no."""

WARM_UP = 200
"""Jobs that are not counted: connections, caches, scripts loaded."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--round-trips", type=int, default=300)
    return parser.parse_args()


def report(jobs: int, seconds: float, trips: list[float]) -> None:
    """Print the figures as one line of JSON."""
    trips = sorted(trips)
    print(
        json.dumps(
            {
                "jobs_per_s": jobs / seconds,
                "p50_ms": trips[len(trips) // 2] * 1000,
                "p95_ms": trips[len(trips) * 95 // 100] * 1000,
            }
        ),
        flush=True,
    )


def drive(submit: Callable[[], Any], wait: Callable[[Any], Any]) -> None:
    """A blocking client: ``submit`` a job, ``wait`` for its result."""
    given = arguments()

    def flow(jobs: int) -> None:
        flying: deque[Any] = deque()
        for _ in range(jobs):
            if len(flying) == given.in_flight:
                wait(flying.popleft())
            flying.append(submit())
        while flying:
            wait(flying.popleft())

    flow(WARM_UP)
    began = time.perf_counter()
    flow(given.jobs)
    seconds = time.perf_counter() - began
    trips = []
    for _ in range(given.round_trips):
        began = time.perf_counter()
        wait(submit())
        trips.append(time.perf_counter() - began)
    report(given.jobs, seconds, trips)


async def drive_async(
    job: Callable[[], Awaitable[Any]], alone: Callable[[], Awaitable[Any]] | None = None
) -> None:
    """An asyncio client: ``job`` submits one and awaits its result; ``alone`` is how it
    does while no other is in flight, where that differs."""
    given = arguments()
    alone = alone or job

    async def flow(jobs: int) -> None:
        left = iter(range(jobs))

        async def lane() -> None:
            for _ in left:
                await job()

        await asyncio.gather(*(lane() for _ in range(given.in_flight)))

    await flow(WARM_UP)
    began = time.perf_counter()
    await flow(given.jobs)
    seconds = time.perf_counter() - began
    trips = []
    for _ in range(given.round_trips):
        began = time.perf_counter()
        await alone()
        trips.append(time.perf_counter() - began)
    report(given.jobs, seconds, trips)

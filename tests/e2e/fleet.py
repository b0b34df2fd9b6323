"""Processes of a dispatcher and workers, started as a user starts them."""

import asyncio
import json
from collections.abc import Callable

from .processes import Process, ganger_json

__all__ = ["Fleet", "name_of", "until", "until_busy"]


class Fleet:
    """The processes of one test, with the names of their workers."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.processes: dict[str, Process] = {}

    async def start(self, name: str, *words: str, until: str, **environment: str) -> Process:
        process = await Process.start(*words, **self.environment, **environment)
        self.processes[name] = process
        await process.says(until)
        return process

    async def dispatcher(self, name: str = "dispatcher", until: str = "leading") -> Process:
        return await self.start(name, "dispatcher", until=until)

    async def worker(self, name: str, labels: dict, slots: int = 2) -> Process:
        flags = [f"--label={key}={json.dumps(value)}" for key, value in labels.items()]
        words = ("worker", "tests.e2e.fleet_app:app", "--name", name, f"--slots={slots}", *flags)
        return await self.start(name, *words, until="worker registered")

    async def stop(self) -> None:
        for process in self.processes.values():
            await process.stop()


async def until(fleet: Fleet, fits: Callable[[list[dict]], bool]) -> None:
    """Until ``ganger workers`` shows what is waited for."""
    async with asyncio.timeout(30):
        while not fits(await ganger_json("workers", **fleet.environment)):
            pass


def name_of(worker_id: str) -> str:
    return worker_id.rsplit("-", 1)[0]


async def until_busy(fleet: Fleet, run_id: str) -> None:
    """Until the step of the run has begun, which it says with a label."""
    await until(fleet, lambda workers: any(w["labels"].get("busy") == run_id for w in workers))

"""Preferences with patience: wait a moment for the warm worker, and not for ever.

    python examples/patience.py

Prints:

    first: warm
    patient: warm, after it was free again
    hurried: cold, at once
"""

import asyncio
import os
from typing import Any

from ganger import Context, Ganger

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
hold = asyncio.Event()


@app.task(desired_worker_labels={"model": {"value": "x", "weight": 10, "prefer_for": "20s"}})
async def patient(input: dict[str, Any], context: Context) -> str:
    if input.get("hold"):
        await hold.wait()
    return context.worker.name()


@app.task(desired_worker_labels={"model": {"value": "x", "weight": 10}})
async def hurried(input: dict[str, Any], context: Context) -> str:
    return context.worker.name()


async def main() -> None:
    warm = app.worker("warm", labels={"model": "x"}, slots=1)
    cold = app.worker("cold", slots=1)
    for worker in (warm, cold):
        worker.register_workflow(patient)
        worker.register_workflow(hurried)
    async with warm, cold:
        first = await patient.aio_run_no_wait({"hold": True})  # takes the one slot of warm
        second = await patient.aio_run_no_wait({})  # rather waits than taking cold
        third = await hurried.aio_run({}, timeout=30)
        hold.set()
        print(f"first: {(await first.result(30))['patient']}")
        print(f"patient: {(await second.result(30))['patient']}, after it was free again")
        print(f"hurried: {third}, at once")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

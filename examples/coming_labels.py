"""Labels that are coming: ten requests for a cold model load it once.

    python examples/coming_labels.py

Prints:

    ten requests at once, four cold workers
    loaded on 1 worker
    all ten ran there: True
"""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

from ganger import Context, Ganger, from_input

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
loads: list[str] = []


@app.task(sets_labels={"model": from_input("model")})
async def describe(input: dict[str, Any], context: Context) -> str:
    if context.worker.get_labels().get("model") != input["model"]:
        loads.append(context.worker.name())
        await asyncio.sleep(0.2)  # stands for the 30 seconds that a model takes to load
        await context.worker.async_upsert_labels({"model": input["model"]})
    return context.worker.name()


async def main() -> None:
    workers = [app.worker(f"gpu-{number}", slots=1) for number in range(4)]
    async with AsyncExitStack() as stack:
        for worker in workers:
            worker.register_workflow(describe)
            await stack.enter_async_context(worker)
        print("ten requests at once, four cold workers")
        prefers = {"model": {"value": "vision", "weight": 10, "prefer_for": "30s"}}
        ran_on = await describe.aio_run_many(
            [{"model": "vision"}] * 10, desired_worker_labels=prefers, timeout=60
        )
        print(f"loaded on {len(loads)} worker")
        print(f"all ten ran there: {set(ran_on) == set(loads)}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

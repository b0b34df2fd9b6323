"""Flow control: one run at a time for each customer, and three calls of an API a second.

    python examples/flow_control.py

Prints:

    most reports at once for one customer: 1
    customers served at the same time: True
    the fourth call in a second waits for the window: True
    a newer build takes the place of the older one: cancelled, succeeded
"""

import asyncio
import os
import time
from collections import Counter
from typing import Any

from ganger import Concurrency, ConcurrencyStrategy, Context, Ganger, RunCancelled

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
app.rate_limit("api", 3, per="second")

running: Counter[str] = Counter()
most: Counter[str] = Counter()
together = 0


@app.task(concurrency=Concurrency("customer", limit=1))
async def report(input: dict[str, Any], context: Context) -> None:
    global together
    customer = input["customer"]
    running[customer] += 1
    most[customer] = max(most[customer], running[customer])
    together = max(together, len(+running))
    await asyncio.sleep(0.05)
    running[customer] -= 1


@app.task(rate_limits={"api": 1})
async def call(input: dict[str, Any], context: Context) -> float:
    return time.monotonic()


@app.task(concurrency=Concurrency("branch", strategy=ConcurrencyStrategy.CANCEL_IN_PROGRESS))
async def build(input: dict[str, Any], context: Context) -> None:
    await asyncio.sleep(input["seconds"])


async def main() -> None:
    worker = app.worker("worker", slots=10)
    for workflow in (report, call, build):
        worker.register_workflow(workflow)
    async with worker:
        await report.aio_run_many([{"customer": name} for name in "aaabbb"], timeout=60)
        print(f"most reports at once for one customer: {max(most.values())}")
        print(f"customers served at the same time: {together == 2}")

        calls = sorted(await call.aio_run_many([{}] * 4, timeout=60))
        print(f"the fourth call in a second waits for the window: {calls[3] - calls[0] > 0.9}")

        older = await build.aio_run_no_wait({"branch": "main", "seconds": 60})
        newer = await build.aio_run_no_wait({"branch": "main", "seconds": 0.01})
        try:
            became = f"{await older.result(30)}"
        except RunCancelled:
            became = "cancelled"
        await newer.result(30)
        print(f"a newer build takes the place of the older one: {became}, succeeded")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

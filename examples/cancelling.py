"""Cancelling runs: one that runs async, one that runs in a thread, and one that waits.

    python examples/cancelling.py

Prints:

    async step: told, tidied up
    step in a thread: told, tidied up
    pending step: never ran
"""

import asyncio
import os
import threading
from contextlib import suppress
from typing import Any

from ganger import Context, Ganger, RunCancelled

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
told = {"awaiting": "", "in_thread": "", "nobody": "never ran"}
began, ended = threading.Barrier(3), threading.Event()


@app.task(timeout="1h")
async def awaiting(input: dict[str, Any], context: Context) -> None:
    try:
        await asyncio.to_thread(began.wait)
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        told["awaiting"] = "told, tidied up"
        raise


@app.task(timeout="1h")
def in_thread(input: dict[str, Any], context: Context) -> None:
    began.wait()
    while not context.wait_cancelled(60):
        ...  # a part of the work, or the next look after 60 seconds
    told["in_thread"] = "told, tidied up"
    ended.set()


@app.task(desired_worker_labels={"memory": {"value": 512, "comparator": "GREATER_THAN"}})
async def nobody(input: dict[str, Any], context: Context) -> None:
    told["nobody"] = "ran"


async def main() -> None:
    worker = app.worker("worker", labels={"memory": 128})
    tasks = {"async step": awaiting, "step in a thread": in_thread, "pending step": nobody}
    for task in tasks.values():
        worker.register_workflow(task)
    async with worker:
        runs = {name: await task.aio_run_no_wait({}) for name, task in tasks.items()}
        await asyncio.to_thread(began.wait)
        for run in runs.values():
            await app.admin.aio.cancel(run.run_id, "not needed any more")
            with suppress(RunCancelled):
                await run.result(30)
        await asyncio.to_thread(ended.wait)  # a result does not wait for a step that tidies up
        for name, run in runs.items():
            print(f"{name}: {told[run.workflow]}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""Schedules: a cron every second, and a run asked for at a time.

    python examples/schedules.py

Prints:

    two ticks, a second apart: True
    on the worker they require: eu
    scheduled: reminder
    reminded of it
    left: only crons
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from ganger import Context, Cron, Ganger

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
ticks: asyncio.Queue[tuple[datetime, str]] = asyncio.Queue()
reminded: asyncio.Queue[str] = asyncio.Queue()


@app.task(
    on_crons=[Cron("* * * * * *", timezone="Europe/Berlin")], desired_worker_labels={"zone": "eu"}
)
async def tick(input: dict[str, Any], context: Context) -> None:
    at = context.additional_metadata()["scheduled_for"]
    ticks.put_nowait((datetime.fromisoformat(at), context.worker.name()))


@app.task()
async def remind(input: dict[str, Any], context: Context) -> None:
    reminded.put_nowait(input["what"])


async def main() -> None:
    eu, us = app.worker("eu", labels={"zone": "eu"}), app.worker("us", labels={"zone": "us"})
    for worker in (eu, us):
        worker.register_workflow(tick)
        worker.register_workflow(remind)
    async with eu, us:
        (first, where), (second, _) = await ticks.get(), await ticks.get()
        print(f"two ticks, a second apart: {second - first == timedelta(seconds=1)}")
        print(f"on the worker they require: {where}")

        at = datetime.now(UTC) + timedelta(seconds=0.5)
        [schedule] = await app.admin.aio.schedule_workflow(
            remind, at, {"what": "reminded of it"}, schedule_id="reminder"
        )
        print(f"scheduled: {schedule}")
        print(await reminded.get())
        left = await app.admin.aio.list_schedules()
        print(f"left: {'only crons' if all(each.expression for each in left) else 'more'}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A program that runs by the clock: ``ganger worker tests.e2e.ticking_app:app``."""

from typing import Any

from ganger import Context, Cron, Ganger

app = Ganger()

EVERY_SECOND = Cron("* * * * * *", timezone="Europe/Berlin", desired_worker_labels={"zone": "eu"})


@app.task(on_crons=[EVERY_SECOND])
async def tick(input: dict[str, Any], context: Context) -> dict[str, Any]:
    return {"worker": context.worker.id()}

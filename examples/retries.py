"""Steps that fail: tried again after a rest, when they say so themselves, or not at all.

    python examples/retries.py

Prints:

    fetch: status 200 after 2 retries
    quota: through after 1 retry
    parse failed: NonRetryable: not a picture
"""

import asyncio
import os
from typing import Any

from ganger import Context, Ganger, NonRetryable, RetryAfter, RunFailed

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))

HAS_NETWORK = {"network": "public"}


@app.workflow()
class Fetch:
    # rests 1.1 s before the first retry, then 1.21 s, …, never longer than 5 s
    @app.step(
        retries=5, backoff_factor=1.1, backoff_max_seconds=5, desired_worker_labels=HAS_NETWORK
    )
    async def fetch(self, context: Context) -> dict[str, Any]:
        if context.retry_count() < 2:
            raise ConnectionError("the site is away")
        return {"status": 200, "retries": context.retry_count()}


@app.workflow()
class Quota:
    @app.step(retries=3, backoff_factor=10, desired_worker_labels=HAS_NETWORK)
    def quota(self, context: Context) -> dict[str, Any]:
        if context.retry_count() == 0:
            raise RetryAfter("500ms", "the service wants us to come again in half a second")
        return {"retries": context.retry_count()}


@app.workflow()
class Parse:
    @app.step(retries=10, backoff_factor=10)
    def parse(self, context: Context) -> None:
        raise NonRetryable("not a picture")  # ten more tries would not make it one


async def main() -> None:
    worker = app.worker("worker", labels={"network": "public"})
    for workflow in (Fetch, Quota, Parse):
        worker.register_workflow(workflow())
    async with worker:
        fetch = await app.admin.aio.run_workflow(Fetch, {})
        quota = await app.admin.aio.run_workflow(Quota, {})
        parse = await app.admin.aio.run_workflow(Parse, {})
        found = (await fetch.result(30))["fetch"]
        print(f"fetch: status {found['status']} after {found['retries']} retries")
        print(f"quota: through after {(await quota.result(30))['quota']['retries']} retry")
        try:
            await parse.result(30)
        except RunFailed as failed:
            error = failed.result.error
            print(f"parse failed: {error.type}: {error.message}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A step that runs when another has failed for good, on the worker that can send mail.

    python examples/on_failure.py

Prints:

    mail from post-office: charge failed with CardDeclined: no money, after reserving seat 12
    the run: failed in step charge
"""

import asyncio
import os
from typing import Any

from ganger import Context, Ganger, NonRetryable, RunFailed

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))


class CardDeclined(NonRetryable):
    """Trying again would not help."""


@app.workflow()
class Order:
    @app.step()
    async def reserve(self, context: Context) -> dict[str, Any]:
        return {"seat": 12}

    @app.step(parents=["reserve"], retries=3)
    async def charge(self, context: Context) -> None:
        raise CardDeclined("no money")

    @app.on_failure_step(retries=5, backoff_factor=2, desired_worker_labels={"mail": "yes"})
    async def apologise(self, context: Context) -> None:
        seat = context.step_output("reserve")["seat"]  # of any step that has succeeded
        for step, error in context.step_run_errors().items():
            print(
                f"mail from {context.worker.name()}: {step} failed with {error.type}: "
                f"{error.message}, after reserving seat {seat}"
            )


async def main() -> None:
    till = app.worker("till")
    post_office = app.worker("post-office", labels={"mail": "yes"})
    for worker in (till, post_office):
        worker.register_workflow(Order())
    async with till, post_office:
        run = await app.admin.aio.run_workflow(Order, {})
        try:
            await run.result(30)
        except RunFailed as failed:
            print(f"the run: {failed.result.status.value} in step {failed.result.error.step}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

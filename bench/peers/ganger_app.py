"""Ganger: everything confirmed and persistent; one dispatcher, one worker process.

The step requires a label that one of the 1,000 registered workers has.
"""

import asyncio

from bench.peers.driving import drive_async

from ganger import Context, Ganger

app = Ganger()


@app.workflow()
class Noop:
    @app.step(desired_worker_labels={"real": "yes", "zone": {"value": "a", "weight": 10}})
    async def noop(self, context: Context) -> dict[str, int]:
        return {"ok": 1}


async def main() -> None:
    async def job() -> None:
        ref = await app.admin.aio.run_workflow("noop", {})
        await ref.result(timeout=60)

    await drive_async(job)
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""Time-outs: of an async step, of a function that looks whether to stop, and more time on demand.

    python examples/timeouts.py

Prints:

    hang: TIMED_OUT
    count: TIMED_OUT, and it stopped counting
    chunks: 4 chunks in more time than it had at first
"""

import asyncio
import os

from ganger import Context, Ganger, RunFailed

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
stopped = []


@app.workflow()
class Hang:
    @app.step(timeout="300ms")
    async def hang(self, context: Context) -> None:
        await asyncio.sleep(3600)  # is cancelled here


@app.workflow()
class Count:
    @app.step(timeout="300ms")
    def count(self, context: Context) -> None:
        # Nothing can stop a Python thread from outside: a function has to look.
        while not context.wait_cancelled(0.05):
            pass
        stopped.append(context.attempt_id())


@app.workflow()
class Chunks:
    @app.step(timeout="1s")
    async def chunks(self, context: Context) -> int:
        done = 0
        for _ in range(4):
            context.refresh_timeout("1s")  # each chunk has a second of its own
            await asyncio.sleep(0.4)
            done += 1
        return done


async def main() -> None:
    worker = app.worker("worker")
    for workflow in (Hang, Count, Chunks):
        worker.register_workflow(workflow())
    async with worker:
        chunks = await app.admin.aio.run_workflow(Chunks, {})
        for workflow, more in ((Hang, ""), (Count, ", and it stopped counting")):
            run = await app.admin.aio.run_workflow(workflow, {})
            try:
                await run.result(30)
            except RunFailed as failed:
                reason = failed.result.error.reason.value
                print(f"{run.workflow}: {reason}{more if stopped else ''}")
        done = (await chunks.result(30))["chunks"]
        print(f"chunks: {done} chunks in more time than it had at first")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A run whose output is read while it is made, also when the worker that makes it is lost.

    python examples/streams.py

Prints:

    attempt 1: [info] the model is on worker first
    attempt 1: Once
    attempt 1: upon
    attempt 1: a
    the worker first is gone
    attempt 2: [info] the model is on worker second
    attempt 2: Once
    attempt 2: upon
    attempt 2: a
    attempt 2: time
    result: Once upon a time
    a program that blocks: Once upon a time
"""

import asyncio
import os

from ganger import Context, Ganger, StreamItem

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))


@app.workflow()
class Story:
    @app.step(desired_worker_labels={"model": "storyteller"})  # required: nobody else may tell it
    async def tell(self, context: Context) -> str:
        context.log(f"the model is on worker {context.worker.name()}")
        told = []
        for word in ("Once", "upon", "a", "time"):
            if word == "time" and context.worker.name() == "first":
                await asyncio.Event().wait()  # it never comes to that
            context.put_stream(word)
            told.append(word)
        return " ".join(told)


def shown(item: StreamItem) -> str:
    number = item.attempt.rpartition("/")[2]
    return f"attempt {number}: " + (f"[{item.level}] " if item.kind == "log" else "") + item.data


def blocking() -> str:
    run = app.admin.run_workflow(Story, {}, stream=True)
    return " ".join(item.data for item in run.sync_stream() if item.kind == "chunk")


async def main() -> None:
    workers = [
        app.worker("plain"),
        app.worker("first", labels={"model": "storyteller"}),
        app.worker("second", labels={"model": "storyteller"}),
    ]
    for worker in workers:
        worker.register_workflow(Story())
    plain, first, second = workers
    async with plain, first:
        run = await app.admin.aio.run_workflow(Story, {}, stream=True)
        items = run.stream()
        for _ in range(4):
            print(shown(await anext(items)))
        async with second:
            first.stop(force=True)
            print("the worker first is gone")
            async for item in items:
                print(shown(item))
            print(f"result: {(await run.result(60))['tell']}")
            print(f"a program that blocks: {await asyncio.to_thread(blocking)}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

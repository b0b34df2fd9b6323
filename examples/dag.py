"""A diamond: two branches run at the same time, each on the worker that suits it, then a join.

    python examples/dag.py

Prints:

    split on cpu-1
    caption on gpu-1: 3 words
    thumbnail on cpu-1: 3 words
    publish got 'caption of a b c' and 'thumbnail of a b c'
    broken: step 'parse', attempt 1: ValueError: no picture in it; its child did not run
"""

import asyncio
import os
from typing import Any

from ganger import Context, Ganger, RunFailed

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
both_run = asyncio.Barrier(2)

CPU, GPU = {"kind": "cpu"}, {"kind": "gpu"}


@app.workflow()
class Picture:
    @app.step(desired_worker_labels=CPU)
    async def split(self, context: Context) -> dict[str, Any]:
        return {"words": context.workflow_input()["text"].split(), "on": context.worker.id()}

    @app.step(parents=[split], desired_worker_labels=GPU)
    async def caption(self, context: Context) -> dict[str, Any]:
        return await branch(context, "caption")

    @app.step(parents=[split], desired_worker_labels=CPU)
    async def thumbnail(self, context: Context) -> dict[str, Any]:
        return await branch(context, "thumbnail")

    @app.step(parents=["caption", "thumbnail"])
    def publish(self, context: Context) -> list[str]:
        return [context.step_output("caption")["made"], context.step_output("thumbnail")["made"]]


async def branch(context: Context, what: str) -> dict[str, Any]:
    words = context.step_output("split")["words"]
    await both_run.wait()  # only when both branches run at the same time
    made = f"{what} of {' '.join(words)}"
    return {"made": made, "on": context.worker.id(), "words": len(words)}


@app.workflow()
class Broken:
    @app.step()
    async def parse(self, context: Context) -> None:
        raise ValueError("no picture in it")

    @app.step(parents=["parse"])
    async def never(self, context: Context) -> None:
        print("this is not printed")


async def main() -> None:
    cpu = app.worker("cpu", labels=CPU, worker_id="cpu-1")
    gpu = app.worker("gpu", labels=GPU, worker_id="gpu-1")
    for worker in (cpu, gpu):
        worker.register_workflow(Picture())
        worker.register_workflow(Broken())
    async with cpu, gpu:
        run = await app.admin.aio.run_workflow(Picture, {"text": "a b c"})
        found = await run.result(30)
        print(f"split on {found['split']['on']}")
        for step in ("caption", "thumbnail"):
            print(f"{step} on {found[step]['on']}: {found[step]['words']} words")
        caption, thumbnail = found["publish"]
        print(f"publish got {caption!r} and {thumbnail!r}")
        try:
            await (await app.admin.aio.run_workflow(Broken, {})).result(30)
        except RunFailed as failed:
            error = failed.result.error
            attempt = error.attempt.rpartition("/")[2]
            print(
                f"broken: step {error.step!r}, attempt {attempt}: {error.type}: {error.message}; "
                "its child did not run"
            )
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""Steps that spawn runs: on a worker of one slot, a thousand at once, and never twice.

    python examples/children.py

Prints:

    album: 3 pictures, by a worker of one slot
    many: 1000 pictures, the last is picture 999
    after a retry there is still one child: True
"""

import asyncio
import os
from typing import Any

from ganger import Context, Ganger

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
drawn: list[str] = []


@app.workflow()
class Picture:
    @app.step()
    async def draw(self, context: Context) -> str:
        drawn.append(context.workflow_run_id())
        return f"picture {context.workflow_input()['n']}"


@app.workflow()
class Album:
    @app.step()
    async def collect(self, context: Context) -> list[str]:
        children = [await context.aio.spawn_workflow(Picture, {"n": n}) for n in range(3)]
        # While it waits its slot is for others, so its children may run on this very worker.
        return [(await child.result())["draw"] for child in children]


@app.workflow()
class Many:
    @app.step()
    def draw_all(self, context: Context) -> list[str]:  # a plain function: the blocking twins
        children = context.spawn_workflows(Picture, [{"n": n} for n in range(1000)])
        return [child.sync_result()["draw"] for child in children]


@app.workflow()
class Again:
    @app.step(retries=1)
    async def twice(self, context: Context) -> str:
        child = await context.aio.spawn_workflow(Picture, {"n": 1}, key="cover")
        await child.result()
        if context.retry_count() == 0:
            raise ConnectionError("after its child has ended")
        return child.run_id  # the key is the same, and so is the run


async def main() -> None:
    worker = app.worker("worker", slots=1)
    for workflow in (Picture, Album, Many, Again):
        worker.register_workflow(workflow())

    async def output(workflow: type, step: str) -> Any:
        run = await app.admin.aio.run_workflow(workflow, {})
        return (await run.result(60))[step]

    async with worker:
        print(f"album: {len(await output(Album, 'collect'))} pictures, by a worker of one slot")
        many = await output(Many, "draw_all")
        print(f"many: {len(many)} pictures, the last is {many[-1]}")
        child = await output(Again, "twice")
        print(f"after a retry there is still one child: {drawn.count(child) == 1}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""Events start runs: one event may start several workflows, and the same event never twice.

    python examples/events.py

Prints:

    image:new cat.png: caption on worker
    image:new cat.png: index on worker
    image:gone old.png: index on worker
    5 events pushed at once, 10 runs
"""

import asyncio
import os

from ganger import Context, Ganger

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
done: asyncio.Queue[str] = asyncio.Queue()


def describe(context: Context, what: str) -> str:
    event = context.additional_metadata()["event"]
    name = context.workflow_input()["name"]
    return f"{event} {name}: {what} on {context.worker.name()}"


@app.workflow(on_events=["image:new"])
class Caption:
    @app.step()
    async def caption(self, context: Context) -> None:
        await done.put(describe(context, "caption"))


@app.workflow(on_events=["image:*"])
class Index:
    @app.step()
    async def index(self, context: Context) -> None:
        await done.put(describe(context, "index"))


async def lines(count: int) -> list[str]:
    return sorted([await asyncio.wait_for(done.get(), 30) for _ in range(count)])


async def main() -> None:
    worker = app.worker("worker")
    worker.register_workflow(Caption())
    worker.register_workflow(Index())
    async with worker:
        for _ in range(2):  # the second one is the same event: nothing starts
            await app.event.aio.push("image:new", {"name": "cat.png"}, event_id="upload-7")
        print(*await lines(2), sep="\n")
        await app.event.aio.push("image:gone", {"name": "old.png"})
        print(*await lines(1), sep="\n")
        many = [("image:new", {"name": f"{number}.png"}) for number in range(5)]
        events = await app.event.aio.bulk_push(many)
        print(f"{len(events)} events pushed at once, {len(await lines(10))} runs")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A run that stays where its files are: HARD, whatever other workers are free; its labels count.

    python examples/sticky.py

Prints:

    fetch, unpack and render ran on one worker: disk-2
    which has the label that render requires: fonts=yes
"""

import asyncio
import os

from ganger import Context, Ganger, StickyStrategy

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))
FONTS = {"fonts": "yes"}


# With HARD the first step's labels choose the worker. It has to suit the later steps too:
# one that it does not suit would wait, and `ganger explain` would say why.
@app.workflow(sticky=StickyStrategy.HARD, sticky_on_loss="repin")
class Film:
    @app.step(desired_worker_labels=FONTS)
    async def fetch(self, context: Context) -> str:
        return context.worker.id()

    @app.step(parents=["fetch"])
    async def unpack(self, context: Context) -> str:
        return context.worker.id()

    @app.step(parents=["unpack"], desired_worker_labels=FONTS)
    async def render(self, context: Context) -> str:
        return context.worker.id()


async def main() -> None:
    workers = [
        app.worker("disk", worker_id="disk-1"),
        app.worker("disk", worker_id="disk-2", labels=FONTS),
        app.worker("disk", worker_id="disk-3"),
    ]
    for worker in workers:
        worker.register_workflow(Film())
    async with workers[0], workers[1], workers[2]:
        run = await app.admin.aio.run_workflow(Film, {})
        found = await run.result(30)
        places = set(found.values())
        print(f"fetch, unpack and render ran on one worker: {places.pop()}")
        print(f"which has the label that render requires: fonts={workers[1].get_labels()['fonts']}")
    await app.admin.aio.close()


if __name__ == "__main__":
    asyncio.run(main())

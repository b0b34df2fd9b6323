"""Workers that say which model they have loaded, and a step that goes where it is.

A worker needs more than 256 (GB) of memory for this step, and the one that has the model
loaded is preferred: its weight counts. When no such worker is free another one takes the
step, loads the model, and says so: the runs after this one know.

Everything in this process:  python examples/affinity.py
With servers:                ganger dispatcher
                             ganger worker affinity:app --label memory=512    (in examples/)
                             ganger trigger caption --input '{"image": "a.png"}' --wait

Prints:

    what is on 0.png: affinity-worker, after loading the model
    what is on 1.png: affinity-worker, with the model it had
    what is on 5.png: affinity-worker, with the model it had
    labels now: {'model': 'fancy-vision-model', 'memory': 512}
"""

import asyncio
import os
from typing import Any

from ganger import Context, Ganger, WorkerLabelComparator

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))

MODEL = "fancy-vision-model"


async def load_model(name: str) -> None:
    """Stands for what takes minutes: fetch the weights and fill the accelerator with them."""
    await asyncio.sleep(0.2)


@app.workflow(on_events=["image:new"], schedule_timeout="5m")
class Caption:
    @app.step(
        timeout="60s",
        retries=3,
        desired_worker_labels={
            "model": {"value": MODEL, "weight": 10},
            "memory": {
                "value": 256,
                "required": True,
                "comparator": WorkerLabelComparator.GREATER_THAN,
            },
        },
    )
    async def caption(self, context: Context) -> dict[str, Any]:
        loaded = False
        if context.worker.get_labels().get("model") != MODEL:
            # while it is loading nobody is to come here for the old model
            context.worker.upsert_labels({"model": "unset"})
            await load_model(MODEL)
            context.worker.upsert_labels({"model": MODEL})
            loaded = True
        image = context.workflow_input()["image"]
        return {"caption": f"what is on {image}", "worker": context.worker.id(), "loaded": loaded}


async def main() -> None:
    """Two workers, one too small; six images, one after the other."""
    small = app.worker("small-worker", labels={"model": MODEL, "memory": 128}, slots=4)
    affinity = app.worker(
        "affinity-worker",
        labels={"model": "fancy-ai-model-v2", "memory": 512},
        slots=4,
        worker_id="affinity-worker",
    )
    for worker in (small, affinity):
        worker.register_workflow(Caption())
    async with small, affinity:
        for number in range(6):
            run = await app.admin.aio.run_workflow(Caption, {"image": f"{number}.png"})
            found = (await run.result(timeout=30))["caption"]
            how = "after loading the model" if found["loaded"] else "with the model it had"
            print(f"{found['caption']}: {found['worker']}, {how}")
        print("labels now:", affinity.get_labels())


if __name__ == "__main__":
    asyncio.run(main())

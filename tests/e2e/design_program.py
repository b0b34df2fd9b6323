"""The program of the design's section on the Python interface, as it is written there."""
# fmt: off
# ruff: noqa

from ganger import Ganger, Context, WorkerLabelComparator

app = Ganger()          # GANGER_BROKER_URL, GANGER_REDIS_URL from the environment; memory:// is embedded

@app.workflow(on_events=["image:new"], schedule_timeout="5m")
class Caption:
    @app.step(
        timeout="60s", retries=3,
        desired_worker_labels={
            "model": {"value": "fancy-vision-model", "weight": 10},
            "memory": {"value": 256, "required": True, "comparator": WorkerLabelComparator.GREATER_THAN},
        },
    )
    async def caption(self, context: Context):
        if context.worker.get_labels().get("model") != "fancy-vision-model":
            context.worker.upsert_labels({"model": "unset"})
            ...
            context.worker.upsert_labels({"model": "fancy-vision-model"})
        return {"worker": context.worker.id()}

worker = app.worker("affinity-worker", labels={"model": "fancy-ai-model-v2", "memory": 512}, slots=4)
worker.register_workflow(Caption())
worker.start()

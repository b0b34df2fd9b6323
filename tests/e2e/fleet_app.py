"""The program the end-to-end tests deploy: ``ganger worker tests.e2e.fleet_app:app``."""

import asyncio
from pathlib import Path
from typing import Any

from ganger import (
    Concurrency,
    Context,
    Ganger,
    NonRetryable,
    RetryAfter,
    StickyStrategy,
    WorkerLabelComparator,
)

app = Ganger()
app.rate_limit("quota", 3, per="day")


@app.workflow(on_events=["place:*"])
class Where:
    """Says where it ran; what it desires comes with the trigger."""

    @app.step(schedule_timeout="30s")
    async def where(self, context: Context) -> dict[str, Any]:
        return {"worker": context.worker.id(), "labels": dict(context.worker.get_labels())}


@app.workflow()
class Warm:
    """The program of the design: swaps the model when it finds another one loaded."""

    @app.step(
        desired_worker_labels={
            "model": {"value": "fancy-vision-model", "weight": 10},
            "memory": {
                "value": 256,
                "required": True,
                "comparator": WorkerLabelComparator.GREATER_THAN,
            },
        },
    )
    async def warm(self, context: Context) -> dict[str, Any]:
        loaded = context.worker.get_labels().get("model") != "fancy-vision-model"
        if loaded:
            context.worker.upsert_labels({"model": "unset"})
            context.worker.upsert_labels({"model": "fancy-vision-model"})
        return {"worker": context.worker.id(), "loaded": loaded}


@app.workflow()
class Long:
    """Runs until the test makes a file, or from its second attempt on not at all."""

    @app.step(timeout="5m")
    async def long(self, context: Context) -> dict[str, Any]:
        await context.worker.async_upsert_labels({"busy": context.workflow_run_id()})
        if context.attempt_id().endswith("/1"):
            done = Path(context.workflow_input()["until"])
            # a file made by another process tells nobody
            while not done.exists():  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.02)
        return {"worker": context.worker.id()}


@app.workflow()
class Plain:
    """A plain function, run in a thread."""

    @app.step()
    def plain(self, context: Context) -> dict[str, Any]:
        context.worker.upsert_labels({"plain": 1})
        return {"worker": context.worker.id(), "retry": context.retry_count()}


@app.workflow()
class Short:
    """Runs for longer than it may, and says with a label that it has begun."""

    @app.step(timeout="10s")
    async def short(self, context: Context) -> None:
        await context.worker.async_upsert_labels({"busy": context.workflow_run_id()})
        await asyncio.sleep(60)


@app.workflow()
class Split:
    """Spawns a run of ``long`` for each part, elsewhere, and waits for them in its one slot."""

    @app.step(timeout="5m", desired_worker_labels={"role": "parent"})
    async def split(self, context: Context) -> list[Any]:
        given = context.workflow_input()
        wish = {"role": {"value": "child"}}
        children = await context.aio.spawn_workflows(
            Long, [{"until": given["until"]}] * given["parts"], desired_worker_labels=wish
        )
        return [(await child.result())["long"]["worker"] for child in children]


@app.workflow(concurrency=Concurrency("customer"))
class Limited(Long):
    """One run for each customer at a time, and three a day."""

    @app.step(timeout="5m", desired_worker_labels={"role": "gpu"}, rate_limits={"quota": 1})
    async def long(self, context: Context) -> dict[str, Any]:
        return await Long.long(self, context)


@app.workflow()
class Talk:
    """Logs and streams as much as it is told to; its first attempt then stays, if it is to."""

    @app.step(timeout="5m", desired_worker_labels={"voice": 1})
    async def talk(self, context: Context) -> dict[str, Any]:
        given = context.workflow_input()
        for number in range(given.get("lines", 1)):
            context.log(f"line {number}")
        for number in range(given.get("chunks", 0)):
            await context.async_put_stream({"chunk": number})
        if given.get("stay") and context.attempt_id().endswith("/1"):
            await asyncio.Event().wait()
        return {"worker": context.worker.id()}


@app.workflow()
class Picture:
    """Two branches, on a CPU and a GPU. The one on the GPU fails once and then does not end."""

    @app.step(desired_worker_labels={"kind": "cpu"})
    async def split(self, context: Context) -> list[int]:
        return [1, 2]

    @app.step(parents=[split], desired_worker_labels={"kind": "cpu"})
    def thumb(self, context: Context) -> str:
        return context.worker.id()

    @app.step(parents=[split], timeout="3s", retries=1, desired_worker_labels={"kind": "gpu"})
    async def caption(self, context: Context) -> dict[str, Any]:
        if context.retry_count() == 0:
            raise RetryAfter("100ms", "not yet")
        if context.attempt_id().endswith("/2"):
            context.refresh_timeout("1m")
            await context.worker.async_upsert_labels({"busy": context.workflow_run_id()})
            await asyncio.Event().wait()
        return {"worker": context.worker.id(), "parts": context.step_output("split")}

    @app.step(parents=[caption, thumb], desired_worker_labels={"kind": "cpu"})
    async def publish(self, context: Context) -> list[Any]:
        return [context.step_output("caption"), context.step_output("thumb"), context.worker.id()]


@app.workflow(sticky=StickyStrategy.HARD, sticky_on_loss="repin")
class Pinned:
    """Two steps at once, on one worker; on the first one they do not end, on the next both fail."""

    async def _work(self, context: Context) -> None:
        if context.attempt_id().endswith("/1"):
            await context.worker.async_upsert_labels({context.step_run_id()[-1]: "runs"})
            await asyncio.Event().wait()
        raise NonRetryable(context.worker.id())

    @app.step(timeout="5m", retries=3, desired_worker_labels={"kind": "gpu"})
    async def a(self, context: Context) -> None:
        await self._work(context)

    @app.step(timeout="5m", retries=3, desired_worker_labels={"kind": "gpu"})
    async def b(self, context: Context) -> None:
        await self._work(context)

    @app.on_failure_step(desired_worker_labels={"kind": "gpu"})
    async def tell(self, context: Context) -> dict[str, Any]:
        errors = context.step_run_errors()
        where = {step: error.message for step, error in errors.items()}
        return {"worker": context.worker.id(), "errors": where}

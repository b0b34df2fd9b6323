"""The demo's story, told on the embedded default: in-memory transport, Redis in memory."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import cycle, islice
from typing import Any, Protocol, cast
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from ganger.app import Ganger
from ganger.client import WorkflowRunRef
from ganger.embedded import ensure_dispatcher
from ganger.worker import Worker
from ganger_broker.logs import configure_logging
from ganger_broker.settings import Settings

from .fleet import STEP_SECONDS, make_app, make_workers
from .judge import Judge
from .view import View

__all__ = ["demo"]

PATIENCE = 25.0
"""Seconds until the demo counts as stuck."""
_LOOK_EVERY = 0.05
"""Seconds between looks at the feed; a view may poll, the dispatcher does not."""


class Feed(Protocol):
    """What an embedded dispatcher tells of itself."""

    async def feed(self, after: str = "0") -> list[tuple[str, dict[str, str]]]:
        """Entries after this one."""

    async def explain(self, step_run: str) -> dict[str, Any]:
        """Why a step run waits."""


def demo(console: Console | None = None) -> int:
    """Play the demo; its exit status: 1 if a step was misplaced or a run did not succeed."""
    console = console or Console()
    settings = Settings.load(
        broker_url="memory://demo",
        redis_url="memory://demo",
        prefix=f"demo-{uuid4().hex[:8]}",
        log_level="error",  # the story tells what the log would
    )
    configure_logging(settings)
    began = time.monotonic()
    story = asyncio.run(_play(settings, console))
    return _summary(console, story, time.monotonic() - began)


class _Story:
    """What is happening: runs triggered, the feed read so far."""

    def __init__(self, app: Ganger, feed: Feed, view: View, judge: Judge) -> None:
        self.app, self.dispatcher, self.view, self.judge = app, feed, view, judge
        self.refs: list[WorkflowRunRef] = []
        self.failed: list[str] = []
        self._counts: Counter[str] = Counter()
        self._read = "0"
        self._news = asyncio.Condition()

    async def trigger(self, workflow: str) -> WorkflowRunRef:
        """Trigger a run whose id can be read."""
        self._counts[workflow] += 1
        run_id = f"{workflow}-{self._counts[workflow]}"
        ref = await self.app.admin.aio.run_workflow(workflow, {}, run_id=run_id)
        self.refs.append(ref)
        return ref

    async def watch(self) -> None:
        """Read the feed, judge it and show it; until cancelled."""
        while True:
            for entry_id, entry in await self.dispatcher.feed(self._read):
                self._read = entry_id
                placed = self.judge.read(entry)
                if placed is not None:
                    self.view.placed(placed)
            self.view.refresh()
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(_LOOK_EVERY)

    async def until_pending(self, step_run: str) -> None:
        """Wait until the feed says that the step run waits."""
        async with self._news:
            await self._news.wait_for(lambda: step_run in self.judge.pending)

    async def all_ended(self) -> None:
        """Wait for the results of all runs so far."""
        for ref in self.refs:
            try:
                await ref.result()
            except Exception as exc:  # every way to fail is a line in the summary
                self.failed.append(f"{ref.run_id}: {exc}")
        self.refs.clear()


async def _play(settings: Settings, console: Console) -> _Story:
    app, judge = make_app(settings), Judge()
    dispatcher = cast("Feed", await asyncio.to_thread(ensure_dispatcher, settings))
    async with asyncio.timeout(PATIENCE), _working(make_workers(app)) as workers:
        with View(console, judge) as view:
            story = _Story(app, dispatcher, view, judge)
            watching = asyncio.create_task(story.watch())
            try:
                await _warm_models(story)
                await _swap_a_model(story)
                await _wait_for_a_label(story, workers["small-sin"])
                await asyncio.sleep(2 * _LOOK_EVERY)  # the last entries of the feed
            finally:
                watching.cancel()
                await app.admin.aio.close()
    return story


@contextlib.asynccontextmanager
async def _working(workers: list[Worker]) -> AsyncIterator[dict[str, Worker]]:
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        yield {worker.name: worker for worker in workers}


async def _warm_models(story: _Story) -> None:
    story.view.act("Each step goes where its model is warm, its memory is, or where it must stay")
    mix = ["caption", "chat", "resize", "invoice", "caption", "index"]
    for workflow in islice(cycle(mix), 30):
        await story.trigger(workflow)
        await asyncio.sleep(STEP_SECONDS / 3)
    await story.all_ended()


async def _swap_a_model(story: _Story) -> None:
    story.view.act("A step swaps the model of its worker by upsert_labels: the next ones follow")
    await story.trigger("swap")
    await story.all_ended()
    for _ in range(6):
        await story.trigger("draw")
        await asyncio.sleep(STEP_SECONDS)
    await story.all_ended()


async def _wait_for_a_label(story: _Story, worker: Worker) -> None:
    story.view.act("Nobody is in gru: the step waits, says why, and goes when a label changes")
    await story.trigger("tango")
    step_run = "tango-1/tango"
    await story.until_pending(step_run)
    story.view.explained(await story.dispatcher.explain(step_run))
    await asyncio.sleep(2.0)  # time to read
    worker.upsert_labels({"region": "gru"})
    await story.all_ended()


def _summary(console: Console, story: _Story, seconds: float) -> int:
    judge = story.judge
    misplaced = [placed for placed in judge.placed if placed.misplaced]
    table = Table("worker", "steps", "of which", title="Who ran what")
    for worker in judge.used:
        kinds = Counter(p.step_run.rpartition("/")[2] for p in judge.placed if p.worker == worker)
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        table.add_row(worker, str(kinds.total()), what)
    console.print(table)
    after = [placed for placed in judge.placed if placed.step_run.endswith("/draw")]
    console.print(
        f"{len(judge.placed)} steps placed in {seconds:.1f} s, {len(misplaced)} misplaced; "
        f"{sum(p.worker == 'ram-fra' for p in after)} of {len(after)} steps followed the swapped "
        f"model; {len(judge.relabelled)} label changes",
        highlight=False,
    )
    for placed in misplaced:
        console.print(f"MISPLACED: {placed.step_run} on {placed.worker}: {placed.why}")
    for failure in story.failed:
        console.print(f"FAILED: {failure}")
    return 1 if misplaced or story.failed or not judge.placed else 0

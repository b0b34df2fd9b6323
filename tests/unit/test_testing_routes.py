"""The test kit: where steps go, and why some go nowhere."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from ganger import Compute, Context, Ganger, RunCancelled, WorkerLabelComparator
from ganger.testing import Fleet, NotEnded

MODEL = {"value": "vision", "weight": 10}
MEMORY = {"value": 256, "comparator": WorkerLabelComparator.GREATER_THAN}


@pytest.fixture
def app() -> Ganger:
    app = Ganger()

    @app.workflow(schedule_timeout="5m")
    class Caption:
        @app.step(desired_worker_labels={"model": MODEL, "memory": MEMORY})
        async def caption(self, context: Context) -> str:
            if context.worker.get_labels().get("model") != "vision":
                context.worker.upsert_labels({"model": "unset"})
                await asyncio.sleep(30)
                context.worker.upsert_labels({"model": "vision"})
            await asyncio.sleep(1)
            return f"{context.workflow_input().get('url')} by {context.worker.id()}"

    return app


def test_a_preferred_label_wins_and_a_required_one_excludes(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("warm-but-small", app, labels={"model": "vision", "memory": 128})
    fleet.worker("cold", app, labels={"memory": 512})
    fleet.worker("warm", app, labels={"model": "vision", "memory": 512})
    run = fleet.run("caption", {"url": "cat.png"})
    assert run.status == "succeeded"
    assert run.output == {"caption": "cat.png by warm"}
    assert run.step("caption").worker == "warm"
    assert fleet.now == 1


def test_the_warm_worker_gets_the_next_and_a_full_one_is_passed_by(
    fleet: Fleet, app: Ganger
) -> None:
    fleet.worker("a", app, labels={"model": "vision", "memory": 512}, slots=1)
    b = fleet.worker("b", app, labels={"memory": 512}, slots=1)
    first, second, third = (fleet.start("caption") for _ in range(3))
    assert [run.step("caption").worker for run in (first, second, third)] == ["a", "b", None]
    assert third.step("caption").status == "pending"
    assert "not now: workers that meet the requirement are full" in third.explain("caption")
    fleet.advance("1s")
    assert first.ended
    assert third.step("caption").worker == "a"
    assert b.get_labels() == {"model": "unset", "memory": 512}
    fleet.advance("30s")
    assert second.output == {"caption": "None by b"}
    assert b.get_labels() == {"model": "vision", "memory": 512}


def test_a_label_that_changes_lets_a_waiting_step_go(fleet: Fleet, app: Ganger) -> None:
    worker = fleet.worker("w", app, labels={"model": "vision", "memory": 128})
    run = fleet.start("caption")
    said = run.explain()
    assert "never with this fleet: no live worker meets the requirement" in said
    assert "✗ memory GREATER_THAN 256 (required): 128, mismatch" in said
    worker.upsert_labels({"memory": 512})
    assert run.step("caption").worker == "w"
    fleet.advance("1s")
    assert run.status == "succeeded"


def test_what_nobody_can_take_is_explained_and_not_waited_for(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("w", app, labels={"memory": 128})
    with pytest.raises(NotEnded) as raised:
        fleet.run("caption")
    assert str(raised.value).startswith("run caption-1 cannot end: no worker can take")
    assert "memory GREATER_THAN 256 (required): 128, mismatch" in str(raised.value)
    assert fleet.now == 0


@pytest.fixture
def warming() -> Ganger:
    """A step that needs a model, and others that bring it, each in its time."""
    app = Ganger()
    app.rate_limit("loads", 1, per="1m")

    @app.task(desired_worker_labels={"model": "x"}, schedule_timeout="30m")
    async def use(given: Any, context: Context) -> str:
        return context.worker.name()

    @app.task(retries=1, backoff_factor=30, jitter=0)
    async def flaky(given: Any, context: Context) -> None:
        if context.retry_count() == 0:
            raise ConnectionError
        context.worker.upsert_labels({"model": "x"})

    @app.task(rate_limits={"loads": 1})
    async def limited(given: Any, context: Context) -> None:
        if given.get("load"):
            context.worker.upsert_labels({"model": "x"})

    return app


def test_a_run_waits_for_another_one_that_is_tried_again(fleet: Fleet, warming: Ganger) -> None:
    fleet.worker("w", warming)
    fleet.start("flaky")
    assert fleet.run("use").output == {"use": "w"}
    assert fleet.now == 30


def test_a_run_waits_for_another_one_that_waits_in_its_turn(fleet: Fleet, warming: Ganger) -> None:
    fleet.worker("w", warming)
    fleet.start("limited")
    fleet.start("limited", {"load": True})
    assert fleet.run("use").output == {"use": "w"}


@pytest.mark.parametrize("kind", ["cron", "schedule"])
def test_a_run_waits_for_what_is_to_come_by_the_clock(
    fleet: Fleet, warming: Ganger, kind: str
) -> None:
    @warming.task(on_crons=["*/5 * * * *"] if kind == "cron" else [])
    async def load(given: Any, context: Context) -> None:
        context.worker.upsert_labels({"model": "x"})

    fleet.worker("w", warming)
    if kind == "schedule":
        warming.admin.schedule_workflow("load", datetime(2030, 1, 1, 0, 5, tzinfo=UTC))
    assert fleet.run("use").output == {"use": "w"}
    assert 295 <= fleet.now <= 305


def test_two_runs_that_nobody_can_take_do_not_wait_for_each_other(
    fleet: Fleet, warming: Ganger
) -> None:
    fleet.worker("w", warming)
    fleet.start("use")
    with pytest.raises(NotEnded, match="use-2 cannot end: no worker can take what is left of it"):
        fleet.run("use")
    assert fleet.now == 0


def test_the_labels_of_a_trigger_count(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("fra", app, labels={"model": "vision", "memory": 512, "region": "fra"})
    fleet.worker("gru", app, labels={"model": "vision", "memory": 512, "region": "gru"})
    for region in ("gru", "fra"):
        run = fleet.run("caption", desired_worker_labels={"region": region})
        assert run.step("caption").worker == region


def test_a_step_waits_for_the_worker_it_prefers_as_long_as_it_says(fleet: Fleet) -> None:
    app = Ganger()

    @app.task(desired_worker_labels={"warm": {"value": 1, "weight": 1, "prefer_for": "2s"}})
    async def work(given: Any, context: Context) -> None:
        await asyncio.sleep(given["lasts"])

    fleet.worker("warm", app, labels={"warm": 1}, slots=1)
    fleet.worker("cold", app, slots=5)
    fleet.start(work, {"lasts": 1})
    short = fleet.start(work, {"lasts": 60})
    assert "it rather waits for a worker with warm EQUAL 1 (there, or coming)" in short.explain()
    fleet.advance("1s")
    assert short.step("work").worker == "warm"
    long = fleet.start(work, {"lasts": 1})
    fleet.advance("1.9s")
    assert long.step("work").status == "pending"
    fleet.advance("0.1s")
    assert long.step("work").worker == "cold"


def test_nobody_in_time_is_a_cancelled_run_that_says_so(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("w", app, labels={"memory": 128})
    run = fleet.start("caption")
    fleet.advance("4m59s")
    assert run.status == "running"
    with pytest.raises(NotEnded, match="never with this fleet"):
        _ = run.output
    fleet.advance("1s")
    assert run.status == "cancelled"
    assert run.error is not None
    assert run.error.reason == "SCHEDULING_TIMED_OUT"
    with pytest.raises(RunCancelled, match="SCHEDULING_TIMED_OUT"):
        _ = run.output


def story(app: Ganger) -> list[tuple[str, ...]]:
    """Which workers each of twenty runs went to, on a fleet that loses one."""
    with Fleet() as fleet:
        for number in range(4):
            fleet.worker(f"w{number}", app, labels={"memory": 300 + number}, slots=2)
        runs = []
        for number in range(20):
            runs.append(fleet.start("caption", {"url": f"{number}.png"}))
            fleet.advance("3s")
            if number == 9:
                fleet.kill("w1")
        fleet.advance("2m")
        assert {run.status for run in runs} == {"succeeded"}
        return [run.step("caption").workers for run in runs]


def test_the_same_test_goes_the_same_way_twice(app: Ganger) -> None:
    first = story(app)
    assert any(len(workers) > 1 for workers in first)
    assert story(app) == first


def test_steps_with_compute_go_to_workers_of_their_pool(fleet: Fleet) -> None:
    app = Ganger()
    machine = Compute(cpu_kind="shared", cpus=1, memory_mb=512, regions=["fra", "iad"])

    @app.task(compute=machine, desired_worker_labels={"ganger.region": {"value": "iad"}})
    async def work(input: dict[str, Any], context: Context) -> str:
        return context.worker.id()

    fleet.worker("plain", app)
    fleet.worker("fra", app, pool=machine, region="fra")
    run = fleet.start("work")
    assert "never with this fleet" in run.explain("work")
    fleet.worker("iad", app, pool=machine, region="iad")
    assert run.output == {"work": "iad"}

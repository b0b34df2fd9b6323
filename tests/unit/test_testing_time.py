"""The test kit: what takes time takes the fleet's, and none of the test's."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from ganger import Context, Ganger, GangerError, NonRetryable, RetryAfter, RunFailed, background
from ganger.testing import Fleet


def test_time_stands_still_until_it_is_moved(fleet: Fleet, app: Ganger) -> None:
    @app.task(timeout="2h")
    async def sleep(given: Any, context: Context) -> str:
        await asyncio.sleep(3600)
        return "woke"

    fleet.worker("w", app)
    run = fleet.start("sleep")
    assert (run.step("sleep").status, fleet.now) == ("running", 0)
    fleet.advance("59m")
    assert (run.status, fleet.now) == ("running", 59 * 60)
    fleet.advance("1m")
    assert run.output == {"sleep": "woke"}


def test_a_test_that_blocks_on_a_run_is_told_that_time_stands_still(
    fleet: Fleet, app: Ganger, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task()
    async def nap(given: Any, context: Context) -> str:
        await asyncio.sleep(given["lasts"])
        return "woke"

    fleet.worker("w", app)
    assert nap.run({"lasts": 0}) == "woke"
    monkeypatch.setattr(background, "STANDSTILL", 0.2)
    with pytest.raises(GangerError, match=r"the fleet's time stands still: .*Use fleet\.run\("):
        nap.run({"lasts": 30})
    fleet.advance("30s")
    assert [run.status for run in fleet.runs(nap)] == ["succeeded", "succeeded"]


def test_another_thread_may_block_on_a_run_while_the_test_moves_time(
    fleet: Fleet, app: Ganger, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task()
    async def nap(given: Any, context: Context) -> str:
        await asyncio.sleep(30)
        return "woke"

    fleet.worker("w", app)
    monkeypatch.setattr(background, "STANDSTILL", 2.0)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(nap.run, {})
        while not waiting.done():
            fleet.advance("1s")
        assert waiting.result() == "woke"


def test_retries_rest_as_long_as_they_say(fleet: Fleet, app: Ganger) -> None:
    tried: list[float] = []

    @app.task(retries=3, backoff_factor=2, jitter=0)
    async def flaky(given: Any, context: Context) -> int:
        tried.append(asyncio.get_running_loop().time())
        if context.retry_count() == 1:
            raise RetryAfter("1m", "busy")
        if context.retry_count() < 3:
            raise OSError("away")
        return context.retry_count()

    fleet.worker("w", app)
    run = fleet.run(flaky)
    assert run.output == {"flaky": 3}
    assert tried == [0, 2, 62, 70]
    assert (run.step("flaky").attempts, run.step("flaky").failures) == (4, 3)

    later = fleet.start(flaky)
    resting = later.step("flaky")
    assert resting.status == "backoff"
    assert resting.error is not None
    assert resting.error.message == "away"
    assert "it will be tried again" in later.explain()


def test_a_failure_is_raised_with_its_text(fleet: Fleet, app: Ganger) -> None:
    @app.task(retries=3)
    def broken(given: Any, context: Context) -> None:
        raise NonRetryable("no picture")

    fleet.worker("w", app)
    run = fleet.run("broken")
    assert run.status == "failed"
    assert run.error is not None
    with pytest.raises(RunFailed, match=r"in step broken .*no picture"):
        _ = run.output


def test_a_step_is_timed_out_async_or_in_a_thread(fleet: Fleet, app: Ganger) -> None:
    ends: list[str] = []

    @app.task(timeout="90s")
    async def hang(given: Any, context: Context) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("hang")

    @app.task(timeout="90s")
    def count(given: Any, context: Context) -> None:
        while not context.wait_cancelled(0.5):
            pass
        ends.append("count")

    @app.task(timeout="90s")
    def wait(given: Any, context: Context) -> None:
        assert context.wait_cancelled()
        ends.append("wait")

    fleet.worker("w", app)
    runs = [fleet.start(task) for task in (hang, count, wait)]
    fleet.advance("89s")
    assert [run.status for run in runs] == ["running"] * 3
    fleet.advance("1s")
    assert [run.error.reason for run in runs if run.error] == ["TIMED_OUT"] * 3
    assert sorted(ends) == ["count", "hang", "wait"]


def test_more_time_is_given_on_demand_in_a_thread_too(fleet: Fleet, app: Ganger) -> None:
    @app.task(timeout="10s")
    def chunks(given: Any, context: Context) -> bool:
        for _ in range(5):
            context.refresh_timeout("10s")
            if context.wait_cancelled(9):
                return False
        return True

    fleet.worker("w", app)
    assert fleet.run(chunks).output == {"chunks": True}
    assert fleet.now == 45


def test_the_steps_of_a_lost_worker_go_elsewhere(fleet: Fleet, app: Ganger) -> None:
    @app.task(desired_worker_labels={"best": {"value": 1, "weight": 1}})
    async def work(given: Any, context: Context) -> str:
        await asyncio.sleep(20)
        return context.worker.id()

    @app.task(desired_worker_labels={"best": {"value": 1, "weight": 1}})
    def threaded(given: Any, context: Context) -> str:
        context.wait_cancelled(20)
        return context.worker.id()

    fleet.worker("best", app, labels={"best": 1})
    fleet.worker("other", app)
    runs = [fleet.start(work), fleet.start(threaded)]
    fleet.advance("5s")
    fleet.kill("best")
    fleet.advance("7s")
    assert [run.steps.popitem()[1].worker for run in runs] == ["best", "best"]
    fleet.advance("5s")
    for run in runs:
        assert run.step(run.workflow).workers == ("best", "other")
        assert run.step(run.workflow).failures == 0
    fleet.advance("20s")
    assert [run.output[run.workflow] for run in runs] == ["other", "other"]
    fleet.worker("best", app, labels={"best": 1})
    assert fleet.run(work).output == {"work": "best"}


def test_how_long_a_worker_may_be_silent_is_a_setting(app: Ganger) -> None:
    app.task("work")(_sleep)
    with Fleet(worker_timeout="1m") as fleet:
        fleet.worker("w", app)
        run = fleet.start("work")
        fleet.kill("w")
        fleet.worker("other", app)
        fleet.advance("50s")
        assert run.step("work").worker == "w"
        fleet.advance("15s")
        assert run.step("work").workers == ("w", "other")


async def _sleep(given: Any, context: Context) -> None:
    await asyncio.sleep(30)


def test_a_worker_that_is_stopped_ends_what_it_has(fleet: Fleet, app: Ganger) -> None:
    app.task("work")(_sleep)
    fleet.worker("w", app)
    run = fleet.start("work")
    fleet.stop("w")
    waits = fleet.start("work")
    assert waits.step("work").status == "pending"
    assert "draining" in waits.explain()
    fleet.advance("30s")
    assert run.status == "succeeded"
    fleet.worker("w", app)
    assert waits.step("work").worker == "w"


def test_a_parent_of_one_slot_waits_for_its_children(fleet: Fleet, app: Ganger) -> None:
    @app.task()
    async def child(given: Any, context: Context) -> int:
        await asyncio.sleep(10)
        return int(given["n"]) * 2

    @app.task()
    async def parent(given: Any, context: Context) -> list[int]:
        refs = await context.aio.spawn_workflows(child, [{"n": n} for n in range(3)])
        return [(await ref.result())["child"] for ref in refs]

    @app.task()
    def threaded(given: Any, context: Context) -> int:
        ref = context.spawn_workflow(child, {"n": 4})
        return int(ref.sync_result()["child"])

    fleet.worker("w", app, slots=1)
    assert fleet.run(parent).output == {"parent": [0, 2, 4]}
    assert fleet.now == 30
    assert len(fleet.runs(child)) == 3
    assert fleet.run(threaded).output == {"threaded": 8}
    assert fleet.now == 40


def test_steps_of_a_workflow_run_one_after_the_other(fleet: Fleet, app: Ganger) -> None:
    @app.workflow()
    class Film:
        @app.step()
        async def cut(self, context: Context) -> int:
            await asyncio.sleep(3)
            return 7

        @app.step(parents=[cut])
        def show(self, context: Context) -> int:
            return int(context.step_output("cut")) + 1

    fleet.worker("w", app)
    run = fleet.start(Film)
    assert {name: step.status for name, step in run.steps.items()} == {
        "cut": "running",
        "show": "waiting",
    }
    fleet.advance("3s")
    assert run.output == {"cut": 7, "show": 8}


def test_it_begins_with_the_date_it_is_told(app: Ganger) -> None:
    begin = datetime(2031, 5, 6, 7, tzinfo=UTC)
    with Fleet(starts_at=begin) as fleet:
        fleet.worker("w", app, workflows=[_declared(app)])
        fleet.advance("90s")
        assert app.clock() == begin.timestamp() * 1000 + 90_000
    assert app.clock() < begin.timestamp() * 1000


def _declared(app: Ganger) -> object:
    return app.task("any")(_sleep)


def test_a_run_is_cancelled_on_request(fleet: Fleet, app: Ganger) -> None:
    app.task("work")(_sleep)
    fleet.worker("w", app)
    run = fleet.start("work")
    run.cancel("enough")
    assert (run.status, run.error and run.error.message) == ("cancelled", "enough")


def test_prune_and_long_times_are_those_of_the_fleet(app: Ganger) -> None:
    app.task("work")(_sleep)
    with Fleet(retention="2m", lease="3s") as fleet:
        fleet.worker("w", app)
        fleet.run("work")
        assert len(fleet.runs()) == 1
        fleet.advance("4m")
        assert fleet.runs() == []


def test_a_worker_that_comes_again_gets_the_runs_that_are_pinned_to_it(fleet: Fleet) -> None:
    app = Ganger()

    @app.workflow(sticky="hard")
    class Pinned:
        @app.step()
        async def first(self, context: Context) -> str:
            return context.worker.id()

        @app.step(parents=[first])
        async def second(self, context: Context) -> str:
            await asyncio.sleep(10)
            return context.worker.id()

    fleet.worker("one", app)
    fleet.worker("two", app)
    run = fleet.start(Pinned)
    fleet.kill("one")
    fleet.advance("30s")
    assert run.step("second").status == "pending"
    assert "pinned to one, which was lost or has left" in run.explain("second")
    fleet.worker("one", app)
    fleet.advance("10s")
    assert run.output == {"first": "one", "second": "one"}


def test_what_outlasts_the_grace_of_a_worker_goes_on_elsewhere(fleet: Fleet, app: Ganger) -> None:
    @app.task(timeout="10m")
    async def long(given: Any, context: Context) -> str:
        await asyncio.sleep(100)
        return context.worker.id()

    fleet.worker("one", app)
    run = fleet.start(long)
    fleet.stop("one")
    fleet.worker("two", app)
    fleet.advance("29s")
    assert run.step("long").worker == "one"
    fleet.advance("5s")
    assert run.step("long").workers == ("one", "two")

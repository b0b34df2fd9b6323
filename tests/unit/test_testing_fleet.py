"""The test kit: stubs, what is refused, and that a fleet leaves nothing behind."""

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from ganger import (
    Context,
    Ganger,
    GangerError,
    InvalidInput,
    InvalidSetting,
    InvalidWorkflow,
    MissingExtra,
    RunFailed,
    embedded,
)
from ganger.testing import Fleet, NotEnded
from ganger_broker import transports

PATIENCE = 20.0


@pytest.fixture
def app() -> Ganger:
    """``load`` then ``use``: the first must not run here."""
    app = Ganger()

    @app.workflow(on_events=["image:*"])
    class Film:
        @app.step(timeout="1m", retries=1)
        def load(self, context: Context) -> None:
            raise AssertionError("needs a GPU")

        @app.step(parents=[load])
        async def use(self, context: Context) -> Any:
            return context.step_output("load")

    return app


# ── stubs ─────────────────────────────────────────────────────────────────────────────


def test_a_stub_returns_after_its_time(fleet: Fleet, app: Ganger) -> None:
    fleet.stub("film:load", returns={"frames": 3}, lasts="30s")
    fleet.worker("w", app)
    run = fleet.run("film")
    assert run.output == {"load": {"frames": 3}, "use": {"frames": 3}}
    assert fleet.now == 30


def test_a_stub_is_timed_out_and_tried_again_like_the_step(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("w", app)
    fleet.stub("film:load", lasts="2m")
    run = fleet.run("film")
    assert run.error is not None
    assert (run.error.reason, run.step("load").attempts, fleet.now) == ("TIMED_OUT", 2, 120)
    fleet.stub("film:load", raises=OSError("no disk"))
    with pytest.raises(RunFailed, match="OSError: no disk"):
        _ = fleet.run("film").output


def test_a_stub_may_do_something_with_its_context(fleet: Fleet, app: Ganger) -> None:
    async def does(context: Context) -> str:
        await context.worker.async_upsert_labels({"model": "vision"})
        return context.worker.id()

    worker = fleet.worker("w", app)
    fleet.stub("film:load", does=does)
    assert fleet.run("film").output["use"] == "w"
    assert worker.get_labels() == {"model": "vision"}
    fleet.stub("film:load", does=lambda context: context.retry_count())
    assert fleet.run("film").output["use"] == 0


@pytest.mark.parametrize("before", [True, False])
def test_a_stub_of_no_step_is_refused(fleet: Fleet, app: Ganger, before: bool) -> None:
    text = r"stub: no worker has a step 'film\.load'; there are film:load, film:use"
    if before:
        fleet.stub("film.load")
        fleet.worker("w", app)
        with pytest.raises(InvalidInput, match=text):
            fleet.start("film")
    else:
        fleet.worker("w", app)
        with pytest.raises(InvalidInput, match=text):
            fleet.stub("film.load")
    fleet.stub("film:load")
    assert fleet.run("film").status == "succeeded"


# ── what is refused ───────────────────────────────────────────────────────────────────


def test_what_is_wrong_is_named(fleet: Fleet, app: Ganger) -> None:
    with pytest.raises(InvalidInput, match="no worker has a workflow 'film'; start one first"):
        fleet.run("film")
    fleet.worker("w", app)
    with pytest.raises(InvalidInput, match="there is a worker 'w' already"):
        fleet.worker("w", app)
    with pytest.raises(InvalidInput, match="no worker has a workflow 'flim'; there are film"):
        fleet.start("flim")
    with pytest.raises(InvalidInput, match="there is no worker 'v'; there are w"):
        fleet.kill("v")
    for wrong in ("-1s", -1, 0, "soon"):
        with pytest.raises(InvalidInput, match=r"advance: .* must be a positive number"):
            fleet.advance(wrong)
    with pytest.raises(InvalidInput, match="give one of returns, raises and does"):
        fleet.stub("film:load", returns=1, raises=OSError())
    with pytest.raises(InvalidInput, match="priority: 9 must be 1, 2 or 3"):
        fleet.start("film", priority=9)
    fleet.stub("film:load")
    with pytest.raises(InvalidInput, match="film has no step 'lode'; there are load, use"):
        fleet.run("film").step("lode")
    with pytest.raises(InvalidSetting, match="there is no such setting"):
        Fleet(speed=2)


def test_a_worker_that_is_refused_says_why(fleet: Fleet, app: Ganger) -> None:
    same_name = Ganger()

    @same_name.workflow("film")
    class Another:
        @same_name.step()
        async def something(self, context: Context) -> None: ...

    fleet.worker("w", app)
    with pytest.raises(InvalidWorkflow, match="film"):
        fleet.worker("v", same_name)
    with pytest.raises(InvalidWorkflow, match="'v' has no workflow"):
        fleet.worker("v", Ganger())


def test_a_run_that_takes_too_long_is_not_waited_for(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("w", app)
    fleet.stub("film:load", lasts="50s")
    with pytest.raises(NotEnded, match=r"has not ended at 20 s\n.*film-1/load: running on w"):
        fleet.run("film", within="20s")
    assert fleet.now <= 20


def test_a_function_that_takes_real_time_is_waited_for_up_to_a_point() -> None:
    app, go_on = Ganger(), threading.Event()

    @app.task()
    def heavy(given: Any, context: Context) -> float:
        go_on.wait(PATIENCE)
        return 1.0

    with Fleet(thread_patience=0.05) as fleet:
        fleet.worker("w", app)
        with pytest.raises(GangerError, match=r"0\.05 s of real time.*wait_cancelled"):
            fleet.run(heavy)
        go_on.set()
        assert fleet.run(heavy).status == "succeeded"


def test_real_time_in_threads_is_none_of_the_fleets(fleet: Fleet) -> None:
    app = Ganger()

    @app.task(timeout="1s")
    def heavy(given: Any, context: Context) -> None:
        time.sleep(0.02)  # stands for real work: the fleet waits for it, on no clock of its own

    @app.task(timeout="1s")
    async def helped(given: Any, context: Context) -> None:
        await asyncio.to_thread(time.sleep, 0.02)

    fleet.worker("w", app)
    assert [fleet.run(task).status for task in (heavy, helped)] == ["succeeded"] * 2
    assert fleet.now == 0


def test_a_step_cannot_move_the_time(fleet: Fleet) -> None:
    app = Ganger()

    @app.task()
    async def hasty(given: Any, context: Context) -> None:
        fleet.advance("1s")

    fleet.worker("w", app)
    with pytest.raises(RunFailed, match="the fleet is for the test: a step must not call it"):
        _ = fleet.run(hasty).output


# ── beginning and end ─────────────────────────────────────────────────────────────────


async def test_an_async_test_uses_it_as_well(app: Ganger) -> None:
    with Fleet() as fleet:
        fleet.stub("film:load", lasts="30s")
        fleet.worker("w", app)
        assert fleet.run("film").status == "succeeded"


def test_events_and_triggers_of_the_app_itself_come_here(fleet: Fleet, app: Ganger) -> None:
    fleet.stub("film:load", lasts="5s")
    fleet.worker("w", app)
    app.event.push("image:new", {"url": "cat.png"})
    (run,) = fleet.runs("film")
    assert run.status == "running"
    fleet.advance("5s")
    assert run.status == "succeeded"
    app.admin.run_workflow("film", run_id="mine")
    assert [run.id for run in fleet.runs()][1:] == ["mine"]


def test_two_fleets_know_nothing_of_each_other(fleet: Fleet, app: Ganger) -> None:
    fleet.stub("film:load", lasts="5s")
    fleet.worker("w", app)
    with Fleet() as other:
        other.stub("film:load", returns=1)
        other.worker("w", app)
        assert other.run("film").output["use"] == 1
        assert fleet.runs() == []
    assert fleet.run("film").output["use"] is None
    assert (fleet.now, other.now) == (5, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_app_comes_back_in_whatever_order_its_fleets_are_closed(
    app: Ganger, order: tuple[int, int]
) -> None:
    before = app.settings, app.clock
    fleets = Fleet(), Fleet()
    for fleet in fleets:
        fleet.stub("film:load")
        fleet.worker("w", app)
    fleets[order[0]].close()
    left = fleets[order[1]]
    app.admin.run_workflow("film", run_id="it")
    assert [run.id for run in left.runs()] == ["it"]
    left.close()
    assert (app.settings, app.clock) == before


def test_children_go_where_the_app_is_when_they_are_spawned(fleet: Fleet) -> None:
    app = Ganger()

    @app.task()
    async def child(given: Any, context: Context) -> str:
        return context.worker.name()

    @app.task()
    async def parent(given: Any, context: Context) -> Any:
        found = await context.aio.spawn_workflow("child")
        return (await found.result())["child"]

    fleet.worker("here", app)
    with Fleet() as other:
        other.worker("there", app)
        fleet.start(parent)  # its child goes to the other fleet, which has the app
        assert [run.status for run in other.runs("child")] == ["succeeded"]
    assert fleet.run(parent).output == {"parent": "here"}


def test_without_any_worker_left_a_run_cannot_end(fleet: Fleet, app: Ganger) -> None:
    fleet.worker("w", app)
    fleet.kill("w")
    with pytest.raises(NotEnded, match="never with this fleet: there are no live workers"):
        fleet.run("film")


def test_nothing_is_left_behind() -> None:
    app = Ganger(worker_timeout="20s")
    before = app.settings

    @app.task()
    async def stubborn(given: Any, context: Context) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if given.get("for ever"):
                    continue
                raise

    @app.task()
    def threaded(given: Any, context: Context) -> None:
        context.wait_cancelled()

    for given in ({}, {"for ever": True}):
        with Fleet() as fleet:
            fleet.worker("w", app)
            run = fleet.start("stubborn", given)
            fleet.start("threaded")
            assert run.status == "running"
            app.admin.run_workflow("threaded")
        assert app.settings is before
        assert not [url for url in transports._brokers if "testing-" in url]
        assert not [url for url, _ in embedded._running if "testing-" in url]
        names = {thread.name for thread in threading.enumerate()}
        assert not {"ganger-fleet", "ganger-client"} & names
        fleet.close()
        with pytest.raises(GangerError, match="the fleet is closed"):
            _ = run.status


def test_without_the_dispatcher_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "entry_points", lambda **_: [])
    with pytest.raises(MissingExtra, match=r"ganger\.testing needs .*'ganger\[embedded\]'"):
        Fleet()


def test_pytest_finds_the_fixture(ganger_fleet: Fleet, app: Ganger) -> None:
    ganger_fleet.worker("w", app)
    assert ganger_fleet.now == 0


def test_the_plugin_loads_no_dispatcher() -> None:
    code = (
        "import sys, ganger.testing.plugin; "
        "print([m for m in ('numpy', 'redis', 'ganger_dispatcher') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_run_whose_input_was_refused_says_so(ganger_fleet: Fleet) -> None:
    class Wanted(BaseModel):
        n: int

    app = Ganger()

    @app.task(input_validator=Wanted)
    async def typed(input: Wanted, context: Context) -> int:
        return input.n

    ganger_fleet.worker("w", app)
    run = ganger_fleet.run("typed", {"n": None})
    assert (run.status, run.steps) == ("failed", {})
    assert run.error is not None
    assert run.error.reason == "INVALID_INPUT"
    with pytest.raises(RunFailed, match=r"\$\.input\.n"):
        _ = run.output


def test_a_stub_that_is_wrong_costs_no_other_one(ganger_fleet: Fleet) -> None:
    app = Ganger()

    @app.task()
    async def one(input: Any, context: Context) -> int:
        return 1

    ganger_fleet.worker("w", app)
    with pytest.raises(InvalidInput, match="stub: no worker has a step 'typo:x'"):
        ganger_fleet.stub("typo:x")
    ganger_fleet.stub("one:one", returns=5)
    assert ganger_fleet.run("one").output == {"one": 5}


def test_a_run_says_how_it_is_when_it_is_shown(app: Ganger, fleet: Fleet) -> None:
    @app.task()
    async def nothing(input: dict[str, Any], context: Context) -> None: ...

    fleet.worker("w", app)
    run = fleet.run("nothing")
    assert repr(run) == "Run(id='nothing-1', workflow='nothing', status='succeeded')"

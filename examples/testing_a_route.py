"""Tests of a route: runs go to the worker that has the model loaded, and what if it is gone.

No GPU, no servers, and no waiting: the minutes in here are those of the fleet's own clock.
Needs pytest and ganger[embedded]. The fixture ``ganger_fleet`` is there by itself.

    pytest examples/testing_a_route.py        or        python examples/testing_a_route.py

Prints:

    testing_a_route.py::test_the_worker_that_has_the_model_gets_the_run PASSED
    testing_a_route.py::test_where_nobody_has_it_the_first_to_load_it_keeps_getting_them PASSED
    testing_a_route.py::test_when_the_warm_worker_is_lost_its_run_goes_on_elsewhere PASSED
    testing_a_route.py::test_a_worker_with_too_little_memory_never_gets_one PASSED
    testing_a_route.py::test_what_is_found_in_it_is_posted_at_the_third_try PASSED
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from ganger import Context, Ganger, WorkerLabelComparator
from ganger.testing import Fleet, NotEnded

# ── the program: in real life it is in a module of its own ────────────────────────────

app = Ganger()

MODEL = "fancy-vision-model"


async def load_model(name: str) -> None:
    raise RuntimeError("there is no GPU here")


@app.workflow(schedule_timeout="5m")
class Caption:
    @app.step(
        timeout="2m",
        desired_worker_labels={
            "model": {"value": MODEL, "weight": 10},
            "memory": {"value": 256, "comparator": WorkerLabelComparator.GREATER_THAN},
        },
    )
    async def caption(self, context: Context) -> str:
        if context.worker.get_labels().get("model") != MODEL:
            context.worker.upsert_labels({"model": "unset"})
            await load_model(MODEL)
            context.worker.upsert_labels({"model": MODEL})
        await asyncio.sleep(1)
        return f"what is on {context.workflow_input()['url']}"

    @app.step(parents=[caption], retries=3, backoff_factor=2, jitter=0)
    def post(self, context: Context) -> str:
        raise RuntimeError("would really post it")


# ── its tests ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def fleet(ganger_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A fleet on which loading a model takes 30 s, and nothing is posted."""

    async def load(name: str) -> None:
        await asyncio.sleep(30)

    monkeypatch.setitem(globals(), "load_model", load)
    ganger_fleet.stub("caption:post", returns="posted")
    return ganger_fleet


def test_the_worker_that_has_the_model_gets_the_run(fleet: Fleet) -> None:
    fleet.worker("cold", app, labels={"memory": 512})
    fleet.worker("warm", app, labels={"memory": 512, "model": MODEL})
    run = fleet.run("caption", {"url": "cat.png"})
    assert run.output == {"caption": "what is on cat.png", "post": "posted"}
    assert run.step("caption").worker == "warm"
    assert fleet.now == 1


def test_where_nobody_has_it_the_first_to_load_it_keeps_getting_them(fleet: Fleet) -> None:
    one = fleet.worker("one", app, labels={"memory": 512})
    fleet.worker("two", app, labels={"memory": 512})
    first = fleet.start(Caption, {"url": "1.png"})
    assert one.get_labels()["model"] == "unset"
    fleet.advance("31s")
    assert first.status == "succeeded"
    assert one.get_labels()["model"] == MODEL
    runs = [fleet.start(Caption, {"url": f"{n}.png"}) for n in range(2, 6)]
    assert {run.step("caption").worker for run in runs} == {"one"}


def test_when_the_warm_worker_is_lost_its_run_goes_on_elsewhere(fleet: Fleet) -> None:
    fleet.worker("cold", app, labels={"memory": 512})
    fleet.worker("warm", app, labels={"memory": 512, "model": MODEL})
    run = fleet.start(Caption, {"url": "cat.png"})
    fleet.kill("warm")
    fleet.advance("15s")  # silent for 10 s: lost
    assert run.step("caption").workers == ("warm", "cold")
    fleet.advance("31s")
    assert run.status == "succeeded"


def test_a_worker_with_too_little_memory_never_gets_one(fleet: Fleet) -> None:
    small = fleet.worker("small", app, labels={"memory": 128, "model": MODEL})
    with pytest.raises(NotEnded, match="memory GREATER_THAN 256"):
        fleet.run(Caption, {"url": "cat.png"})
    late = fleet.start(Caption, {"url": "dog.png"})
    assert "never with this fleet" in late.explain("caption")
    small.upsert_labels({"memory": 512})  # it was wrongly labelled, say
    assert late.step("caption").worker == "small"

    fleet.stop("small")
    never = fleet.start(Caption, {"url": "cow.png"})
    fleet.advance("5m")
    assert never.error is not None
    assert never.error.reason == "SCHEDULING_TIMED_OUT"


def test_what_is_found_in_it_is_posted_at_the_third_try(fleet: Fleet) -> None:
    def post(context: Context) -> Any:
        if context.retry_count() < 2:
            raise ConnectionError("the site is away")
        return context.step_output("caption")

    fleet.stub("caption:post", does=post)
    fleet.worker("warm", app, labels={"memory": 512, "model": MODEL})
    run = fleet.run(Caption, {"url": "cat.png"})
    assert run.output["post"] == "what is on cat.png"
    assert run.step("post").attempts == 3
    assert fleet.now == 1 + 2 + 4  # the caption, then its rests


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    options = ["-v", "-o", "console_output_style=classic", "-W", "ignore:Module already imported"]
    raise SystemExit(pytest.main([*options, Path(__file__).name]))

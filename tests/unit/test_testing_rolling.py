"""Runs of one version while workers roll to the next, their code with them."""

from typing import Any

from ganger import Context, Ganger
from ganger.testing import Fleet


def version(number: str, more: bool) -> Ganger:
    """``a`` → ``b``; with ``more`` b has another parent, and needs what that returns."""
    app = Ganger()

    class Roll:
        @app.step(desired_worker_labels={"gpu": 1})
        async def a(self, context: Context) -> str:
            return number

        if more:

            @app.step()
            async def x(self, context: Context) -> str:
                return "x"

        @app.step(parents=["a", "x"] if more else ["a"], desired_worker_labels={"gpu": 1})
        async def b(self, context: Context) -> Any:
            return [number, context.step_output("a"), *([context.step_output("x")] if more else [])]

    app.workflow(name="roll", version=number)(Roll)
    return app


def test_a_run_ends_with_the_code_it_began_with(fleet: Fleet) -> None:
    fleet.stub("roll:a", returns="1", lasts="10s")
    fleet.worker("old", version("1", more=False), slots=1, labels={"gpu": 1})
    run = fleet.start("roll")
    fleet.advance("2s")
    fleet.worker("new", version("2", more=True), slots=10, labels={"gpu": 1})
    fleet.advance("20s")
    assert run.output["b"] == ["1", "1"]


def test_runs_that_began_since_are_the_new_ones(fleet: Fleet) -> None:
    fleet.worker("old", version("1", more=False), slots=10, labels={"gpu": 1})
    fleet.worker("new", version("2", more=True), slots=1, labels={"gpu": 1})
    runs = [fleet.start("roll") for _ in range(3)]
    fleet.advance("5s")
    assert [run.output["b"] for run in runs] == [["2", "2", "x"]] * 3

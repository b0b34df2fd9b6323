"""Runs by the clock, for tests: a fleet at a full minute, and what was asked for."""

from datetime import UTC, datetime
from typing import Any

from ganger_broker.crons import Cron, MissedTicks
from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.schedules import ScheduleRuns
from ganger_dispatcher.core.effects import Answer
from ganger_dispatcher.core.facts import (
    ScheduleRequested,
)

from .world import World, address, of

MINUTE = 60_000
EVERY_MINUTE = Cron("* * * * *", input={"by": "cron"}, priority=2, metadata={"team": "a"})
CATCH_UP = Cron("* * * * *", missed=MissedTicks.CATCH_UP)


def flow(*crons: Cron, version: str = "", **step: Any) -> WorkflowDefinition:
    return WorkflowDefinition("w", [StepDefinition("s", **step)], version, on_crons=list(crons))


def fleet(*crons: Cron, **step: Any) -> World:
    """A worker of many slots, at a full minute."""
    world = World()
    world.now -= world.now % MINUTE
    world.join(workflows=[flow(*crons, **step)], slots=10_000)
    return world


def schedule(world: World, *at: int, schedule_id: str = "once", **fields: Any) -> list[Any]:
    """A program asks for runs at these times, ms; the effects."""
    times = [datetime.fromtimestamp(each / 1000, UTC) for each in at]
    request = ScheduleRuns("w", times, schedule_id, **fields)
    return world.tell(ScheduleRequested(request, schedule_id, address("q")))


def answers(effects: list[Any]) -> list[tuple[list[str], str | None]]:
    return [
        ([each.schedule_id for each in effect.answer.schedules], effect.answer.error)
        for effect in of(effects, Answer)
    ]


def runs(world: World) -> int:
    return len(world.stored.headers)


def runs_after(world: World) -> int:
    """How many there are when it was woken once more."""
    world.wait(0.001)
    return runs(world)

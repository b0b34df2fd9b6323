"""Runs by a cron: one run a tick, whoever leads and whatever comes twice."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from ganger_broker.crons import Cron, MissedTicks, next_tick
from ganger_dispatcher.core.effects import Count
from ganger_dispatcher.core.schedules import tick_run_id

from .clock_world import (
    CATCH_UP,
    EVERY_MINUTE,
    MINUTE,
    fleet,
    flow,
    runs,
    runs_after,
)
from .world import World, assigned, of, told

# ── crons ─────────────────────────────────────────────────────────────────────────────


def test_each_tick_has_a_run() -> None:
    world = fleet(EVERY_MINUTE)
    [known] = world.core.state.schedules.values()
    assert world.wait(59, "a") is not None
    assert runs(world) == 0
    first = world.now + 1000
    assert len(assigned(world.wait(1, "a"))) == 1
    header = world.stored.headers[tick_run_id(known)]
    scheduled_for = datetime.fromtimestamp(first / 1000, UTC).isoformat()
    about = {"team": "a", "schedule": known.schedule_id, "scheduled_for": scheduled_for}
    assert (header.input, header.metadata, header.priority) == ({"by": "cron"}, about, 2)
    world.wait(180, "a")
    assert runs(world) == 4


def test_a_run_by_the_clock_is_placed_by_its_labels() -> None:
    cron = Cron("* * * * *", desired_worker_labels={"zone": "eu"})
    world = fleet(cron, desired_worker_labels={"gpu": 1})
    world.join(
        "b", {"zone": "eu", "gpu": 1}, workflows=[flow(cron, desired_worker_labels={"gpu": 1})]
    )
    [(_, worker)] = assigned(world.wait(60, "a", "b"))
    assert worker == "b"
    world.join(
        "c", {"zone": "eu", "gpu": 1}, workflows=[flow(cron, desired_worker_labels={"gpu": 1})]
    )
    assert [to for _, to in assigned(world.leave("b"))] == ["c"]


def test_a_change_of_leaders_loses_no_tick_and_doubles_none() -> None:
    world = fleet(EVERY_MINUTE)
    for _ in range(5):
        world.wait(55, "a")
        world.now += 10_000  # nobody leads; a tick is among these seconds
        world.take_over()
        world.wait(0.001)
    assert runs(world) == 325 // 60


def test_missed_ticks_are_skipped() -> None:
    world = fleet(EVERY_MINUTE)
    world.now += 10 * MINUTE + 5_000
    world.take_over()
    effects = world.wait(0.001)
    assert runs(world) == 1  # the one of five seconds ago is late, and not missed
    assert Count("ticks_missed") in effects
    world.wait(60, "a")
    assert runs(world) == 2


def test_missed_ticks_may_be_caught_up_with() -> None:
    world = fleet(CATCH_UP)
    world.now += 10 * MINUTE + 5_000
    world.take_over()
    world.wait(0.001)
    assert runs(world) == 10


def test_a_year_of_missed_ticks_holds_nobody_up() -> None:
    world = fleet(CATCH_UP)
    world.now += 365 * 24 * 60 * MINUTE
    world.take_over()
    began = runs(world)
    effects = world.wait(0.001)
    assert len([e for e in effects if e == Count("ticks")]) == 100
    assert runs(world) == began + 100
    assert runs(world) < runs_after(world)


def test_the_newest_definition_says_which_crons_there_are() -> None:
    world = fleet(EVERY_MINUTE, Cron("0 0 * * *"))
    assert len(world.stored.schedules) == 2
    world.join("b", workflows=[flow(EVERY_MINUTE, version="2")])
    [kept] = world.stored.schedules.values()
    assert kept.cron == EVERY_MINUTE
    world.wait(60, "a", "b")
    assert runs(world) == 1
    world.join("c", workflows=[flow(version="3")])
    assert world.stored.schedules == {}
    world.wait(300, "a", "b", "c")
    assert runs(world) == 1


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        (Cron("* * *"), "on_crons[0].expression: '* * *' is no cron expression"),
        (Cron("0 0 31 2 *"), "on_crons[0].expression: '0 0 31 2 *'"),
        (Cron("* * * * *", "Mars/Base"), "on_crons[0].timezone: 'Mars/Base' must be a name"),
        (Cron("* * * * *", "../etc/passwd"), "on_crons[0].timezone: '../etc/passwd' must be"),
    ],
)
def test_a_bad_cron_is_refused(cron: Cron, said: str) -> None:
    world = World()
    [(_, refused)] = told(world.join(workflows=[flow(cron)]))
    assert refused.reason.startswith(f"workflow 'w': {said}")


def test_the_input_of_a_cron_has_to_fit_its_workflow() -> None:
    world = World()
    needs = {"type": "object", "required": ["n"]}
    unfit = replace(flow(EVERY_MINUTE), input_schema=needs)
    [(_, refused)] = told(world.join(workflows=[unfit]))
    assert refused.reason == "workflow 'w': on_crons[0]: $.input: 'n' is a required property"
    fit = replace(flow(Cron("* * * * *", input={"n": 1})), input_schema=needs)
    assert told(world.join("b", workflows=[fit])) == []


def test_a_tick_is_not_given_to_a_worker_that_is_lost_at_that_moment() -> None:
    world = World()
    world.now += 50_000 - world.now % MINUTE  # ten seconds before a tick
    for worker in ("a", "b"):
        world.join(worker, workflows=[flow(EVERY_MINUTE)])
    effects = world.wait(10, "b")
    assert [worker for _, worker in assigned(effects)] == ["b"]
    assert "a" not in world.core.state.workers


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("after", "tick"),
    [
        ("2026-03-28T12:00+01:00", "2026-03-29T03:00+02:00"),  # 02:30 is not there
        ("2026-03-29T12:00+02:00", "2026-03-30T02:30+02:00"),
        ("2026-10-24T12:00+02:00", "2026-10-25T02:30+02:00"),
        ("2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),  # not again at 02:30+01:00
    ],
)
def test_ticks_where_the_clock_is_put_on_or_back(after: str, tick: str) -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    assert next_tick(cron, at(after)) == at(tick)


AGAIN = "2026-10-25T02:10+01:00"
"""A time in the hour that comes twice, the second time: 02:30 has been."""


def test_no_tick_comes_before_the_time_it_is_asked_for() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    assert next_tick(cron, at(AGAIN)) == at("2026-10-26T02:30+01:00")


@pytest.mark.parametrize("missed", MissedTicks)
def test_a_cron_that_comes_in_the_hour_that_is_twice_waits_for_its_tick(
    missed: MissedTicks,
) -> None:
    world = World()
    world.now = at(AGAIN)
    effects = world.join(workflows=[flow(Cron("30 2 * * *", "Europe/Berlin", missed=missed))])
    effects += world.wait(1, "a")
    assert not [e for e in of(effects, Count) if e.name.startswith("tick")]
    [schedule] = world.stored.schedules.values()
    assert schedule.next_at == at("2026-10-26T02:30+01:00")


def test_a_tick_of_the_hour_that_is_twice_is_run_once_when_its_cron_comes_back() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin", missed=MissedTicks.CATCH_UP)
    world = World()
    world.now = at("2026-10-25T02:29+02:00")
    world.join(workflows=[flow(cron)])
    [(attempt, _)] = assigned(world.wait(60, "a"))
    world.finish(attempt)
    world.wait(2400, "a")
    world.join("b", workflows=[flow(version="2")])
    world.join("c", workflows=[flow(cron, version="3")])
    assert assigned(world.wait(1, "a", "b", "c")) == []


def test_with_a_star_in_minute_or_hour_ticks_come_in_both_hours() -> None:
    cron = Cron("*/30 2 * * *", "Europe/Berlin")
    tick = at("2026-10-25T02:00+02:00")
    again = ["2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]
    for expected in again:
        tick = next_tick(cron, tick) or 0
        assert tick == at(expected)


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "Europe/Berlin", "Africa/Casablanca"])
@pytest.mark.parametrize(
    ("expression", "minutes", "hours"),
    [
        ("*/20 0-3 * * *", range(0, 60, 20), range(4)),
        ("15 */3 * * *", [15], range(0, 24, 3)),
        ("0 50 1-2 * * *", [50], [1, 2]),
        ("* * * * *", range(60), range(24)),
    ],
)
@pytest.mark.parametrize("day", ["2025-03-30", "2025-04-06", "2025-10-05", "2025-10-26"])
def test_every_minute_that_the_clock_shows_has_its_tick_whatever_it_is_put_on_or_back_by(
    zone: str, expression: str, minutes: Any, hours: Any, day: str
) -> None:
    begin = datetime.fromisoformat(f"{day}T00:00Z") - timedelta(hours=18)
    shown, end = [], begin + timedelta(hours=36)
    for minute in range(36 * 60 + 1):
        time = begin + timedelta(minutes=minute)
        local = time.astimezone(ZoneInfo(zone))
        if local.minute in minutes and local.hour in hours:
            shown.append(time)
    cron, ticks, at = Cron(expression, zone), [], begin.timestamp() * 1000 - 1
    while (tick := next_tick(cron, round(at)) or 0) <= end.timestamp() * 1000:
        ticks.append(datetime.fromtimestamp(tick / 1000, UTC))
        at = tick
    assert ticks == shown


def test_seconds_may_be_said_first() -> None:
    cron = Cron("*/10 * * * * *")
    assert next_tick(cron, at("2026-01-01T00:00:05+00:00")) == at("2026-01-01T00:00:10+00:00")
    assert next_tick(cron, at("2026-01-01T00:00:10+00:00")) == at("2026-01-01T00:00:20+00:00")

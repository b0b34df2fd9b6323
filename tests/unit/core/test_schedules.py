"""Runs by the clock: one run a tick, whoever leads and whatever comes twice."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from ganger_broker.crons import Cron, MissedTicks, next_tick
from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.schedules import ScheduleRuns
from ganger_dispatcher.core.effects import Answer, Bury, Count
from ganger_dispatcher.core.facts import (
    MessageRefused,
    ScheduleRequested,
    SchedulesAsked,
    UnscheduleRequested,
)
from ganger_dispatcher.core.schedules import tick_run_id

from .world import World, address, assigned, of, told

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


# ── crons ─────────────────────────────────────────────────────────────────────────────


def test_each_tick_has_a_run() -> None:
    world = fleet(EVERY_MINUTE)
    [known] = world.core.state.schedules.values()
    assert world.wait(59, "a") is not None
    assert runs(world) == 0
    first = world.now + 1000
    assert len(assigned(world.wait(1, "a"))) == 1
    header = world.stored.headers[tick_run_id(known.schedule_id, first)]
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


# ── at given times ────────────────────────────────────────────────────────────────────


def test_each_time_has_a_run_and_is_gone() -> None:
    world = fleet()
    times = [world.now + 5_000, world.now + 8_000]
    effects = schedule(world, *times, input={"n": 1}, priority=3)
    assert answers(effects) == [(["once-1", "once-2"], None)]
    assert len(assigned(world.wait(4.999, "a"))) == 0
    assert len(assigned(world.wait(0.001, "a"))) == 1
    header = world.stored.headers[tick_run_id("once-1", times[0])]
    assert (header.input, header.priority, header.metadata["schedule"]) == ({"n": 1}, 3, "once-1")
    world.wait(10, "a")
    assert runs(world) == 2
    assert world.stored.schedules == {}


def test_a_time_that_has_passed_is_now() -> None:
    world = fleet()
    schedule(world, world.now - 3_600_000)
    assert len(assigned(world.wait(0.001))) == 1


def test_one_that_was_missed_runs_late() -> None:
    world = fleet()
    schedule(world, world.now + MINUTE)
    world.now += 60 * MINUTE
    world.take_over()
    world.wait(0.001)
    assert runs(world) == 1


def test_a_request_that_comes_again_is_the_same() -> None:
    world = fleet()
    tick = world.now + 1_000
    schedule(world, tick)
    schedule(world, tick)
    world.wait(2, "a")
    schedule(world, tick)  # its run goes on
    run_id = tick_run_id("once", tick)
    world.finish(f"{run_id}/s/1")
    times = [datetime.fromtimestamp(tick / 1000, UTC)]
    again = ScheduleRequested(ScheduleRuns("w", times, "once"), "once", ended=frozenset([run_id]))
    world.tell(again)
    world.wait(2, "a")
    assert runs(world) == 1


def test_another_time_for_the_same_schedule_is_what_counts() -> None:
    world = fleet()
    schedule(world, world.now + 1_000)
    schedule(world, world.now + 3_000)
    world.wait(2, "a")
    assert runs(world) == 0
    world.wait(2, "a")
    assert runs(world) == 1


def test_it_can_be_deleted_before() -> None:
    world = fleet()
    schedule(world, world.now + 1_000)
    gone = world.tell(UnscheduleRequested("once", address("q")))
    assert answers(gone) == [(["once"], None)]
    world.wait(2, "a")
    assert runs(world) == 0
    again = world.tell(UnscheduleRequested("once", address("q")))
    assert answers(again) == [([], "there is no schedule 'once'")]


def test_the_schedule_of_a_cron_is_its_workflows() -> None:
    world = fleet(EVERY_MINUTE)
    [schedule_id] = world.stored.schedules
    text = f"{schedule_id!r} belongs to workflow 'w', as on_crons says"
    refused = world.tell(UnscheduleRequested(schedule_id, address("q")))
    assert answers(refused) == [([], text)]
    taken = schedule(world, world.now, schedule_id=schedule_id)
    assert answers(taken) == [([], f"{schedule_id!r} is the schedule of a cron")]
    assert list(world.stored.schedules) == [schedule_id]


def test_the_cron_of_a_workflow_that_is_retired_can_be_deleted() -> None:
    world = fleet(EVERY_MINUTE)
    [schedule_id] = world.stored.schedules
    world.leave()
    gone = world.tell(UnscheduleRequested(schedule_id, address("q")))
    assert answers(gone) == [([schedule_id], None)]
    world.wait(120)
    assert runs(world) == 0
    world.join("b", workflows=[flow(EVERY_MINUTE)])  # it was not retired after all
    assert list(world.stored.schedules) == [schedule_id]


@pytest.mark.parametrize("key", ["schedule.w", "unschedule.once"])
def test_a_request_that_cannot_be_read_is_answered_as_it_expects(key: str) -> None:
    world = fleet()
    fact = MessageRefused(b"{", "application/json", key, "malformed", "$: no", address("q"))
    assert answers(world.tell(fact)) == [([], "$: no")]


def test_all_of_them_are_told() -> None:
    world = fleet(EVERY_MINUTE)
    schedule(world, world.now + 1_000)
    [answer] = of(world.tell(SchedulesAsked(address("q"))), Answer)
    once, cron = answer.answer.schedules
    assert (once.schedule_id, once.next_at) == ("once", world.now + 1_000)
    assert (cron.expression, cron.timezone, cron.missed) == ("* * * * *", "UTC", "skip")


def test_a_workflow_that_nobody_has_registered_is_waited_for() -> None:
    world = World()
    schedule(world, world.now + 1_000)
    world.wait(2)
    assert len(world.stored.held) == 1
    assert len(assigned(world.join())) == 1


def test_other_times_for_one_id_take_the_place_of_those_before() -> None:
    world = fleet()
    schedule(world, *(world.now + n * 1_000 for n in (1, 2, 3)))
    assert sorted(world.stored.schedules) == ["once-1", "once-2", "once-3"]
    schedule(world, world.now + 5_000)
    assert list(world.stored.schedules) == ["once"]
    world.wait(10, "a")
    assert runs(world) == 1


def test_all_that_were_asked_for_together_are_deleted_together() -> None:
    world = fleet()
    schedule(world, world.now + 1_000, world.now + 2_000)
    gone = world.tell(UnscheduleRequested("once", address("q")))
    assert answers(gone) == [(["once-1", "once-2"], None)]
    assert world.stored.schedules == {}


def test_one_program_does_not_take_anothers_schedule() -> None:
    world = fleet()
    schedule(world, world.now + 1_000, world.now + 2_000)
    schedule(world, world.now + 1_000, schedule_id="mine")
    taken = schedule(world, world.now + 9_000, schedule_id="once-1")
    assert answers(taken) == [([], "'once-1' was asked for as 'once'")]
    times = [datetime.fromtimestamp(world.now / 1000, UTC)]
    other = ScheduleRequested(ScheduleRuns("other", times, "mine"), "mine", address("q"))
    assert answers(world.tell(other)) == [([], "'mine' is a schedule of workflow 'w'")]
    assert len(world.stored.schedules) == 3


def test_an_input_that_its_workflow_does_not_take_is_refused_when_it_is_asked_for() -> None:
    world = World()
    needs = {"type": "object", "required": ["n"]}
    world.join(workflows=[replace(flow(), input_schema=needs)])
    refused = schedule(world, world.now + 1_000)
    assert answers(refused) == [([], "$.input: 'n' is a required property")]
    [letter] = of(refused, Bury)
    assert (letter.reason, letter.routing_key) == ("invalid_schedule", "schedule.w")
    assert answers(schedule(world, world.now + 1_000, input={"n": 1})) == [(["once"], None)]


def test_a_program_cannot_keep_a_cron_from_being_made() -> None:
    world = fleet(EVERY_MINUTE)
    [schedule_id] = world.stored.schedules
    world = fleet()
    schedule(world, world.now + 1_000, schedule_id=schedule_id)
    world.join("b", workflows=[flow(EVERY_MINUTE, version="2")])
    assert world.stored.schedules[schedule_id].cron == EVERY_MINUTE

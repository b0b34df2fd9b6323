"""Runs at given times: asked for, told, deleted, and asked for again."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.schedules import ScheduleRuns
from ganger_dispatcher.core.effects import Answer, Bury, Note
from ganger_dispatcher.core.facts import (
    MessageRefused,
    ScheduleRequested,
    SchedulesAsked,
    UnscheduleRequested,
)

from .clock_world import EVERY_MINUTE, MINUTE, answers, fleet, flow, runs, schedule
from .world import World, address, assigned, of

# ── at given times ────────────────────────────────────────────────────────────────────


def test_each_time_has_a_run_and_is_gone() -> None:
    world = fleet()
    times = [world.now + 5_000, world.now + 8_000]
    effects = schedule(world, *times, input={"n": 1}, priority=3)
    assert answers(effects) == [(["once-1", "once-2"], None)]
    assert len(assigned(world.wait(4.999, "a"))) == 0
    assert len(assigned(world.wait(0.001, "a"))) == 1
    [header] = world.stored.headers.values()
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


def test_a_request_that_comes_again_while_its_run_waits_for_its_workflow_is_the_same() -> None:
    world = World()
    request = ScheduleRuns("nobody-has-it", [datetime.fromtimestamp(world.now / 1000, UTC)], "once")
    fact = ScheduleRequested(request, "once", address("q"))
    world.tell(fact)
    assert [note.kind for note in of(world.wait(1), Note)] == ["tick", "held"]
    assert of(world.tell(fact), Answer) != []
    assert of(world.wait(1), Note) == []


def test_a_request_that_comes_again_is_the_same() -> None:
    world = fleet()
    tick = world.now + 1_000
    schedule(world, tick)
    schedule(world, tick)
    world.wait(2, "a")
    schedule(world, tick)  # its run goes on
    [run_id] = world.stored.headers
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


def test_asked_for_again_with_more_times_or_in_another_order_each_time_has_one_run() -> None:
    world = fleet()
    first, second, third = (world.now + n * 1_000 for n in (1, 3, 5))
    schedule(world, first)
    world.wait(2, "a")
    assert answers(schedule(world, first, second)) == [(["once-1", "once-2"], None)]
    assert list(world.stored.schedules) == ["once-2"]
    world.wait(2, "a")
    schedule(world, third, second, first)
    assert list(world.stored.schedules) == ["once-1"]
    world.wait(10, "a")
    ticks = {header.metadata["scheduled_for"] for header in world.stored.headers.values()}
    assert len(ticks) == 3
    assert runs(world) == 3


def test_a_time_that_is_named_twice_has_two_runs_and_no_more() -> None:
    world = fleet()
    at = world.now + 1_000
    schedule(world, at, at)
    world.wait(2, "a")
    assert runs(world) == 2
    assert answers(schedule(world, at, at + 500, at)) == [(["once-1", "once-2", "once-3"], None)]
    world.wait(2, "a")
    assert runs(world) == 3


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


def two_flows() -> World:
    world = World()
    other = WorkflowDefinition("other", [StepDefinition("s")])
    world.join(workflows=[flow(), other], slots=9)
    return world


def schedule_other(world: World, *times: int) -> list[tuple[list[str], str | None]]:
    at = [datetime.fromtimestamp(time / 1000, UTC) for time in times]
    return answers(
        world.tell(ScheduleRequested(ScheduleRuns("other", at, "once"), "once", address("q")))
    )


@pytest.mark.parametrize("its", [1, 2])
@pytest.mark.parametrize("others", [1, 2])
def test_an_id_is_one_workflows_however_many_times_are_asked_for(its: int, others: int) -> None:
    world = two_flows()
    times = [world.now + 1_000, world.now + 2_000]
    schedule(world, *times[:its])
    before = dict(world.stored.schedules)
    refused = schedule_other(world, *times[:others])
    assert refused == [([], "'once' is a schedule of workflow 'w'")]
    assert world.stored.schedules == before
    world.wait(3, "a")
    assert runs(world) == its


def test_an_id_whose_runs_another_workflow_has_had_swallows_none() -> None:
    world = two_flows()
    tick = world.now + 1_000
    schedule(world, tick)
    world.wait(2, "a")
    for _ in range(2):  # what is asked for again is the same still
        assert schedule_other(world, tick) == [(["once"], None)]
        world.wait(1, "a")
    schedule(world, tick)
    world.wait(1, "a")
    ran = [header.workflow for header in world.stored.headers.values()]
    assert ran == ["w", "other"]


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

"""Which worker gets a step, and when a pending step gets one."""

from typing import Any

import pytest

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import RunStatus
from ganger_broker.to_worker import Assignment
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.effects import (
    AddPending,
    Assign,
    Count,
    DropPending,
    EndRun,
    Note,
    ReleaseAttempt,
    Reply,
    StoreLoad,
    StoreRun,
    StoreStep,
    TakeAttempt,
)
from ganger_dispatcher.core.records import RunHeader, StepRun
from ganger_dispatcher.core.states import StepStatus

from .world import START, World, address, assigned, of, one_step, replies

MODEL = {"model": {"value": "x", "weight": 10}, "memory": {"value": 256, "weight": 5}}


# ── whole effect lists ────────────────────────────────────────────────────────────────


def test_all_that_a_trigger_wants_done() -> None:
    world = World()
    world.join("a")
    header = RunHeader(
        workflow="w",
        version="",
        definition=digest(one_step()),
        status=RunStatus.RUNNING,
        input={"n": 1},
        metadata={"by": "me"},
        priority=2,
        desired_worker_labels={},
        created_at=START,
        reply=(address("q"),),
    )
    step = StepRun(
        StepStatus.ASSIGNED,
        worker="a",
        pending_since=START,
        deadline=START + 300_000,
        assigned_at=START,
    )
    placed = {
        "attempt": "r/s/1",
        "worker": "a",
        "highest_weight": 0,
        "total_weight": 0,
        "waited_ms": 0,
    }
    effects = world.trigger(reply="q", input={"n": 1}, metadata={"by": "me"}, priority=2)
    assert effects == [
        StoreRun("r", header),
        Count("runs_created"),
        StoreStep("r", "s", step),
        TakeAttempt("a", "r/s/1"),
        StoreLoad("a", 1, "ready", START),
        Note("placed", placed),
        Assign(
            "a",
            Assignment(
                attempt="r/s/1",
                incarnation="1",
                run_id="r",
                workflow="w",
                step="s",
                input={"n": 1},
                metadata={"by": "me"},
                priority=2,
            ),
        ),
    ]


def test_all_that_a_pending_step_wants_done() -> None:
    world = World()
    world.join("a", slots=1)
    world.trigger("r1")
    effects = world.trigger("r2")
    step = StepRun(StepStatus.PENDING, pending_since=START, deadline=START + 300_000)
    assert effects[2:] == [
        StoreStep("r2", "s", step),
        AddPending("r2/s", START + 300_000),
        Note("pending", {"step_run": "r2/s"}),
    ]


def test_all_that_a_finish_wants_done() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    world.start("r/s/1")
    begun = world.stored.headers["r"], world.step()
    world.now += 7
    effects = world.finish("r/s/1", output={"sum": 3})
    header, step = world.stored.headers["r"], world.step()
    assert (begun[0].status, begun[1].status) == (RunStatus.RUNNING, StepStatus.RUNNING)
    assert (header.status, header.output) == (RunStatus.SUCCEEDED, {"s": {"sum": 3}})
    assert header.finished_at == step.finished_at == START + 7
    assert effects[1:] == [
        ReleaseAttempt("a", "r/s/1"),
        StoreLoad("a", 0, "ready", START),
        Note("released", {"attempt": "r/s/1", "worker": "a"}),
        StoreStep("r", "s", step),
        Count("steps_succeeded"),
        Note("succeeded", {"step_run": "r/s", "worker": "a"}),
        EndRun("r", header),
        Count("runs_succeeded"),
        of(effects, Reply)[0],
    ]
    assert replies(effects) == [("q", "succeeded", None)]


# ── the best worker ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fleet", "best"),
    [
        ({"a": {"model": "y"}, "b": {"model": "x"}}, "b"),
        ({"a": {"memory": 256}, "b": {"model": "x"}}, "b"),
        ({"a": {"model": "x"}, "b": {"model": "x", "memory": 256}}, "b"),
        ({"a": {}, "b": {}}, "a"),
    ],
    ids=["met", "highest weight", "sum of weights", "longest not given a step"],
)
def test_the_best_worker_gets_the_step(fleet: dict[str, dict[str, Any]], best: str) -> None:
    world = World()
    flow = one_step(desired_worker_labels=MODEL)
    for worker, labels in fleet.items():
        world.join(worker, labels, workflows=[flow])
    assert assigned(world.trigger()) == [("r/s/1", best)]


def test_load_ranks_before_idleness() -> None:
    world = World()
    world.join("big", slots=4)
    world.join("small", slots=2)
    placed = [assigned(world.trigger(f"r{n}"))[0][1] for n in range(6)]
    assert placed == ["big", "small", "big", "small", "big", "big"]


def test_the_trigger_s_desired_labels_replace_the_step_s_by_key() -> None:
    world = World()
    flow = one_step(desired_worker_labels={"region": "fra", "memory": 512})
    world.join("fra", {"region": "fra", "memory": 512}, workflows=[flow])
    world.join("gru", {"region": "gru", "memory": 512}, workflows=[flow])
    world.join("tiny", {"region": "gru", "memory": 1}, workflows=[flow])
    over = {"region": "gru"}
    assert assigned(world.trigger(desired_worker_labels=over)) == [("r/s/1", "gru")]
    assert world.step().desired_worker_labels == {"region": "gru", "memory": 512}


def test_a_worker_that_has_not_registered_the_action_gets_nothing() -> None:
    world = World()
    world.join("other", workflows=[one_step("other")])
    world.join("a", slots=1)
    world.trigger("r1")
    assert assigned(world.trigger("r2")) == []
    assert world.step("r2").status == "pending"


# ── pending, and what ends it ─────────────────────────────────────────────────────────

BIG = one_step(desired_worker_labels={"memory": {"value": 256, "comparator": "GREATER_THAN"}})


def waiting_world() -> World:
    """A step that wants memory is pending, and one worker has too little of it."""
    world = World()
    world.join("a", {"memory": 1}, workflows=[BIG])
    world.trigger()
    assert world.stored.pending == {"r/s": START + 300_000}
    return world


def test_a_label_change_releases_a_pending_step() -> None:
    world = waiting_world()
    world.now += 5
    effects = world.label(1, {"memory": 512})
    assert assigned(effects) == [("r/s/1", "a")]
    assert of(effects, DropPending) == [DropPending("r/s")]
    assert of(effects, Note)[-1].fields["waited_ms"] == 5
    assert world.stored.pending == {}


def test_a_deleted_label_releases_a_pending_step() -> None:
    world = World()
    flow = one_step(desired_worker_labels={"busy": {"comparator": "NOT_EXISTS"}})
    world.join("a", {"busy": 1}, workflows=[flow])
    world.trigger()
    assert assigned(world.label(1, {}, "busy")) == [("r/s/1", "a")]


def test_a_label_set_and_deleted_in_one_change_is_set() -> None:
    world = waiting_world()
    assert assigned(world.label(1, {"memory": 512}, "memory")) == [("r/s/1", "a")]
    assert world.stored.workers["a"]["labels"] == {"memory": 512}


def test_a_worker_that_joins_releases_a_pending_step() -> None:
    world = waiting_world()
    assert assigned(world.join("b", {"memory": 512}, workflows=[BIG])) == [("r/s/1", "b")]


def test_a_freed_slot_releases_a_pending_step() -> None:
    world = World()
    world.join("a", slots=1)
    world.trigger("r1")
    world.trigger("r2")
    assert assigned(world.finish("r1/s/1")) == [("r2/s/1", "a")]


def test_a_worker_that_takes_steps_again_releases_a_pending_step() -> None:
    world = World()
    world.join("a")
    world.drain()
    assert assigned(world.trigger()) == []
    assert assigned(world.join("a")) == [("r/s/1", "a")]


def test_a_draining_worker_keeps_what_it_has_and_gets_no_more() -> None:
    world = World()
    world.join("a", slots=2)
    world.trigger("r1")
    world.drain()
    assert assigned(world.trigger("r2")) == []
    world.finish("r1/s/1")
    assert (world.status("r1"), world.step("r2").status) == ("succeeded", "pending")


def test_a_change_that_does_not_help_releases_nothing() -> None:
    world = waiting_world()
    assert assigned(world.label(1, {"memory": "512"})) == []
    assert assigned(world.label(2, {"other": 512})) == []


def test_low_priority_is_not_starved_by_a_stream_of_high() -> None:
    world = World()
    world.join()
    world.trigger("first")
    world.trigger("low", priority=1)
    done = ["first"]
    for number in range(20):
        world.wait(10, "a")
        world.trigger(f"high-{number}", priority=3)
        [attempt] = world.held_by()
        world.finish(attempt)
        [next_one] = world.held_by()
        done.append(next_one.partition("/")[0])
    # two priorities are worth two minutes, and high ones come every ten seconds
    assert done.index("low") == 12
    assert done[1:12] == [f"high-{number}" for number in range(11)]


def test_priority_goes_before_age_and_age_before_nothing() -> None:
    world = World()
    world.join("a")
    world.trigger("now")
    for run_id, priority in [("old", 1), ("young", 1), ("urgent", 3), ("soon", 2)]:
        world.now += 1
        world.trigger(run_id, priority=priority)
    order = []
    attempt = "now/s/1"
    for _ in range(4):
        [(attempt, _)] = assigned(world.finish(attempt))
        order.append(attempt)
    assert order == ["urgent/s/1", "soon/s/1", "old/s/1", "young/s/1"]


def test_steps_that_nobody_can_take_do_not_hold_up_others() -> None:
    world = World()
    world.join("a", workflows=[one_step(), one_step("gpu", desired_worker_labels={"gpu": 1})])
    world.trigger("stuck", "gpu", priority=3)
    assert assigned(world.trigger("free")) == [("free/s/1", "a")]


def test_a_step_is_cancelled_when_its_schedule_time_is_over_and_its_run_with_it() -> None:
    world = World()
    world.join("a", workflows=[one_step(schedule_timeout=30)])
    world.trigger("r1")
    world.start("r1/s/1")
    world.trigger(reply="q")
    assert replies(world.wait(29.9, "a")) == []
    effects = world.wait(0.2, "a")
    assert replies(effects) == [("q", "cancelled", "SCHEDULING_TIMED_OUT")]
    assert of(effects, DropPending) == [DropPending("r/s")]
    assert (world.status("r1"), world.status("r")) == ("running", "cancelled")
    assert world.stored.pending == {}


def test_the_schedule_time_runs_anew_for_each_attempt() -> None:
    world = World()
    flow = one_step(schedule_timeout=30, desired_worker_labels={"gpu": 1})
    world.join("a", {"gpu": 1}, workflows=[flow])
    world.join("b", workflows=[flow])
    world.trigger(reply="q")
    world.wait(20, "a", "b")
    world.leave("a")
    assert world.step().deadline == world.now + 30_000
    assert replies(world.wait(29, "b")) == []
    assert replies(world.wait(2, "b")) == [("q", "cancelled", "SCHEDULING_TIMED_OUT")]


def test_the_steps_that_run_beside_it_are_cancelled_too() -> None:
    world = World()
    steps = [
        StepDefinition("here"),
        StepDefinition("nowhere", schedule_timeout=5, desired_worker_labels={"gpu": 1}),
    ]
    world.join("a", workflows=[WorkflowDefinition("w", steps)])
    world.trigger(reply="q")
    world.start("r/here/1")
    effects = world.wait(6, "a")
    assert replies(effects) == [("q", "cancelled", "SCHEDULING_TIMED_OUT")]
    assert world.step(step="here").status == world.step(step="nowhere").status == "cancelled"
    assert world.held_by("a") == ["r/here/1"]  # until the worker says that it has stopped


def test_priority_and_age_count_among_those_that_a_worker_may_take_when_one_is_lost() -> None:
    world = World()
    flow = one_step(desired_worker_labels={"gpu": 1}, schedule_timeout=3600)
    world.join("cold", {"gpu": 0}, workflows=[flow], slots=9)
    world.join("lost", {"gpu": 1}, workflows=[flow], slots=2)
    world.trigger("low", priority=1)
    world.trigger("high", priority=3)
    world.trigger("waits", priority=1)
    assert world.held_by("lost") == ["low/s/1", "high/s/1"]
    assert assigned(world.wait(130, "cold", "lost")) == []
    world.trigger("late", priority=3)  # `waits` has been pending for longer than its priority says
    assert assigned(world.wait(15, "cold")) == []  # lost; what it had is pending anew
    effects = world.join("next", {"gpu": 1}, workflows=[flow], slots=1)
    order = [attempt for attempt, _ in assigned(effects)]
    while held := world.held_by("next"):
        order += [attempt for attempt, _ in assigned(world.finish(held[0], "next"))]
    assert order == ["waits/s/1", "late/s/1", "high/s/2", "low/s/2"]
    assert world.held_by("cold") == []

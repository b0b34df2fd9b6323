"""What pools have to do, and how many replicas that wants, as it is stored."""

from typing import Any

from ganger_broker.definitions import RateLimit, StepDefinition, StickyStrategy, WorkflowDefinition
from ganger_broker.deployments import PoolLoad
from ganger_broker.messages import WorkerPaused, WorkerResumed
from ganger_broker.pool_labels import POOL
from ganger_dispatcher.core.effects import DropPool, StorePool
from ganger_dispatcher.core.scaling import Scaling
from ganger_dispatcher.core.state import Policy

from .world import World, of, one_step

FLOW = one_step(pool="p", schedule_timeout=200_000)
POLICY = Policy(scaling=Scaling(window=10_000))


def world(*workers: str, slots: int = 2, flow: WorkflowDefinition = FLOW) -> World:
    """These workers, all in ``p``."""
    made = World(POLICY)
    for name in workers:
        made.join(name, {POOL: "p"}, workflows=[flow], slots=slots)
    return made


def seen(made: World, pool: str = "p") -> tuple[int, int, int, int, int]:
    """Workers, slots, used, pending, wanted; as stored."""
    load = made.stored.pools[pool]
    return (load.workers, load.slots, load.used, load.pending, load.wanted)


def test_workers_slots_and_steps_are_counted_a_pool() -> None:
    made = world("a", "b")
    made.join("c", {POOL: "q"}, workflows=[FLOW])
    made.join("d", workflows=[FLOW])
    for run in "tuvwxyz":
        made.trigger(run)
    made.wait(1, "a", "b", "c", "d")
    assert seen(made) == (2, 4, 4, 3, 5)
    assert seen(made, "q") == (1, 1, 0, 0, 1)
    assert made.stored.pools.keys() == {"p", "q"}
    assert made.stored.pools["p"] == PoolLoad(2, 4, 4, 3, 5, made.now, 2.0)


def test_nothing_is_said_while_nothing_changes_and_a_fleet_without_pools_is_not_looked_at() -> None:
    made = world("a")
    assert len(of(made.wait(9, "a"), StorePool)) == 1
    without = World(POLICY)
    without.join("a")
    without.trigger("x")
    without.trigger("y")
    assert of(without.wait(9, "a"), StorePool) == []
    assert not without.core.state.pools_watched


def test_a_pool_of_which_nobody_is_there_wants_replicas_by_the_slots_they_had() -> None:
    made = World(POLICY)
    made.join("d", workflows=[FLOW])
    for run in "xyz":
        made.trigger(run)
    made.wait(1, "d")
    assert seen(made) == (0, 0, 0, 3, 4)  # who knows how many slots they will have
    made.join("a", {POOL: "p"}, workflows=[FLOW], slots=4)
    made.wait(1, "a", "d")
    for run in "xyz":
        made.finish(f"{run}/s/1")
    made.leave("a")
    made.wait(25, "d")
    assert seen(made) == (0, 0, 0, 0, 0)
    for run in "stuvw":
        made.trigger(run)
    made.wait(1, "d")
    assert seen(made) == (0, 0, 0, 5, 2)
    assert made.stored.pools["p"].slots_each == 4


def test_it_goes_down_when_it_was_quiet_for_a_window() -> None:
    made = world("a", "b", "c")
    for run in "wxyz":
        made.trigger(run)
    made.wait(2, "a", "b", "c")
    for attempt, worker in [(a, w) for w in "abc" for a in made.held_by(w)][:3]:
        made.finish(attempt, worker)
    made.wait(9, "a", "b", "c")
    assert seen(made) == (3, 6, 1, 0, 3)
    made.wait(5, "a", "b", "c")
    assert seen(made) == (3, 6, 1, 0, 1)


def test_steps_that_come_and_go_between_two_looks_keep_one() -> None:
    made = world("a")
    for n in range(40):
        made.trigger(f"r{n}")
        made.finish(f"r{n}/s/1")
        made.wait(1, "a")
        assert seen(made) == (1, 2, 0, 0, 1)
    made.wait(12, "a")
    assert seen(made) == (1, 2, 0, 0, 0)


def test_workers_that_take_no_steps_are_no_capacity_and_what_they_still_do_is_no_demand() -> None:
    made = world("a", "b")
    made.trigger("x")
    made.trigger("y")
    made.drain("a")
    made.wait(1, "a", "b")
    assert seen(made) == (1, 2, 1, 0, 1)
    made.drain("b")
    made.wait(1, "a", "b")
    assert seen(made)[:4] == (0, 0, 0, 0)


def test_a_pool_that_starts_is_not_told_to_shrink() -> None:
    made = world("a")
    made.wait(1, "a")
    for name in "bcde":
        made.join(name, {POOL: "p"}, workflows=[FLOW], slots=2)
        made.wait(2, *made.core.state.workers)
    assert seen(made) == (5, 10, 0, 0, 5)
    made.wait(12, *"abcde")
    assert seen(made) == (5, 10, 0, 0, 0)


def test_workers_that_are_resumed_while_another_is_away_do_not_come_unasked() -> None:
    made = world("a", "b", "c")
    made.wait(13, "a", "b", "c")
    made.trigger("x")
    made.wait(1, "a", "b", "c")
    assert seen(made) == (3, 6, 1, 0, 1)
    for name in "bc":
        made.tell(WorkerPaused(name, made.incarnations[name]))
    made.wait(1, "a", "b", "c")
    assert seen(made) == (1, 2, 1, 0, 1)
    made.leave("a")
    for name in "bc":
        made.tell(WorkerResumed(name, made.incarnations[name]))
    made.wait(1, "b", "c")
    assert seen(made) == (2, 4, 1, 0, 1)
    made.join("a", {POOL: "p"}, workflows=[FLOW], slots=2)
    made.wait(1, "a", "b", "c")
    assert seen(made) == (3, 6, 1, 0, 1)


def test_workers_that_are_resumed_as_they_are_needed_count_as_others() -> None:
    made = world("a", "b", slots=1)
    made.wait(13, "a", "b")
    made.tell(WorkerPaused("b", "1"))
    made.wait(1, "a", "b")
    for run in "xyz":
        made.trigger(run)
    made.tell(WorkerResumed("b", "1"))
    made.wait(1, "a", "b")
    assert seen(made) == (2, 2, 2, 1, 4)
    for name in "cdef":  # by hand
        made.join(name, {POOL: "p"}, workflows=[FLOW], slots=1)
    made.wait(1, *"abcdef")
    assert seen(made)[::4] == (6, 6)


def test_steps_that_no_other_worker_would_help_are_no_demand() -> None:
    limited = one_step(pool="p", rate_limits={"k": 1}, schedule_timeout=1000)
    made = World(POLICY)
    limits = [RateLimit("k", 1, 100)]
    made.join("a", {POOL: "p"}, workflows=[limited], slots=4, rate_limits=limits)
    for run in "xyz":
        made.trigger(run)
    made.wait(1, "a")
    assert seen(made)[2:4] == (1, 0)

    steps = [StepDefinition("s", pool="p"), StepDefinition("t", parents=["s"], pool="p")]
    pinned = WorkflowDefinition("w", steps, sticky=StickyStrategy.HARD)
    made = world("a", slots=1, flow=pinned)
    made.trigger("x")
    made.trigger("y")
    made.finish("x/s/1")  # y goes first; x/t waits for this very worker
    made.wait(1, "a")
    assert (made.step("x", "t").status, seen(made)[2:4]) == ("pending", (1, 0))


def test_what_waits_for_its_children_needs_no_slot() -> None:
    made = world("a")
    made.trigger()
    made.start("r/s/1")
    made.waits("r/s/1", 1)
    made.wait(1, "a")
    assert seen(made)[:4] == (1, 2, 0, 0)


def test_labels_move_a_worker_from_pool_to_pool() -> None:
    made = World(POLICY)
    made.join("a", workflows=[FLOW])
    made.label(1, {POOL: "p"})
    made.wait(1, "a")
    assert seen(made)[0] == 1
    made.label(2, {POOL: "q"})
    made.wait(1, "a")
    assert (seen(made)[0], seen(made, "q")[0]) == (0, 1)
    made.label(3, {POOL: 7})
    made.wait(1, "a")
    assert made.stored.pools.keys() == {"p", "q"}


def test_a_take_over_keeps_what_is_wanted_and_begins_the_window_anew() -> None:
    made = world("a", slots=4)
    for n in range(12):
        made.trigger(f"r{n}")
    made.wait(1, "a")
    assert seen(made)[4] == 4
    for n in range(12):
        made.finish(f"r{n}/s/1")
    made.leave("a")
    made.wait(8)
    made.take_over()
    made.wait(9)
    assert seen(made) == (0, 0, 0, 0, 4)
    assert made.stored.pools["p"].slots_each == 4
    made.wait(4)
    assert seen(made) == (0, 0, 0, 0, 0)


def test_a_pool_that_is_no_more_is_forgotten_after_a_day() -> None:
    made = world("a")
    made.wait(1, "a")
    made.leave("a")
    made.wait(20)
    assert seen(made) == (0, 0, 0, 0, 0)
    day: list[Any] = []
    for _ in range(25):
        made.now += 3_600_000
        day += made.wait(1)
    assert of(day, DropPool) == [DropPool("p")]
    assert made.stored.pools == {}
    assert made.core.wake_at is None

"""One version of a workflow is one definition, whoever registers it."""

from collections.abc import Callable
from typing import Any

import pytest

from ganger_broker.crons import Cron
from ganger_broker.definitions import RateLimit, StepDefinition, WorkflowDefinition
from ganger_broker.to_worker import Refused
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.effects import StoreWorker, StoreWorkflow

from .world import World, assigned, of, one_step, told

OLD = one_step(retries=1)
OTHER = one_step(retries=2)
NEW = one_step(version="2", retries=2)


def refusals(effects: list) -> list[tuple[str, str]]:  # type: ignore[type-arg]
    return [
        (worker, message.reason)
        for worker, message in told(effects)
        if isinstance(message, Refused) and message.for_good
    ]


def test_two_definitions_under_one_name_and_version_are_refused() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    effects = world.join("b", workflows=[OTHER])
    [(worker, reason)] = refusals(effects)
    assert worker == "b"
    assert "workflow 'w', version '': worker a has registered a different definition" in reason
    assert "version=" in reason
    assert of(effects, StoreWorker) == of(effects, StoreWorkflow) == []
    assert set(world.core.state.workers) == {"a"}
    assert assigned(world.trigger()) == [("r/s/1", "a")]


def test_the_same_definition_is_welcome() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    assert refusals(world.join("b", workflows=[one_step(retries=1)])) == []


def test_another_version_may_be_different_while_workers_roll() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    world.trigger("before")
    assert refusals(world.join("b", workflows=[NEW])) == []
    assert world.stored.headers["before"].version == ""
    world.trigger("after")
    assert world.stored.headers["after"].version == "2"


def test_workers_that_drain_make_way() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    world.drain("a")
    assert refusals(world.join("b", workflows=[OTHER])) == []
    assert [worker for worker, _ in refusals(world.join("c", workflows=[OLD]))] == ["c"]


def test_workers_that_left_or_were_lost_make_way() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    world.leave("a")
    assert refusals(world.join("b", workflows=[OTHER])) == []
    world.wait(11)
    assert refusals(world.join("c", workflows=[OLD])) == []


def test_a_worker_that_comes_anew_is_not_in_its_own_way() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    assert refusals(world.join("a", workflows=[OTHER], incarnation="2")) == []
    assert refusals(world.join("b", workflows=[OLD])) != []


def test_the_same_process_registers_again_with_what_it_has_now() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    world.join("a", workflows=[OLD])
    world.leave("a")
    assert refusals(world.join("b", workflows=[OTHER])) == []


def test_the_next_leader_knows_who_has_what() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    world.take_over()
    assert refusals(world.join("b", workflows=[OTHER])) != []
    world.leave("a")
    assert refusals(world.join("b", workflows=[OTHER])) == []


def test_one_conflict_refuses_the_worker_with_all_its_workflows() -> None:
    world = World()
    world.join("a", workflows=[OLD])
    world.join("b", workflows=[one_step("fine"), OTHER])
    assert "b" not in world.core.state.workers
    assert "fine" not in world.core.state.workflows


def test_who_only_registers_again_is_not_newer_for_it() -> None:
    """After an outage workers register in any order."""
    old = one_step(version="1", rate_limits={"api": 1})
    new = one_step(version="2", rate_limits={"api": 1})
    few, many = RateLimit("api", 1, 60), RateLimit("api", 9, 60)
    world = World()
    world.join("old", workflows=[old], rate_limits=[few])
    world.join("new", workflows=[new], rate_limits=[many])
    world.join("old", workflows=[old], rate_limits=[few], again=True)
    world.wait(60)  # nobody is heard: both are lost
    world.join("new", workflows=[new], rate_limits=[many], again=True)
    world.join("old", workflows=[old], rate_limits=[few], again=True)
    state = world.core.state
    assert state.workflows["w"].definition == new
    assert state.rates["api"].limit == many
    world.take_over()
    world.join("old", workflows=[old], rate_limits=[few], again=True)
    assert world.core.state.workflows["w"].definition == new


def test_what_was_not_heard_the_first_time_is_news_the_second() -> None:
    world = World()
    world.join("old", workflows=[one_step(version="1")])
    world.join("new", workflows=[one_step(version="2")], again=True)
    assert world.core.state.workflows["w"].definition.version == "2"


def newest(world: World) -> str:
    return world.core.state.workflows["w"].definition.version


def test_an_old_replica_that_starts_again_while_workers_roll_is_not_the_newest() -> None:
    world = World()
    for worker, version in [("a", "1"), ("b", "2"), ("c", "1")]:
        world.join(worker, workflows=[one_step(version=version)])
    assert newest(world) == "2"


def roll(*versions: tuple[str, str]) -> World:
    """Workers with their versions, in the order in which they come."""
    world = World()
    for worker, version in versions:
        world.join(worker, workflows=[one_step(version=version)])
    return world


def lose(world: World, *lost: str) -> None:
    """These are silent for too long."""
    world.wait(11, *(set(world.core.state.workers) - {*lost}))


def kill(world: World, worker: str) -> None:
    world.kill(worker)


def leave(world: World, worker: str) -> None:
    world.leave(worker)


def drain(world: World, worker: str) -> None:
    world.drain(worker)


END = pytest.mark.parametrize("end", [leave, drain, kill, lose])
Ending = Callable[[World, str], None]


@END
@pytest.mark.parametrize("taken_over", [False, True])
def test_an_old_version_is_the_newest_again_when_the_last_worker_of_the_newer_one_goes(
    end: Ending, taken_over: bool
) -> None:
    world = roll(("a", "1"), ("b", "2"), ("b2", "2"), ("c", "1"))
    end(world, "b")
    assert newest(world) == "2"
    end(world, "b2")
    if taken_over:
        world.take_over()
    assert newest(world) == "1"
    assert world.stored.workflows["w"].version == "1"


@END
def test_of_several_older_ones_it_is_the_one_that_came_last(end: Ending) -> None:
    world = roll(("a", "1"), ("b", "2"), ("c", "3"))
    world.join("a2", workflows=[one_step(version="1")])
    end(world, "c")
    assert newest(world) == "2"
    end(world, "b")
    assert newest(world) == "1"


@END
@pytest.mark.parametrize("taken_over", [False, True])
def test_the_newer_version_is_the_newest_when_a_worker_has_it_again(
    end: Ending, taken_over: bool
) -> None:
    world = roll(("a", "1"), ("b", "2"))
    end(world, "b")
    if taken_over:
        world.take_over()
    again = end is lose  # the same process, that was out of reach
    world.join("b", workflows=[one_step(version="2")], again=again, incarnation=str(2 - again))
    assert newest(world) == "2"
    world.join("a", workflows=[one_step(version="1")], again=True)
    assert newest(world) == "2"


def test_it_is_one_that_somebody_has_where_all_were_lost_and_only_old_ones_are_back() -> None:
    world = roll(("a", "1"), ("b", "2"))
    lose(world, "a", "b")
    world.join("a", workflows=[one_step(version="1")], again=True)
    assert newest(world) == "1"


def test_a_lost_version_that_is_back_does_not_displace_one_that_came_since() -> None:
    world = roll(("a", "1"), ("b", "2"))
    lose(world, "b")
    world.join("c", workflows=[one_step(version="3")])
    world.join("b", workflows=[one_step(version="2")], again=True)
    assert newest(world) == "3"


def test_what_waits_follows_a_step_back_to_the_pool_that_steps_have_then() -> None:
    world = World()
    world.join("old", {"ganger.pool": "p"}, workflows=[one_step(version="1", pool="p")])
    world.join("new", {"ganger.pool": "q"}, workflows=[one_step(version="2", pool="q")])
    assert assigned(world.trigger("first")) == [("first/s/1", "new")]
    assert assigned(world.trigger("second")) == []
    assert [worker for _, worker in assigned(world.kill("new"))] == ["old"]


def test_an_old_version_is_the_newest_where_nobody_has_a_newer_one() -> None:
    world = World()
    world.join("a", workflows=[one_step(version="1")])
    world.join("b", workflows=[one_step(version="2")])
    world.leave("a")
    world.leave("b")
    world.join("a", workflows=[one_step(version="1")], incarnation="2")
    assert newest(world) == "1"


# ── runs keep to their version ────────────────────────────────────────────────────────

GPU = {"gpu": "yes"}


def two_steps(version: str, **fields: Any) -> WorkflowDefinition:
    """``a`` → ``b``, which needs a GPU."""
    steps = [
        StepDefinition("a"),
        StepDefinition("b", parents=["a"], desired_worker_labels=GPU, **fields),
    ]
    return WorkflowDefinition("w", steps, version)


V1, V2 = two_steps("1"), two_steps("2", retries=1)


def rolling() -> World:
    """``old`` has version 1, and a run that began there; ``new`` has come with version 2."""
    world = World()
    world.join("old", GPU, workflows=[V1])
    assert assigned(world.trigger()) == [("r/a/1", "old")]
    world.join("new", GPU, workflows=[V2], slots=3)
    return world


def test_a_run_stays_with_workers_of_its_version_as_long_as_one_could_take_its_step() -> None:
    world = rolling()
    assert assigned(world.trigger("after")) == [("after/a/1", "new")]
    assert assigned(world.finish("r/a/1", "old")) == [("r/b/1", "old")]
    assert assigned(world.finish("after/a/1", "new")) == [("after/b/1", "new")]


def test_it_waits_for_them_while_they_are_busy() -> None:
    world = World()
    world.join("old", GPU, workflows=[V1, one_step("other")])
    world.trigger()
    world.join("new", GPU, workflows=[V2], slots=3)
    world.trigger("busy", "other")
    assert assigned(world.finish("r/a/1", "old")) == [("busy/s/1", "old")]
    assert world.step("r", "b").status == "pending"
    assert assigned(world.finish("busy/s/1", "old")) == [("r/b/1", "old")]


def test_what_was_pending_when_the_first_of_a_new_version_came_is_not_given_to_it() -> None:
    world = World()
    world.join("old", GPU, workflows=[V1])
    world.trigger("first")
    world.trigger("second")
    assert assigned(world.join("new", GPU, workflows=[V2], slots=3)) == []
    world.take_over()
    assert assigned(world.join("new2", GPU, workflows=[V2], slots=3)) == []
    assert assigned(world.finish("first/a/1", "old")) == [("second/a/1", "old")]


@pytest.mark.parametrize("lost", [False, True])
def test_without_anybody_of_its_version_it_goes_on_with_those_there_are(lost: bool) -> None:
    world = rolling()
    world.join("lacks", workflows=[V1], slots=3)  # the label that the step requires
    world.finish("r/a/1", "old")
    effects = world.wait(11, "new", "lacks") if lost else world.leave("old")
    assert assigned(effects) == [("r/b/2", "new")]


def test_a_step_that_waits_for_its_version_goes_on_when_nobody_of_it_meets_its_labels() -> None:
    world = World()
    world.join("old", GPU, workflows=[V1, one_step("other")])
    world.trigger()
    world.join("new", GPU, workflows=[V2], slots=3)
    world.trigger("busy", "other")
    world.finish("r/a/1", "old")
    assert assigned(world.label(1, {}, "gpu", worker="old")) == [("r/b/1", "new")]


def test_a_step_that_waits_for_its_version_goes_on_when_the_last_of_it_drains() -> None:
    world = World()
    world.join("old", GPU, workflows=[V1])
    world.trigger("first")
    world.trigger("second")
    world.join("new", GPU, workflows=[V2], slots=3)
    assert assigned(world.drain("old")) == [("second/a/1", "new")]


# ── what has no order ─────────────────────────────────────────────────────────────────


def ordered(turn: int, memory: float, **options: Any) -> WorkflowDefinition:
    """One definition, written in the one order or the other."""

    def turned(*given: Any) -> list[Any]:
        return list(given[::turn])

    wish = {"value": memory, "comparator": "LESS_THAN", "required": True}
    many = {"value": turned("a", "b"), "comparator": "IN", "required": True}
    last = StepDefinition(
        "last",
        parents=turned("a", "b", "c"),
        desired_worker_labels=dict(turned(("memory", turned(wish, many)), ("gpu", many))),
        sets_labels=dict(turned(("model", "m"), ("memory", memory))),
        rate_limits=dict(turned(("x", 1), ("y", 1))),
    )
    return WorkflowDefinition(
        "w",
        [StepDefinition("a"), StepDefinition("b"), StepDefinition("c"), last],
        on_events=turned("one:*", "two:*"),
        on_crons=turned(Cron("0 0 * * *"), Cron("0 1 * * *")),
        on_failure=StepDefinition("oops", desired_worker_labels=dict(turned(("a", 1), ("b", 2)))),
        **options,
    )


LIMITS = [RateLimit("x", 1, 60), RateLimit("y", 1, 60)]


def test_what_has_no_order_may_be_written_in_any() -> None:
    world = World()
    world.join("a", workflows=[ordered(1, 512)], rate_limits=LIMITS)
    effects = world.join("b", workflows=[ordered(-1, 512.0)], rate_limits=LIMITS)
    assert refusals(effects) == []
    assert of(effects, StoreWorkflow) == []
    effects = world.join("c", workflows=[ordered(1, 513)], rate_limits=LIMITS)
    assert [worker for worker, _ in refusals(effects)] == ["c"]


def test_lists_of_schemas_and_inputs_have_an_order() -> None:
    schemas = [{"enum": each} for each in ([1, 2], [2, 1])]
    crons = [[Cron("0 0 * * *", input={"n": each})] for each in ([1, 2], [2, 1], 1, 1.0)]
    flows = [
        *(ordered(1, 1, input_schema=schema) for schema in schemas),
        *(WorkflowDefinition("w", [StepDefinition("s")], on_crons=each) for each in crons),
    ]
    assert len({digest(flow) for flow in flows}) == len(flows)

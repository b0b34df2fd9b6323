"""One version of a workflow is one definition, whoever registers it."""

from ganger_broker.messages import Refused
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

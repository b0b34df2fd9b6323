"""One version of a workflow is one definition, whoever registers it."""

from ganger_broker.definitions import RateLimit
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


def test_an_old_version_that_is_deployed_again_is_the_newest() -> None:
    world = World()
    for worker, version in [("a", "1"), ("b", "2"), ("c", "1")]:
        world.join(worker, workflows=[one_step(version=version)])
    assert world.core.state.workflows["w"].definition.version == "1"

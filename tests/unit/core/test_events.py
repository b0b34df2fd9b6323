"""One event starts a run of every workflow that waits for it, once."""

import pytest

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import PushEvent, RunResult, RunStatus
from ganger_dispatcher.core.effects import Count, Effect, Note
from ganger_dispatcher.core.events import triggers_of
from ganger_dispatcher.core.facts import EventPushed

from .world import World, address, assigned, of, replies


def flow(name: str, *patterns: str) -> WorkflowDefinition:
    return WorkflowDefinition(name, [StepDefinition("s")], on_events=list(patterns))


def push(world: World, key: str, event_id: str = "e", **fields: object) -> list[Effect]:
    pushed = EventPushed(key, PushEvent(**fields), event_id, address("q"))  # type: ignore[arg-type]
    return world.tell(pushed)


def started(world: World, key: str) -> list[str]:
    """The workflows that an event of this key starts."""
    flows = [workflow.definition for workflow in world.core.state.workflows.values()]
    triggers = triggers_of(EventPushed(key, PushEvent(), "e"), flows)
    return sorted(each.trigger.workflow for each in triggers)


@pytest.mark.parametrize(
    ("key", "workflows"),
    [
        ("image:new", ["any", "exact", "star"]),
        ("image:", ["any", "star"]),
        ("image", ["any"]),
        ("Image:new", ["any"]),
        ("my:image:new", ["any"]),
        ("user:1", ["any", "one"]),
        ("user:12", ["any"]),
        ("user:x", ["any"]),
    ],
)
def test_patterns_are_those_of_a_shell_and_case_counts(key: str, workflows: list[str]) -> None:
    world = World()
    flows = [
        flow("exact", "image:new"),
        flow("star", "image:*", "image:new"),
        flow("one", "user:[0-9]"),
        flow("any", "*"),
        flow("none"),
    ]
    world.join("a", workflows=flows)
    assert started(world, key) == workflows


def test_a_run_has_the_events_payload_key_priority_and_labels() -> None:
    world = World()
    world.join("a", {"zone": "eu"}, workflows=[flow("w", "image:*")])
    world.join("b", {"zone": "us"}, workflows=[flow("w", "image:*")])
    effects = push(
        world,
        "image:new",
        payload={"name": "cat"},
        metadata={"by": "me"},
        priority=3,
        desired_worker_labels={"zone": "us"},
    )
    [(attempt, worker)] = assigned(effects)
    assert worker == "b"
    header = world.stored.headers[attempt.partition("/")[0]]
    assert (header.input, header.priority) == ({"name": "cat"}, 3)
    assert header.metadata == {"event": "image:new", "by": "me"}
    assert Count("events_pushed") in effects
    [note] = [note for note in of(effects, Note) if note.kind == "event"]
    assert note.fields == {"key": "image:new", "runs": (attempt.partition("/")[0],)}
    assert replies(world.finish(attempt, "b")) == [("q", "succeeded", None)]


def test_the_same_event_again_starts_nothing_and_another_one_does() -> None:
    world = World()
    world.join("a", workflows=[flow("one", "*"), flow("two", "*")], slots=9)
    assert len(assigned(push(world, "k", "e1"))) == 2
    assert assigned(push(world, "k", "e1")) == []
    assert len(assigned(push(world, "k", "e2"))) == 2


def test_an_event_whose_run_has_ended_starts_nothing_anew() -> None:
    world = World()
    world.join("a", workflows=[flow("one", "*"), flow("two", "*")], slots=9)
    [(first, _), _] = assigned(push(world, "k"))
    run_id = first.partition("/")[0]
    ended = RunResult("one", run_id, RunStatus.SUCCEEDED, {"s": 1})
    world = World()
    world.join("a", workflows=[flow("one", "*"), flow("two", "*")], slots=9)
    again = world.tell(EventPushed("k", PushEvent(), "e", address("q"), {run_id: ended}))
    assert [attempt != first for attempt, _ in assigned(again)] == [True]
    assert replies(again) == [("q", "succeeded", None)]


def test_the_key_is_what_metadata_says_of_the_event() -> None:
    world = World()
    world.join("a", workflows=[flow("w", "*")])
    [(attempt, _)] = assigned(push(world, "k", metadata={"event": "another"}))
    assert world.stored.headers[attempt.partition("/")[0]].metadata == {"event": "k"}


def test_an_event_that_nobody_waits_for_is_counted() -> None:
    world = World()
    world.join("a", workflows=[flow("one", "image:*")])
    effects = push(world, "user:new")
    assert assigned(effects) == []
    assert Count("events_unmatched") in effects

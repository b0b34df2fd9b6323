"""Triggers: new runs, the same run again, held ones, refused ones, priorities of definitions."""

import msgspec
import pytest

from ganger_broker.messages import Outcome, RunResult, RunStatus, Trigger
from ganger_dispatcher.core.digest import digest
from ganger_dispatcher.core.effects import (
    Bury,
    Count,
    EndRun,
    Hold,
    Note,
    Reply,
    StoreRun,
    StoreWorkflow,
    Unhold,
)
from ganger_dispatcher.core.facts import MessageRefused, TriggerReceived
from ganger_dispatcher.core.records import Held, ReplyAddress

from .world import START, World, address, assigned, of, one_step, replies

# ── the same run again ────────────────────────────────────────────────────────────────


def test_a_second_trigger_of_a_run_only_adds_its_reply_address() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="one")
    effects = world.trigger(reply="two")
    assert [type(effect) for effect in effects] == [StoreRun]
    assert replies(world.finish("r/s/1")) == [
        ("one", "succeeded", None),
        ("two", "succeeded", None),
    ]


def test_a_trigger_delivered_twice_is_answered_once() -> None:
    world = World()
    world.join("a")
    world.trigger(reply="q")
    assert world.trigger(reply="q") == []
    assert world.trigger() == []
    assert len(replies(world.finish("r/s/1"))) == 1


def test_one_queue_with_two_correlation_ids_is_two_addresses() -> None:
    world = World()
    world.join("a")
    for correlation_id in ("1", "2"):
        reply = msgspec.structs.replace(address("q"), correlation_id=correlation_id)
        world.tell(TriggerReceived(Trigger("w"), "r", reply))
    answered = [e.address.correlation_id for e in of(world.finish("r/s/1"), Reply)]
    assert answered == ["1", "2"]


def test_a_trigger_of_a_run_that_has_ended_is_answered_at_once() -> None:
    world = World()
    world.join("a")
    ended = RunResult("w", "r", RunStatus.SUCCEEDED, {"s": 1})
    fact = TriggerReceived(Trigger("w"), "r", address("late"), ended)
    assert world.tell(fact) == [Reply(address("late"), ended)]
    assert world.tell(msgspec.structs.replace(fact, reply=None)) == []
    assert "r" not in world.core.state.runs


def test_a_trigger_handled_in_the_batch_in_which_its_run_ends_does_not_begin_it_anew() -> None:
    world = World()
    world.join("a")
    world.trigger()
    # the shell looked before the batch: the run was not ended then, and is by now
    world.finish("r/s/1", output=1)
    fact = TriggerReceived(Trigger("w", run_id="r"), "r", address("late"))
    effects = world.tell(fact, same_batch=True)
    result = RunResult("w", "r", RunStatus.SUCCEEDED, {"s": 1})
    assert effects == [Reply(address("late"), result)]
    assert world.status() == "succeeded"


def test_results_are_not_kept_beyond_the_batch() -> None:
    world = World()
    world.join("a")
    world.trigger()
    world.finish("r/s/1", output=1)
    world.core.begin_batch()
    assert not world.core.state.ended


# ── held ──────────────────────────────────────────────────────────────────────────────


def test_a_trigger_is_held_until_its_workflow_is_registered() -> None:
    world = World()
    trigger = Trigger("w", run_id="r", input={"n": 1}, priority=3)
    effects = world.trigger(reply="q", input={"n": 1}, priority=3)
    held = Held("r", trigger, START + 60_000, (address("q"),))
    assert effects == [Count("triggers_held"), Note("held", {"run": "r"}), Hold(held)]
    world.now += 59_000
    effects = world.join("a")
    assert assigned(effects) == [("r/s/1", "a")]
    assert of(effects, Unhold) == [Unhold("r")]
    assert of(effects, StoreWorkflow) == [StoreWorkflow(one_step(), (digest(one_step()),))]
    header = world.stored.headers["r"]
    assert (header.input, header.priority) == ({"n": 1}, 3)
    assert replies(world.finish("r/s/1")) == [("q", "succeeded", None)]


def test_another_workflow_s_registration_leaves_it_held() -> None:
    world = World()
    world.trigger()
    assert of(world.join("a", workflows=[one_step("other")]), Unhold) == []
    assert list(world.stored.held) == ["r"]


def test_a_held_trigger_that_comes_again_is_held_once_and_answered_at_both_addresses() -> None:
    world = World()
    world.trigger(reply="one")
    world.now += 30_000
    world.trigger(reply="two")
    assert world.stored.held["r"].until == START + 60_000
    assert assigned(world.join("a")) == [("r/s/1", "a")]
    assert [to for to, *_ in replies(world.finish("r/s/1"))] == ["one", "two"]


@pytest.mark.parametrize("first", ["held", "live", "ended"])
def test_a_run_id_of_another_workflow_is_refused_and_its_run_goes_on(first: str) -> None:
    world = World()
    world.join("a", workflows=[one_step("known")])
    if first != "held":
        world.join("b")
    world.trigger(workflow="w", reply="one")
    if first == "ended":
        world.finish("r/s/1", "b")
        ended = world.core.state.ended["r"]
    trigger = Trigger("known", run_id="r")
    again = TriggerReceived(trigger, "r", address("two"), ended if first == "ended" else None)
    effects = world.tell(again)
    assert assigned(effects) == []
    assert replies(effects) == [("two", "failed", "INVALID_TRIGGER")]
    [letter] = of(effects, Bury)
    assert letter.reason == "invalid_trigger"
    assert letter.detail == "$.run_id: 'r' is a run of workflow 'w'; give each run its own"
    if first == "held":
        world.join("b")
    if first != "ended":
        assert [to for to, *_ in replies(world.finish("r/s/1", "b"))] == ["one"]


def test_a_trigger_that_nobody_registered_in_time_is_buried_and_answered() -> None:
    world = World()
    world.trigger(workflow="nobody", reply="q", input={"n": 1})
    assert world.wait(59) == []
    effects = world.wait(2)
    [bury] = of(effects, Bury)
    assert (bury.reason, bury.routing_key, bury.keep) == (
        "unknown_workflow",
        "trigger.nobody",
        True,
    )
    assert bury.detail == "no worker registered the workflow 'nobody' within 60 s"
    assert msgspec.json.decode(bury.body, type=Trigger).input == {"n": 1}
    assert replies(effects) == [("q", "failed", "UNKNOWN_WORKFLOW")]
    assert of(effects, Unhold) == [Unhold("r")]
    assert Count("messages_dead:unknown_workflow") in effects
    assert world.stored.held == {}
    assert assigned(world.join("a", workflows=[one_step("nobody")])) == []


# ── refused ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reply", [None, address("q")])
def test_a_refused_message_is_buried_with_its_reason_and_answered(
    reply: ReplyAddress | None,
) -> None:
    world = World()
    words = (b"{", "application/json", "trigger.w", "malformed", "$: no")
    fact = MessageRefused(*words, reply, {"tenant": "a"})
    effects = world.tell(fact)
    assert effects[:4] == [
        Bury(*words, reply=reply, headers={"tenant": "a"}),
        Count("messages_dead"),
        Count("messages_dead:malformed"),
        Note("dead", {"reason": "malformed", "detail": "$: no", "routing_key": "trigger.w"}),
    ]
    assert replies(effects[4:]) == ([("q", "failed", "INVALID_TRIGGER")] if reply else [])


# ── what counts is the definition that a run began with ───────────────────────────────


def test_a_definition_that_changes_while_a_run_goes_on_counts_for_later_runs() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=1)], slots=2)
    world.trigger("before")
    effects = world.join("b", workflows=[one_step(version="2", retries=0)], slots=2)
    [stored] = of(effects, StoreWorkflow)
    assert stored.definition == one_step(version="2", retries=0)
    assert stored.came[-1] == digest(stored.definition)
    [(attempt, worker)] = assigned(world.trigger("after"))
    world.finish("before/s/1", "a", Outcome.FAILED)
    world.finish(attempt, worker, Outcome.FAILED)
    assert (world.step("before").status, world.status("after")) == ("assigned", "failed")


def test_a_definition_registered_again_is_not_stored_again() -> None:
    world = World()
    world.join("a")
    assert of(world.join("b"), StoreWorkflow) == []


def test_a_run_ends_once() -> None:
    world = World()
    world.join("a")
    world.trigger()
    assert len(of(world.finish("r/s/1"), EndRun)) == 1
    assert of(world.finish("r/s/1"), EndRun) == []

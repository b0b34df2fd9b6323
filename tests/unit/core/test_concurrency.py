"""Concurrency: how many runs go on at once by a key of their input, and what of the others."""

from typing import Any

import pytest

from ganger_broker.definitions import (
    Concurrency,
    ConcurrencyStrategy,
    StepDefinition,
    WorkflowDefinition,
)
from ganger_broker.messages import Outcome
from ganger_dispatcher.core.effects import Effect

from .world import World, assigned, replies, told

QUEUE = Concurrency("customer", 1)
TWO = Concurrency("customer", 2)
NEWEST = Concurrency("customer", 1, ConcurrencyStrategy.CANCEL_NEWEST)
IN_PROGRESS = Concurrency("customer", 1, ConcurrencyStrategy.CANCEL_IN_PROGRESS)


def flow(*rules: Concurrency, **step: Any) -> WorkflowDefinition:
    return WorkflowDefinition("w", [StepDefinition("s", **step)], concurrency=list(rules))


def fleet(*rules: Concurrency, slots: int = 9, **step: Any) -> World:
    world = World()
    world.join(workflows=[flow(*rules, **step)], slots=slots)
    return world


def ask(world: World, run_id: str, customer: Any = "x", **fields: Any) -> list[tuple[str, str]]:
    """A run for a customer: what is assigned."""
    effects = world.trigger(run_id, input={"customer": customer}, reply=run_id, **fields)
    return assigned(effects)


# ── queue ─────────────────────────────────────────────────────────────────────────────


def test_runs_of_one_key_wait_for_each_other_and_not_for_those_of_another() -> None:
    world = fleet(QUEUE)
    assert ask(world, "x1") == [("x1/s/1", "a")]
    assert ask(world, "x2") == []
    assert ask(world, "y1", "y") == [("y1/s/1", "a")]
    assert assigned(world.finish("x1/s/1")) == [("x2/s/1", "a")]


def test_one_that_waits_is_explained_by_name() -> None:
    world = fleet(QUEUE)
    ask(world, "x1")
    ask(world, "x2")
    text = 'concurrency: at most 1 run of w with customer = "x" at once'
    assert world.stored.headers["x2"].queued == text
    assert world.step("x2").status == "waiting"
    world.finish("x1/s/1")
    assert world.stored.headers["x2"].queued is None


def test_keys_take_turns_however_many_runs_one_of_them_has() -> None:
    world = fleet(QUEUE, slots=1)
    for number in range(5):
        ask(world, f"x{number}", "x")
    for key in "yz":
        ask(world, f"{key}0", key)
        ask(world, f"{key}1", key)
    order = []
    while attempts := world.held_by():
        order.append(attempts[0].partition("/")[0])
        world.now += 1
        world.finish(attempts[0])
    assert order == ["x0", "y0", "z0", "x1", "y1", "z1", "x2", "x3", "x4"]


def test_high_priority_is_let_in_first() -> None:
    world = fleet(QUEUE)
    ask(world, "x1")
    ask(world, "low")
    ask(world, "high", priority=3)
    assert assigned(world.finish("x1/s/1")) == [("high/s/1", "a")]


def test_a_run_counts_until_all_its_steps_have_ended() -> None:
    steps = [StepDefinition("s"), StepDefinition("t", parents=["s"])]
    world = World()
    world.join(workflows=[WorkflowDefinition("w", steps, concurrency=[QUEUE])], slots=9)
    ask(world, "x1")
    ask(world, "x2")
    assert assigned(world.finish("x1/s/1")) == [("x1/t/1", "a")]
    assert assigned(world.finish("x1/t/1")) == [("x2/s/1", "a")]


def test_a_failure_a_cancellation_or_a_lost_worker_leave_no_place_taken() -> None:
    world = fleet(QUEUE, desired_worker_labels={"gpu": 1})
    world.label(1, {"gpu": 1})
    ask(world, "x1")
    for number in range(2, 5):
        ask(world, f"x{number}")
    assert assigned(world.finish("x1/s/1", outcome=Outcome.FAILED)) == [("x2/s/1", "a")]
    assert assigned(world.cancel("x2")) == [("x3/s/1", "a")]
    world.leave()
    gpu = flow(QUEUE, desired_worker_labels={"gpu": 1})
    assert assigned(world.join("b", {"gpu": 0}, workflows=[gpu])) == []
    assert assigned(world.join("c", {"gpu": 1}, workflows=[gpu])) == [("x3/s/2", "c")]
    assert assigned(world.finish("x3/s/2", "c")) == [("x4/s/1", "c")]


def test_one_that_waits_can_be_cancelled() -> None:
    world = fleet(QUEUE)
    for number in range(3):
        ask(world, f"x{number}")
    assert replies(world.cancel("x1")) == [("x1", "cancelled", "CANCELLED")]
    assert assigned(world.finish("x0/s/1")) == [("x2/s/1", "a")]
    world.finish("x2/s/1")
    assert world.core.state.groups == {}


def test_without_a_key_all_runs_are_of_one_group() -> None:
    world = fleet(Concurrency(limit=2))
    assert [bool(ask(world, f"r{n}", n)) for n in range(3)] == [True, True, False]


def test_a_run_needs_room_by_every_rule() -> None:
    world = fleet(TWO, Concurrency(limit=3))
    began = [bool(ask(world, f"{key}{n}", key)) for key in "xy" for n in range(3)]
    assert began == [True, True, False, True, False, False]
    # x2 has room by its key now, and in all: it came before y1
    assert assigned(world.finish("x0/s/1")) == [("x2/s/1", "a")]
    # by its key x has no more to come; y1 and y2 wait for room in all
    assert assigned(world.finish("y0/s/1")) == [("y1/s/1", "a")]
    assert assigned(world.finish("x1/s/1")) == [("y2/s/1", "a")]


def order_of(world: World) -> list[str]:
    """The runs in the order in which they begin, each ended a second after the one before."""
    order: list[str] = []
    while attempts := world.held_by():
        order += [run for a in attempts if (run := a.partition("/")[0]) not in order]
        world.now += 1000
        world.finish(attempts[0])
    return order


@pytest.mark.parametrize("taken_over", [False, True])
def test_keys_take_turns_under_a_limit_for_all(taken_over: bool) -> None:
    world = fleet(QUEUE, Concurrency(limit=2))
    for key in "xyz":
        for number in range(1 if key == "z" else 20):
            ask(world, f"{key}{number}", key)
            world.now += 1
    if taken_over:
        world.take_over()
    order = order_of(world)
    assert len(order) == 41
    assert order.index("z0") <= 5
    for each in zip(*[iter(order[5:])] * 2, strict=False):
        assert {run[0] for run in each} == {"x", "y"}


def test_a_key_that_comes_late_waits_for_one_run_of_each_other() -> None:
    world = fleet(QUEUE, Concurrency(limit=2))
    for number in range(10):
        ask(world, f"x{number}", "x")
        ask(world, f"y{number}", "y")
    for _ in range(4):
        world.now += 1000
        world.finish(world.held_by()[0])
    began = len(order_before := world.held_by())
    assert began == 2
    ask(world, "z0", "z")
    order = order_of(world)
    assert order.index("z0") <= len(order_before) + 2


def test_high_priority_goes_first_under_a_limit_for_all() -> None:
    world = fleet(QUEUE, Concurrency(limit=1))
    for run_id, key, priority in [("x0", "x", 1), ("x1", "x", 1), ("y0", "y", 1), ("y1", "y", 3)]:
        ask(world, run_id, key, priority=priority)
    assert order_of(world) == ["x0", "y1", "x1", "y0"]


def test_the_turn_of_a_run_that_is_cancelled_is_not_its_line_s() -> None:
    world = fleet(QUEUE, Concurrency(limit=1))
    for run_id, key in [("first", "z"), ("b", "b"), ("a", "a")]:
        ask(world, run_id, key)
        world.now += 1
    ask(world, "high", "a", priority=3)
    world.cancel("high")
    assert assigned(world.finish("first/s/1")) == [("b/s/1", "a")]


def test_lines_of_several_versions_do_not_send_each_other_back_and_forth() -> None:
    def limited(version: str, limit: int) -> WorkflowDefinition:
        rules = [Concurrency("x", limit), Concurrency("y", limit)] if limit else []
        return of_version(version, *rules)

    def run(run_id: str, x: int, y: int, priority: int = 1) -> list[tuple[str, str]]:
        world.now += 10
        return assigned(world.trigger(run_id, input={"x": x, "y": y}, priority=priority))

    world = World()
    world.join("a", workflows=[limited("1", 1)], slots=50)
    began = [run("r", 1, 1), run("y2", 1, 2), run("x2", 2, 1), run("y2-", 1, 2), run("x2-", 2, 1)]
    assert [bool(each) for each in began] == [True, False, False, False, False]
    world.join("b", workflows=[limited("2", 2)], slots=50)
    assert run("high", 1, 1, priority=3) == []
    world.join("c", workflows=[limited("3", 0)], slots=50)
    end(world, "y2")
    assert attempts(end(world, "x2")) == ["high/s/1"]
    for each in ("r", "high", "y2-", "x2-"):
        end(world, each)
    assert {world.status(each) for each in ("r", "y2", "x2", "y2-", "x2-", "high")} == {"succeeded"}


@pytest.mark.parametrize("customer", [None, 1, True, ["a"], {"id": 1}])
def test_any_value_may_be_a_key(customer: Any) -> None:
    world = fleet(QUEUE)
    assert ask(world, "first", customer) != []
    assert ask(world, "second", customer) == []
    assert ask(world, "other", "other") != []


def test_a_whole_number_is_one_key_however_it_is_written() -> None:
    world = fleet(QUEUE)
    assert ask(world, "first", 1) != []
    assert ask(world, "second", 1.0) == []


def test_large_values_are_told_apart_and_shown_in_short() -> None:
    world = fleet(QUEUE)
    long = "x" * 100_000
    assert ask(world, "first", long) != []
    assert ask(world, "second", long) == []
    assert ask(world, "other", long + "y") != []
    assert len(world.stored.headers["second"].queued or "") < 250


def test_the_next_leader_lets_in_the_same() -> None:
    world = fleet(TWO)
    for number in range(4):
        ask(world, f"x{number}")
        world.now += 1
    world.take_over()
    assert ask(world, "x4") == []
    assert assigned(world.finish("x1/s/1")) == [("x2/s/1", "a")]
    world.take_over()
    assert assigned(world.finish("x0/s/1")) == [("x3/s/1", "a")]


# ── cancelling ────────────────────────────────────────────────────────────────────────


def test_the_newest_may_be_cancelled() -> None:
    world = fleet(NEWEST)
    assert ask(world, "x1") == [("x1/s/1", "a")]
    effects = world.trigger("x2", input={"customer": "x"}, reply="q")
    assert replies(effects) == [("q", "cancelled", "CANCELLED")]
    error = world.stored.headers["x2"].error
    assert error is not None
    assert error.message == 'concurrency: at most 1 run of w with customer = "x" at once'
    world.finish("x1/s/1")
    assert ask(world, "x3") == [("x3/s/1", "a")]


def test_one_that_was_queued_is_the_newest_still_when_it_is_let_in() -> None:
    newest = Concurrency("branch", 1, ConcurrencyStrategy.CANCEL_NEWEST)
    world = fleet(QUEUE, newest)
    for run_id, customer, branch in [("a", "x", 1), ("b", "x", 2), ("c", "y", 2)]:
        world.trigger(run_id, input={"customer": customer, "branch": branch}, reply=run_id)
    assert replies(world.finish("a/s/1"))[-1] == ("b", "cancelled", "CANCELLED")


@pytest.mark.parametrize(
    "key", ["items[::0]", "ceil(to_number(id))", "&a", "[@,@]" + "|[@,@]" * 40]
)
def test_an_expression_that_fails_on_an_input_is_of_the_key_null(key: str) -> None:
    world = fleet(Concurrency(key))
    given = {"items": [1], "id": "1e999"}
    assert assigned(world.trigger("first", input=given)) == [("first/s/1", "a")]
    assert assigned(world.trigger("second", input=given)) == []
    assert world.stored.headers["second"].queued == (
        f"concurrency: at most 1 run of w with {key} = null at once"
    )


def test_the_newest_has_room_where_it_takes_a_place() -> None:
    branch = Concurrency("branch", 1, ConcurrencyStrategy.CANCEL_IN_PROGRESS)
    world = fleet(branch, Concurrency(None, 2, ConcurrencyStrategy.CANCEL_NEWEST))
    for run_id, name in [("m1", "m"), ("n", "n")]:
        world.trigger(run_id, input={"branch": name}, reply=run_id)
    effects = world.trigger("m2", input={"branch": "m"}, reply="m2")
    assert (replies(effects), assigned(effects)) == (
        [("m1", "cancelled", "CANCELLED")],
        [("m2/s/1", "a")],
    )
    refused = world.trigger("o", input={"branch": "o"}, reply="o")
    assert replies(refused) == [("o", "cancelled", "CANCELLED")]


def test_of_a_newest_that_has_no_room_all_the_same_no_place_is_taken() -> None:
    branch = Concurrency("branch", 1, ConcurrencyStrategy.CANCEL_IN_PROGRESS)
    newest = Concurrency("customer", 1, ConcurrencyStrategy.CANCEL_NEWEST)
    world = fleet(branch, newest)
    for run_id, name, customer in [("m1", "m", "x"), ("n", "n", "y")]:
        world.trigger(run_id, input={"branch": name, "customer": customer}, reply=run_id)
    effects = world.trigger("m2", input={"branch": "m", "customer": "y"}, reply="m2")
    assert replies(effects) == [("m2", "cancelled", "CANCELLED")]


def test_what_goes_on_may_be_cancelled_for_the_newest() -> None:
    world = fleet(IN_PROGRESS)
    ask(world, "x1")
    world.start("x1/s/1")
    effects = world.trigger("x2", input={"customer": "x"})
    assert replies(effects) == [("x1", "cancelled", "CANCELLED")]
    assert assigned(effects) == [("x2/s/1", "a")]
    error = world.stored.headers["x1"].error
    assert error is not None
    assert error.message.startswith(
        "run x2 took its place; concurrency: at most 1 run of w with customer"
    )
    [(worker, stop)] = told(effects)
    assert (worker, stop.attempt) == ("a", "x1/s/1")


ONE = Concurrency(None, 1)


@pytest.mark.parametrize("rules", [(IN_PROGRESS, ONE), (ONE, IN_PROGRESS)])
def test_beside_a_second_limit_the_oldest_is_cancelled_too(rules: list[Concurrency]) -> None:
    world = fleet(*rules)
    ask(world, "x1")
    assert ask(world, "x2") == [("x2/s/1", "a")]  # the place that it waited for was held by x1
    assert world.status("x1") == "cancelled"
    assert ask(world, "y1", "y") == []
    assert ask(world, "y2", "y") == []  # it waits for the second limit, and takes y1's place there
    assert (world.status("x2"), world.status("y1")) == ("running", "cancelled")
    error = world.stored.headers["y1"].error
    assert error is not None
    assert error.message.startswith("run y2 took its place; concurrency: at most 1 run of w with")
    world.take_over()
    assert ask(world, "y3", "y") == []
    assert (world.status("y2"), world.status("y3")) == ("cancelled", "running")
    assert assigned(world.finish("x2/s/1")) == [("y3/s/1", "a")]
    world.finish("y3/s/1")
    assert world.core.state.groups == {}


def test_a_place_that_is_taken_goes_to_who_waits_for_longer() -> None:
    world = fleet(IN_PROGRESS, ONE)
    ask(world, "x1")
    ask(world, "y1", "y")
    assert ask(world, "x2") == [("y1/s/1", "a")]
    assert assigned(world.finish("y1/s/1")) == [("x2/s/1", "a")]


def test_two_limits_of_one_key_are_refused() -> None:
    [(_, refused)] = told(World().join(workflows=[flow(QUEUE, ONE, NEWEST)]))
    place = "workflow 'w': concurrency[2].key"
    assert refused.reason == f"{place}: there is a limit of 'customer' before; give one"


def test_a_bad_expression_is_refused() -> None:
    world = World()
    effects = world.join(workflows=[flow(Concurrency("a["))])
    [(_, refused)] = told(effects)
    assert refused.reason.startswith("workflow 'w': concurrency[0].key: 'a[' is no JMESPath")
    [(_, refused)] = told(world.join(workflows=[flow(Concurrency("lenght(a)"))]))
    assert "concurrency[0].key: 'lenght(a)': there is no function lenght()" in refused.reason


# ── another limit ─────────────────────────────────────────────────────────────────────


def of_version(version: str, *rules: Concurrency, **step: Any) -> WorkflowDefinition:
    steps = [StepDefinition("s", **step)]
    return WorkflowDefinition("w", steps, version, concurrency=list(rules))


def attempts(effects: list[Effect]) -> list[str]:
    return [attempt for attempt, _ in assigned(effects)]


def end(world: World, run_id: str) -> list[Effect]:
    """Wherever it runs."""
    return world.finish(f"{run_id}/s/1", world.step(run_id).worker or "")


def test_a_raised_limit_counts_for_those_that_wait_already() -> None:
    world = fleet(QUEUE)
    for run_id in ("old0", "old1", "old2"):
        ask(world, run_id)
    effects = world.join("b", workflows=[of_version("2", TWO)], slots=9)
    assert attempts(effects) == ["old1/s/1"]
    text = 'concurrency: at most 2 runs of w with customer = "x" at once'
    assert world.stored.headers["old2"].queued == text
    assert ask(world, "new") == []
    assert attempts(end(world, "old0")) == ["old2/s/1"]
    assert attempts(end(world, "old1")) == ["new/s/1"]


def test_those_that_wait_are_not_overtaken_for_ever() -> None:
    world = fleet(QUEUE)
    ask(world, "old0")
    ask(world, "old1")
    world.join("b", workflows=[of_version("2", TWO)], slots=9)
    world.take_over()
    for number in range(20):
        world.now += 1000
        ask(world, f"n{number}")
        for worker in ("a", "b"):
            for attempt in world.held_by(worker):
                world.finish(attempt, worker)
    assert world.status("old1") == "succeeded"


def test_a_lowered_limit_counts_when_runs_have_ended() -> None:
    world = fleet(TWO)
    for run_id in ("old0", "old1", "old2"):
        ask(world, run_id)
    world.join("b", workflows=[of_version("2", QUEUE)], slots=9)
    assert attempts(end(world, "old0")) == []
    assert attempts(end(world, "old1")) == ["old2/s/1"]


def test_a_limit_that_is_gone_counts_for_the_runs_that_began_with_it() -> None:
    world = fleet(QUEUE)
    ask(world, "old0")
    ask(world, "old1")
    world.join("b", workflows=[of_version("2")], slots=9)
    assert ask(world, "new") == [("new/s/1", "b")]
    assert attempts(end(world, "old0")) == ["old1/s/1"]


@pytest.mark.parametrize("rule", [NEWEST, IN_PROGRESS])
def test_cancelling_goes_with_required_labels_and_a_lost_worker(rule: Concurrency) -> None:
    gpu = flow(rule, desired_worker_labels={"gpu": 1})
    world = World()
    world.join("cold", workflows=[gpu], slots=9)
    world.join("warm", {"gpu": 1}, workflows=[gpu], slots=9)
    assert ask(world, "one") == [("one/s/1", "warm")]
    assert assigned(world.wait(15, "cold")) == []  # warm is lost; one waits for another like it
    assert (world.status("one"), world.step("one").status) == ("running", "pending")
    assert ask(world, "two") == []
    if rule is NEWEST:
        assert (world.status("one"), world.status("two")) == ("running", "cancelled")
    else:
        assert (world.status("one"), world.status("two")) == ("cancelled", "running")
    left = "one/s/2" if rule is NEWEST else "two/s/1"
    assert assigned(world.join("other", {"gpu": 1}, workflows=[gpu])) == [(left, "other")]
    assert world.held_by("cold") == []

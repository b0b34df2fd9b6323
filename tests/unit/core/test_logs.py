"""What steps log is kept with the run, each line once; and who gets it as it comes."""

from ganger_broker.definitions import StepDefinition, WorkflowDefinition
from ganger_broker.messages import Outcome, Trigger
from ganger_dispatcher.core.effects import AppendLog, Assign, Effect, Reply
from ganger_dispatcher.core.facts import TriggerReceived
from ganger_dispatcher.core.records import ReplyAddress

from .world import World, assigned, of, one_step, replies


def running(**step: object) -> World:
    """Run ``r`` on worker ``a``."""
    world = World()
    world.join("a", workflows=[one_step(**step)])
    world.trigger("r")
    world.start("r/s/1")
    return world


def kept(effects: list[Effect]) -> list[tuple[str, int, str]]:
    """(attempt, seq, message) of each line that is to be kept."""
    return [
        (line.attempt, line.seq, line.message) for e in of(effects, AppendLog) for line in e.lines
    ]


def all_kept(world: World, run_id: str = "r") -> list[tuple[str, int, str]]:
    return [(line.attempt, line.seq, line.message) for line in world.stored.logs[run_id]]


# ── what is kept ──────────────────────────────────────────────────────────────────────


def test_lines_of_a_running_attempt_are_kept_in_order() -> None:
    world = running()
    effects = world.log("r/s/1", (1, "one"), (3, "three"))
    assert kept(effects) == [("r/s/1", 1, "one"), ("r/s/1", 3, "three")]
    line = world.stored.logs["r"][0]
    assert (line.at, line.level) == (world.now, "info")


def test_lines_that_are_delivered_again_are_kept_once_whoever_leads() -> None:
    world = running()
    world.log("r/s/1", (1, "one"), (2, "two"))
    assert kept(world.log("r/s/1", (1, "one"), (2, "two"))) == []
    world.take_over()
    assert kept(world.log("r/s/1", (2, "two"), (3, "three"))) == [("r/s/1", 3, "three")]


def test_lines_of_a_lost_attempt_stay_and_those_of_the_next_begin_anew() -> None:
    world = running()
    world.log("r/s/1", (1, "on a"), (2, "still on a"))
    world.join("b")
    assert assigned(world.wait(11, "b")) == [("r/s/2", "b")]
    world.log("r/s/2", (1, "on b"), worker="b")
    assert all_kept(world) == [
        ("r/s/1", 1, "on a"),
        ("r/s/1", 2, "still on a"),
        ("r/s/2", 1, "on b"),
    ]


def test_a_worker_that_was_lost_is_not_heard_until_it_registers_anew() -> None:
    world = running()
    world.join("b")
    world.wait(11, "b")
    assert kept(world.log("r/s/1", (1, "too late"))) == []
    world.join("a", incarnation="1")
    assert kept(world.log("r/s/1", (1, "too late"))) == [("r/s/1", 1, "too late")]


def test_the_attempt_before_the_current_one_counts_and_older_ones_do_not() -> None:
    world = running(retries=5)
    for attempt in ("r/s/1", "r/s/2"):
        world.log(attempt, (1, attempt))
        world.finish(attempt, outcome=Outcome.FAILED)
        world.start(f"r/s/{int(attempt[-1]) + 1}")
    assert kept(world.log("r/s/2", (2, "stops late"))) == [("r/s/2", 2, "stops late")]
    assert kept(world.log("r/s/1", (2, "stops very late"))) == []
    assert kept(world.log("r/s/4", (1, "from the future"))) == []
    world.log("r/s/3", (1, "now"))
    assert world.stored.headers["r"].logged == {"s/2": 2, "s/3": 1}


def test_each_step_of_a_run_counts_for_itself() -> None:
    world = World()
    steps = [StepDefinition("x"), StepDefinition("y")]
    world.join("a", workflows=[WorkflowDefinition("w", steps)], slots=2)
    world.trigger("r")
    world.log("r/x/1", (1, "x"), (2, "x"))
    assert kept(world.log("r/y/1", (1, "y"))) == [("r/y/1", 1, "y")]


def test_what_comes_after_the_run_s_end_is_not_kept() -> None:
    world = running()
    world.log("r/s/1", (1, "in time"))
    world.finish("r/s/1")
    for attempt in ("r/s/1", "r/nothing/1", "nothing/s/1", "no attempt"):
        assert kept(world.log(attempt, (2, "too late"))) == []
    assert len(world.stored.logs["r"]) == 1


# ── who gets it as it comes ───────────────────────────────────────────────────────────


def ask(world: World, name: str, *, stream: bool, run_id: str = "r") -> list[Effect]:
    address = ReplyAddress(name, "c", "application/json", stream)
    trigger = Trigger("w", run_id=run_id, stream=stream)
    return world.tell(TriggerReceived(trigger, run_id, address))


def streams_to(effects: list[Effect]) -> list[list[str]]:
    """To whom the steps are to send what they say, of each assignment."""
    return [[to.reply_to for to in e.assignment.stream_to] for e in of(effects, Assign)]


def test_a_worker_is_told_who_wants_the_stream() -> None:
    world = World()
    world.join("a", slots=2)
    assert streams_to(ask(world, "p", stream=False, run_id="q")) == [[]]
    [assign] = of(ask(world, "p", stream=True), Assign)
    assert assign.assignment.stream_to == [ReplyAddress("p", "c", "application/json", True)]


def test_every_attempt_is_told_whoever_leads_and_whatever_was_held() -> None:
    world = World()
    ask(world, "p", stream=True)
    assert streams_to(world.join("a", {"gpu": 1}, workflows=[one_step(retries=1)])) == [["p"]]
    assert streams_to(world.take_over()) == [["p"]]
    world.start("r/s/1")
    assert streams_to(world.finish("r/s/1", outcome=Outcome.FAILED)) == [["p"]]


def test_who_asks_for_the_stream_later_gets_it_from_then_on_and_one_result() -> None:
    world = World()
    world.join("a", workflows=[one_step(retries=1)])
    ask(world, "p", stream=False)
    ask(world, "p", stream=True)
    ask(world, "other", stream=False)
    world.start("r/s/1")
    assert streams_to(world.finish("r/s/1", outcome=Outcome.FAILED)) == [["p"]]
    world.start("r/s/2")
    effects = world.finish("r/s/2")
    assert replies(effects) == [("p", "succeeded", None), ("other", "succeeded", None)]
    assert len(of(effects, Reply)) == 2

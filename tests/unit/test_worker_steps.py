"""How steps run and how they end."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from ganger import Context, InvalidInput, NonRetryable, RetryAfter
from ganger_broker.messages import (
    FailureReason,
    Heartbeat,
    Outcome,
    RunError,
    StepFinished,
    StepStarted,
)
from tests.unit.fake_dispatcher import ended, working
from tests.unit.steps import Scripted


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
async def test_a_step_has_its_run_and_its_worker(action: str) -> None:
    def look(context: Context) -> dict[str, Any]:
        return {
            "input": context.workflow_input(),
            "parent": context.step_output("first"),
            "run": context.workflow_run_id(),
            "step_run": context.step_run_id(),
            "attempt": context.attempt_id(),
            "retry": context.retry_count(),
            "metadata": context.additional_metadata(),
            "priority": context.priority(),
            "worker": (context.worker.id(), context.worker.name(), context.worker.get_labels()),
            "cancelled": (context.cancelled, context.exit_flag),
        }

    async def look_async(context: Context) -> dict[str, Any]:
        return look(context)

    async with working(Scripted(look_async, look), labels={"memory": 512}) as found:
        fields = {"input": {"a": 1}, "parents": {"first": [1]}, "metadata": {"m": 2}}
        end = await ended(found, action, attempt="r/s/3", retry_count=2, priority=3, **fields)
        assert end.outcome is Outcome.SUCCEEDED
        assert end.output == {
            "input": {"a": 1},
            "parent": [1],
            "run": "r",
            "step_run": "r/s",
            "attempt": "r/s/3",
            "retry": 2,
            "metadata": {"m": 2},
            "priority": 3,
            "worker": ["w", "worker", {"memory": 512}],
            "cancelled": [False, False],
        }


async def test_start_and_end_of_a_fast_step_share_a_body() -> None:
    async with working(Scripted()) as found:
        await ended(found, "scripted:a")
        kinds = [type(event) for event in found.dispatcher.bodies[-1]]
        assert kinds == [StepStarted, StepFinished]


def test_the_output_of_a_step_that_is_no_parent_is_an_error() -> None:
    async def look(context: Context) -> Any:
        with pytest.raises(InvalidInput, match="'b' is not a parent of 'a'; its parents: first"):
            context.step_output("b")
        return "seen"

    async def run() -> None:
        async with working(Scripted(look)) as found:
            end = await ended(found, "scripted:a", parents={"first": 1})
            assert end.output == "seen"

    asyncio.run(run())


async def test_a_failure_step_is_told_which_outputs_there_are() -> None:
    async def look(context: Context) -> Any:
        said = []
        for name in ("a", "c", None):
            with pytest.raises(InvalidInput) as caught:
                context.step_output(name)  # type: ignore[arg-type]
            said.append(str(caught.value))
        return said

    errors = {"a": RunError(FailureReason.STEP_FAILED, "boom")}
    async with working(Scripted(look)) as found:
        some = await ended(found, "scripted:a", parents={"b": 1, "d": 1}, errors=errors)
        assert some.output == [
            "step_output: 'a' has failed (see step_run_errors()); there are outputs of: b, d",
            "step_output: 'c' is no step that has succeeded; there are outputs of: b, d",
            "step_output: None is no step that has succeeded; there are outputs of: b, d",
        ]
        none = await ended(found, "scripted:a", attempt="run/a/2", errors=errors)
        assert none.output[0].endswith("; there are outputs of: no step")


class Boom(Exception):
    pass


def explode(context: Context) -> None:
    raise Boom("it broke")


async def explode_async(context: Context) -> None:
    explode(context)


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
async def test_an_exception_fails_the_step_with_type_message_and_traceback(action: str) -> None:
    async with working(Scripted(explode_async, explode)) as found:
        end = await ended(found, action)
        assert (end.outcome, end.retryable) == (Outcome.FAILED, True)
        assert end.error is not None
        assert (end.error.reason, end.error.type) == (FailureReason.STEP_FAILED, "Boom")
        assert end.error.message == "it broke"
        assert end.error.traceback is not None
        assert "in explode\n" in end.error.traceback
        assert "runner.py" not in end.error.traceback  # from the user's frame on


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, "there was no memory left for it: Unable to allocate 8 GiB"),
        (
            {"ganger.memory_mb": 512},
            "there was no memory left for it of the 512 MB of its worker: Unable to allocate 8 GiB",
        ),
    ],
)
async def test_a_step_that_got_no_memory_says_so(labels: dict[str, int], text: str) -> None:
    def greedy(context: Context) -> None:
        raise MemoryError("Unable to allocate 8 GiB")

    async def never(context: Context) -> None: ...

    async with working(Scripted(never, greedy), reserved=labels) as found:
        end = await ended(found, "scripted:t")
        assert end.error is not None
        assert (end.error.reason, end.error.message) == (FailureReason.OUT_OF_MEMORY, text)
        assert (end.error.type, end.retryable) == ("MemoryError", True)


async def test_an_exception_without_a_text_and_one_too_long_are_told_as_well() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def mute(context: Context) -> None:
        raise Mute

    async def long(context: Context) -> None:
        raise ValueError("\ud800" + "x" * 100_000)

    async with working(Scripted(mute)) as found:
        end = await ended(found, "scripted:a")
        assert end.error is not None
        assert "whose text cannot be had" in end.error.message
    async with working(Scripted(long)) as found:
        end = await ended(found, "scripted:a")
        assert end.error is not None
        assert end.error.message.startswith(r"\ud800xxx")
        assert len(end.error.message) == 4000
        assert end.error.traceback is not None
        assert len(end.error.traceback) <= 16_001


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()]
)
async def test_no_exception_of_a_step_ends_the_worker(action: str, error: BaseException) -> None:
    def leave(context: Context) -> None:
        if context.workflow_input():
            raise error

    async def leave_async(context: Context) -> None:
        leave(context)

    async with working(Scripted(leave_async, leave)) as found:
        end = await ended(found, action, input={"leave": True})
        assert end.outcome is Outcome.FAILED
        after = await ended(found, action, attempt="run/x/2")
        assert after.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
@pytest.mark.parametrize(
    ("error", "retryable", "retry_after", "said"),
    [
        (NonRetryable("a bad image"), False, None, "a bad image"),
        (RetryAfter("1m30s"), True, 90.0, "to be tried again after 90 s"),
        (RetryAfter(timedelta(seconds=2), "busy"), True, 2.0, "busy"),
        (ValueError("no"), True, None, "no"),
    ],
)
async def test_a_step_can_say_whether_and_when_to_try_again(
    action: str, error: Exception, retryable: bool, retry_after: float | None, said: str
) -> None:
    def fail(context: Context) -> None:
        raise error

    async def fail_async(context: Context) -> None:
        raise error

    async with working(Scripted(fail_async, fail)) as found:
        end = await ended(found, action)
        assert (end.outcome, end.retryable) == (Outcome.FAILED, retryable)
        assert end.retry_after == retry_after
        assert end.error is not None
        assert (end.error.message, end.error.type) == (said, type(error).__name__)


def test_when_to_try_again_must_be_a_duration() -> None:
    with pytest.raises(InvalidInput, match="RetryAfter: 'soon' must be a positive number"):
        RetryAfter("soon")


async def test_a_function_that_lets_stop_iteration_out_is_told_so() -> None:
    def first_of_none(context: Context) -> Any:
        return next(iter(()))

    async with working(Scripted(None, first_of_none)) as found:
        end = await ended(found, "scripted:t")
        assert end.error is not None
        assert end.error.type == "StopIteration"
        assert end.error.traceback is not None
        assert "in first_of_none\n" in end.error.traceback
        assert "runner.py" not in end.error.traceback


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"a": {1: 2}}, "what scripted:a returned: $.a: the key 1 must be a string"),
        ({"a": float("nan")}, "what scripted:a returned: $.a: nan has no JSON form"),
        (b"x", "what scripted:a returned: $: builtins.bytes has no JSON form"),
        ("x" * 5000, "what scripted:a returned: $: is 51"),
    ],
)
async def test_an_output_that_cannot_be_sent_fails_the_step_for_good(
    output: Any, said: str
) -> None:
    async def give(context: Context) -> Any:
        return output

    async with working(Scripted(give), max_message_bytes=4096) as found:
        end = await ended(found, "scripted:a")
        assert (end.outcome, end.retryable) == (Outcome.FAILED, False)
        assert end.error is not None
        assert end.error.message.startswith(said)


async def test_an_output_just_small_enough_is_sent() -> None:
    async def give(context: Context) -> Any:
        return "x" * 3500

    async with working(Scripted(give), max_message_bytes=4096) as found:
        end = await ended(found, "scripted:a")
        assert end.output == "x" * 3500


# ── slots, threads, logs ──────────────────────────────────────────────────────────────


async def test_no_more_steps_run_at_once_than_there_are_slots() -> None:
    workflow = Scripted()
    async with working(workflow, slots=2) as found:
        dispatcher = found.dispatcher
        for number in range(4):
            await dispatcher.assign("scripted:wait", f"r{number}/wait/1")
        await found.transport.until(lambda: len(found.transport.acknowledged) == 4)
        assert workflow.ran == ["r0/wait/1", "r1/wait/1"]
        assert len(dispatcher.of(StepStarted)) == 2
        workflow.release.set()
        await dispatcher.hear(StepFinished, 4)
        assert len(workflow.ran) == 4


async def test_threads_are_used_again() -> None:

    def name(context: Context) -> str:
        return threading.current_thread().name

    async with working(Scripted(None, name), slots=4) as found:
        names = {(await ended(found, "scripted:t", attempt=f"r/t/{n}")).output for n in range(5)}
        assert names == {"w-1"}


class Unshowable:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
async def test_every_line_of_a_step_says_whose_it_is(action: str) -> None:
    captured = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, captured])

    def talk(context: Context) -> None:
        context.log("hello", extra=1, event="x", odd=Unshowable())

    async def talk_async(context: Context) -> None:
        talk(context)

    try:
        async with working(Scripted(talk_async, talk)) as found:
            await ended(found, action, attempt="r/s/1")
    finally:
        structlog.reset_defaults()
    (line,) = [entry for entry in captured.entries if entry["event"] == "hello"]
    assert {key: line[key] for key in ("run", "attempt", "worker", "extra", "event_", "odd")} == {
        "run": "r",
        "attempt": "r/s/1",
        "worker": "w",
        "extra": 1,
        "event_": "x",
        "odd": "<Unshowable: ValueError when shown>",
    }
    assert line["step"] == action.partition(":")[2]


async def test_a_step_that_nobody_registered_fails_and_says_so() -> None:
    async with working(Scripted()) as found:
        end = await ended(found, "scripted:other")
        assert end.error is not None
        assert "worker w has no such step" in end.error.message


async def test_heartbeats_name_what_is_held() -> None:
    workflow = Scripted()
    async with working(workflow, heartbeat_interval=0.01) as found:
        dispatcher = found.dispatcher
        attempt = await dispatcher.assign("scripted:wait")
        await dispatcher.until(
            lambda: any(event.attempts == [attempt] for event in dispatcher.of(Heartbeat))
        )
        workflow.release.set()
        await dispatcher.ended(attempt)
        count = len(dispatcher.of(Heartbeat))
        await dispatcher.hear(Heartbeat, count + 2)
        assert dispatcher.of(Heartbeat)[-1].attempts == []


# ── ends that cannot be told as they are ──────────────────────────────────────────────


class Mutable(RetryAfter):
    def __init__(self) -> None:
        super().__init__("1s", "soon")
        self.seconds = float("nan")


def raising(error: Callable[[], BaseException]) -> Scripted:
    async def step(context: Context) -> None:
        raise error()

    return Scripted(step)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (lambda: RetryAfter(2e9), "InvalidInput", "RetryAfter: 2000000000.0 is over 1,000,000,000"),
        (lambda: RetryAfter(-1), "InvalidInput", "RetryAfter: -1 must be a positive number"),
        (Mutable, "Mutable", "soon ($.retry_after: "),
        (type("E" * 500_000, (Exception,), {}), "E" * 500, ""),
        (type("B", (Exception,), {"__qualname__": "\udc80bad"}), "\\udc80bad", ""),
        (lambda: ValueError("\ud800"), "ValueError", "\\ud800"),
    ],
)
async def test_whatever_a_step_raises_its_end_is_told(
    error: Callable[[], BaseException], kind: str, message: str
) -> None:
    async with working(raising(error)) as found:
        end = await ended(found, "scripted:a")
        assert end.outcome is Outcome.FAILED
        assert end.error is not None
        assert end.error.type == kind
        assert end.error.message.startswith(message)
        assert end.retryable
        assert end.retry_after is None

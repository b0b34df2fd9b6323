"""How steps end before they are done: at their time-out, and cancelled."""

import asyncio
import threading
from typing import Any

import pytest

from ganger import Context, runner
from ganger_broker.messages import (
    FailureReason,
    Heartbeat,
    Outcome,
    StepFinished,
    StepRefreshed,
    StepReleased,
)
from ganger_broker.to_worker import CancelAttempt
from tests.unit.fake_dispatcher import PATIENCE, ended, working
from tests.unit.steps import Scripted


async def test_an_async_step_is_cancelled_at_its_timeout() -> None:
    cleaned_up = []

    async def hang(context: Context) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned_up.append(True)

    async with working(Scripted(hang)) as found:
        end = await ended(found, "scripted:a", timeout=0.05)
        assert (end.outcome, end.retryable) == (Outcome.FAILED, True)
        assert end.error is not None
        assert end.error.reason is FailureReason.TIMED_OUT
        assert "0.05 s" in end.error.message
        assert cleaned_up == [True]


async def test_a_time_out_of_the_steps_own_is_not_ours() -> None:
    async def impatient(context: Context) -> None:
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()

    async with working(Scripted(impatient)) as found:
        end = await ended(found, "scripted:a")
        assert end.error is not None
        assert (end.error.reason, end.error.type) == (FailureReason.STEP_FAILED, "TimeoutError")


async def test_a_step_in_a_thread_is_told_at_its_timeout() -> None:
    def obedient(context: Context) -> str:
        assert context.wait_cancelled(10)
        return "late"

    async with working(Scripted(None, obedient)) as found:
        end = await ended(found, "scripted:t", timeout=0.05)
        assert end.outcome is Outcome.FAILED
        assert end.error is not None
        assert end.error.reason is FailureReason.TIMED_OUT


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
async def test_a_step_that_does_not_stop_is_told_of_and_keeps_its_slot(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STOP_PATIENCE", 0.01)
    go_on = threading.Event()

    def deaf(context: Context) -> str:
        if context.workflow_input():
            assert go_on.wait(PATIENCE)
        return "done"

    async def deaf_async(context: Context) -> str:
        if context.workflow_input():
            loop = asyncio.get_running_loop()
            waiting = loop.run_in_executor(None, go_on.wait, PATIENCE)
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                await waiting
        return "done"

    workflow = Scripted(deaf_async, deaf)
    async with working(workflow, slots=1, heartbeat_interval=0.01) as found:
        first = await found.dispatcher.assign(action, timeout=0.02, input={"deaf": True})
        end = await found.dispatcher.ended(first)
        assert (end.outcome, end.lingers) == (Outcome.FAILED, True)
        assert end.error is not None
        assert end.error.reason is FailureReason.TIMED_OUT
        second = await found.dispatcher.assign(action, attempt="run/x/2")
        await found.dispatcher.until(
            lambda: any(b.attempts == [second, first] for b in found.dispatcher.of(Heartbeat))
        )
        assert len(found.dispatcher.of(StepFinished)) == 1
        go_on.set()
        assert (await found.dispatcher.hear(StepReleased))[0].attempt == first
        assert (await found.dispatcher.ended(second)).output == "done"
        assert len(found.dispatcher.of(StepFinished)) == 2


async def test_the_dispatcher_is_told_of_more_time() -> None:
    def long(context: Context) -> None:
        context.refresh_timeout("1h")

    async with working(Scripted(None, long)) as found:
        end = await ended(found, "scripted:t")
        assert end.outcome is Outcome.SUCCEEDED
        assert [said.timeout for said in found.dispatcher.of(StepRefreshed)] == [3600]


@pytest.mark.parametrize("action", ["scripted:a", "scripted:t"])
async def test_a_step_can_shorten_its_time_and_is_stopped_by_the_new_one(action: str) -> None:
    def short(context: Context) -> None:
        context.refresh_timeout(0.01)
        assert context.wait_cancelled(PATIENCE)

    async def short_async(context: Context) -> None:
        context.refresh_timeout(0.01)
        await asyncio.get_running_loop().create_future()

    async with working(Scripted(short_async, short)) as found:
        end = await ended(found, action, timeout=60)
        assert end.error is not None
        assert end.error.reason is FailureReason.TIMED_OUT
        assert "timeout of 0.01 s" in end.error.message
        assert not end.lingers


@pytest.mark.parametrize("given", ["soon", 0, 2e9])
async def test_more_time_must_be_a_duration(given: Any) -> None:
    async def wrong(context: Context) -> None:
        context.refresh_timeout(given)

    async with working(Scripted(wrong)) as found:
        end = await ended(found, "scripted:a")
        assert end.error is not None
        assert (end.error.type, end.error.message[:17]) == ("InvalidInput", "refresh_timeout: ")


async def test_cancelling_an_async_step_ends_it() -> None:
    async def hang(context: Context) -> None:
        await asyncio.get_running_loop().create_future()

    async with working(Scripted(hang)) as found:
        attempt = await found.dispatcher.assign("scripted:a")
        await found.dispatcher.began(attempt)
        await found.dispatcher.send(CancelAttempt(attempt, "not wanted"))
        end = await found.dispatcher.ended(attempt)
        assert end.outcome is Outcome.CANCELLED
        assert end.error is not None
        assert (end.error.reason, end.error.message) == (FailureReason.CANCELLED, "not wanted")


async def test_cancelling_a_step_in_a_thread_tells_it() -> None:
    def obedient(context: Context) -> str:
        assert context.wait_cancelled(10)
        return "stopped"

    async with working(Scripted(None, obedient)) as found:
        attempt = await found.dispatcher.assign("scripted:t")
        await found.dispatcher.began(attempt)
        await found.dispatcher.send(CancelAttempt(attempt))
        assert (await found.dispatcher.ended(attempt)).outcome is Outcome.CANCELLED


async def test_an_attempt_cancelled_before_its_first_turn_does_not_run() -> None:
    workflow = Scripted()
    async with working(workflow, slots=4) as found:
        runner = found.runtime._runner
        begin = runner.begin

        def begin_and_cancel(assignment: Any, delivery: Any) -> None:
            begin(assignment, delivery)
            runner.cancel(assignment.attempt, "at once")

        runner.begin = begin_and_cancel  # type: ignore[method-assign]
        end = await ended(found, "scripted:a")
        assert end.outcome is Outcome.CANCELLED
        assert workflow.ran == []


async def test_cancelling_what_is_not_held_is_fine() -> None:
    async with working(Scripted()) as found:
        await found.dispatcher.send(CancelAttempt("run/a/7"))
        assert (await ended(found, "scripted:a")).outcome is Outcome.SUCCEEDED
        assert [event.attempt for event in found.dispatcher.of(StepFinished)] == ["run/a/1"]

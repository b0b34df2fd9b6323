"""The slots of a worker: no more steps run at once than it has, and none counts before it runs."""

import asyncio
import contextlib
import threading
import time
from typing import Any
from uuid import uuid4

import pytest

from ganger import Context, Ganger, RunCancelled
from ganger.slots import Slot, Slots
from ganger.testing import Fleet
from ganger_broker.messages import Outcome, StepFinished, StepReturned, StepStarted, StepWaits
from ganger_broker.to_worker import CancelAttempt
from tests.unit.fake_dispatcher import working
from tests.unit.steps import Scripted

PATIENCE = 20.0


# ── one at a time ─────────────────────────────────────────────────────────────────────


def slot_of(slots: Slots, words: list[int] | None = None, *, stops: bool = False) -> Slot:
    return Slot(slots, (words if words is not None else []).append, lambda: stops)


async def test_slots_are_given_in_turn() -> None:
    slots = Slots(1)
    first, second, third = (slot_of(slots) for _ in range(3))
    for slot in (first, second, third):
        slot.ask()
    assert [slot.has for slot in (first, second, third)] == [True, False, False]
    second.give()  # it leaves the queue
    first.give()
    assert [slot.has for slot in (first, second, third)] == [False, False, True]
    third.give()
    third.give()
    assert slots.free == 1


async def test_what_a_step_leaves_behind_takes_no_slot_when_it_has_ended() -> None:
    slots, words = Slots(1), []  # type: tuple[Slots, list[int]]
    slot = slot_of(slots, words)
    slot.ask()
    waits, ends = asyncio.Event(), asyncio.Event()

    async def left_behind() -> None:
        async with slot.lent():
            waits.set()
            await ends.wait()
        async with slot.lent():
            pass

    task = asyncio.create_task(left_behind())
    await waits.wait()
    slot.end()
    ends.set()
    await task
    assert (slot.has, slots.free, words) == (False, 1, [1])


async def test_a_slot_is_asked_for_again_as_soon_as_no_branch_waits() -> None:
    slots, words = Slots(1), []  # type: tuple[Slots, list[int]]
    slot, other = slot_of(slots, words), slot_of(slots)
    slot.ask()
    ends = [asyncio.Event(), asyncio.Event()]

    async def branch(end: asyncio.Event) -> None:
        async with slot.lent():
            await end.wait()

    first = asyncio.create_task(branch(ends[0]))
    await asyncio.sleep(0)
    other.ask()
    assert (slot.has, other.has, words) == (False, True, [1])
    ends[0].set()
    await asyncio.sleep(0.01)
    assert (first.done(), words) == (False, [1, 2])  # it waits for the slot
    second = asyncio.create_task(branch(ends[1]))
    await asyncio.sleep(0.01)
    assert (first.done(), words) == (True, [1, 2, 3])  # and needs none while another branch waits
    ends[1].set()
    await asyncio.sleep(0.01)
    assert (second.done(), words) == (False, [1, 2, 3, 4])
    other.give()
    await second
    assert slot.has


async def test_what_interrupts_a_branch_is_put_off_until_it_has_the_slot() -> None:
    slots = Slots(1)
    slot, other = slot_of(slots), slot_of(slots)
    slot.ask()

    async def branch() -> None:
        async with asyncio.timeout(0.01), slot.lent():
            other.ask()

    task = asyncio.create_task(branch())
    await asyncio.sleep(0.05)
    assert not task.done()
    other.give()
    with pytest.raises(TimeoutError):
        await task
    assert slot.has


async def test_who_is_to_stop_does_not_wait_and_nobody_else_begins_beside_it() -> None:
    slots = Slots(1)
    slot, other, third = slot_of(slots, stops=True), slot_of(slots), slot_of(slots)
    slot.ask()
    async with slot.lent():
        other.ask()
        third.ask()
    assert (slot.has, other.has, slots.free) == (True, True, -1)
    other.give()
    assert not third.has
    slot.give()
    assert third.has


# ── an attempt that finds none ────────────────────────────────────────────────────────


async def test_an_attempt_without_a_slot_is_not_started_and_given_back() -> None:
    workflow = Scripted()
    async with working(workflow, slots=1) as found:
        dispatcher = found.dispatcher
        for number in (1, 2):
            await dispatcher.assign("scripted:wait", f"r{number}/wait/1")
        [back] = await dispatcher.hear(StepReturned)
        assert back.attempt == "r2/wait/1"
        assert [event.attempt for event in dispatcher.of(StepStarted)] == ["r1/wait/1"]
        assert len(found.transport.acknowledged) == 2  # words to the worker come behind it
        assert found.runtime.runner.held == ["r1/wait/1"]
        await dispatcher.assign("scripted:wait", "r2/wait/1")  # a late duplicate
        workflow.release.set()
        await dispatcher.ended("r1/wait/1")
        assert workflow.ran == ["r1/wait/1"]


async def test_an_attempt_whose_slot_is_free_in_a_moment_starts_then() -> None:
    workflow = Scripted()
    async with working(workflow, slots=1) as found:
        dispatcher = found.dispatcher
        await dispatcher.assign("scripted:wait", "r1/wait/1")
        await dispatcher.assign("scripted:a", "r2/a/1")
        await dispatcher.began("r1/wait/1")
        workflow.release.set()
        await dispatcher.ended("r2/a/1")
        told = [(type(event), event.attempt) for event in dispatcher.events[1:]]  # type: ignore[union-attr]
        assert told == [
            (StepStarted, "r1/wait/1"),
            (StepFinished, "r1/wait/1"),
            (StepStarted, "r2/a/1"),
            (StepFinished, "r2/a/1"),
        ]


@pytest.mark.parametrize("action", ["a", "t"])
async def test_an_attempt_is_cancelled_while_it_has_no_slot(action: str) -> None:
    workflow = Scripted()
    async with working(workflow, slots=1) as found:
        dispatcher = found.dispatcher
        await dispatcher.assign("scripted:wait", "r1/wait/1")
        attempt = await dispatcher.assign(f"scripted:{action}", f"r2/{action}/1")
        await dispatcher.send(CancelAttempt(attempt, "not needed"))
        end = await dispatcher.ended(attempt)
        assert end.outcome is Outcome.CANCELLED
        assert dispatcher.of(StepReturned) == []
        assert workflow.ran == ["r1/wait/1"]


# ── with the dispatcher, in virtual time ──────────────────────────────────────────────


@pytest.fixture
def app() -> Any:
    made = Ganger(broker_url=f"memory://{uuid4().hex}")
    yield made
    made.close()


class Busy:
    """How many steps run at once: now, and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Any:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1


def declare(app: Ganger, busy: Busy, **options: Any) -> None:
    """``child`` and ``other`` last as many seconds as their input says."""

    def lasting(name: str) -> None:
        @app.task(name=name, **options)
        async def sleep(input: dict[str, Any], context: Context) -> str:
            with busy.running():
                await asyncio.sleep(input["for"])
            return context.worker.id()

    lasting("child")
    lasting("other")


def test_a_step_that_waits_for_its_workers_slot_goes_elsewhere_and_is_not_timed_out(
    fleet: Fleet, app: Ganger
) -> None:
    """Together with required labels, and with the worker of the parent lost in the middle."""
    busy = Busy()
    declare(app, busy, timeout="5s", desired_worker_labels={"gpu": 1})

    @app.task(timeout="5m", desired_worker_labels={"home": "yes"})
    async def parent(input: dict[str, Any], context: Context) -> None:
        ref = await context.aio.spawn_workflow("child", {"for": 1})
        await ref.result()
        with busy.running():
            await asyncio.sleep(30)

    fleet.worker("w", app, slots=1, labels={"gpu": 1, "home": "yes"})
    run = fleet.start("parent")
    fleet.advance("0.5s")
    others = [fleet.start("other", {"for": 0.1}) for _ in range(3)]
    fleet.advance("20s")
    assert [other.status for other in others].count("running") >= 2
    assert all(step.failures == 0 for other in others for step in other.steps.values())
    fleet.worker("plain", app, slots=1)
    fleet.advance("2s")
    fleet.worker("gpu", app, slots=1, labels={"gpu": 1})
    fleet.advance("5s")
    assert [other.status for other in others] == ["succeeded"] * 3
    fleet.kill("w")
    fleet.advance("15s")
    fleet.worker("w2", app, slots=1, labels={"gpu": 1, "home": "yes"})
    fleet.advance("60s")
    assert run.status == "succeeded"
    assert busy.most == 2  # on the two workers with a GPU


def test_two_branches_of_a_step_wait_for_children_in_one_slot(fleet: Fleet, app: Ganger) -> None:
    busy = Busy()
    declare(app, busy, timeout="5m")

    @app.task(timeout="3m")
    async def parent(input: dict[str, Any], context: Context) -> str:
        async def branch(key: str, after: float, lasts: float) -> None:
            await asyncio.sleep(after)
            ref = await context.aio.spawn_workflow("child", {"for": lasts}, key=key)
            await ref.result()

        await asyncio.gather(branch("a", 0, 1), branch("b", 3, 2))
        return "both"

    fleet.worker("w", app, slots=1)
    run = fleet.start("parent")
    fleet.advance("0.2s")
    fleet.start("other", {"for": 6})
    fleet.advance("20s")
    assert run.output == {"parent": "both"}
    assert busy.most == 1


def test_a_time_out_around_a_wait_leaves_the_step_its_slot(fleet: Fleet, app: Ganger) -> None:
    busy = Busy()
    declare(app, busy)

    @app.task(timeout="90s")
    async def parent(input: dict[str, Any], context: Context) -> str:
        ref = await context.aio.spawn_workflow("child", {"for": 1}, key="a")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await ref.result()
        with busy.running():
            await asyncio.sleep(4)
        ref = await context.aio.spawn_workflow("child", {"for": 1}, key="b")
        await ref.result()
        return "went on"

    fleet.worker("w", app, slots=1)
    run = fleet.start("parent")
    fleet.advance("0.5s")
    fleet.start("other", {"for": 10})
    fleet.advance("40s")
    assert run.output == {"parent": "went on"}
    assert busy.most == 1


async def test_a_thread_that_is_cancelled_while_it_waits_keeps_its_slot_to_the_end(
    app: Ganger,
) -> None:
    busy, woke = Busy(), threading.Event()
    declare(app, busy)

    @app.task(name="never", desired_worker_labels={"nobody": "has"})
    def never(input: dict[str, Any], context: Context) -> None: ...

    @app.task()
    def parent(input: dict[str, Any], context: Context) -> None:
        with contextlib.suppress(BaseException):
            context.spawn_workflow("never").sync_result()
        with busy.running():
            woke.set()
            time.sleep(0.7)  # it does not look

    worker = app.worker("w", slots=1)
    for workflow in app.workflows.values():
        worker.register_workflow(workflow)
    async with worker:
        ref = await app.admin.aio.run_workflow("parent", {})
        await asyncio.sleep(0.3)  # it waits for its child by now
        await app.admin.aio.cancel(ref.run_id)
        with pytest.raises(RunCancelled):
            await ref.result(PATIENCE)
        assert await asyncio.to_thread(woke.wait, PATIENCE)
        other = await app.admin.aio.run_workflow("other", {"for": 0.01})
        assert await other.result(PATIENCE) == {"other": worker.id}
        await app.admin.aio.close()
    assert busy.most == 1


async def test_the_words_of_a_step_that_waits_say_when_it_needs_a_slot_again() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def waits(context: Context) -> None:
        async with context.aio._waiting():
            entered.set()
            await go_on.wait()

    workflow = Scripted(waits)
    async with working(workflow, slots=1) as found:
        first = await found.dispatcher.assign("scripted:a")
        await asyncio.wait_for(entered.wait(), PATIENCE)
        other = await found.dispatcher.assign("scripted:wait", "other/wait/1")
        await found.dispatcher.began(other)
        go_on.set()
        await found.dispatcher.hear(StepWaits, 2)  # before it has one
        assert found.dispatcher.of(StepFinished) == []
        workflow.release.set()
        await found.dispatcher.ended(first)
        assert [word.seq for word in found.dispatcher.of(StepWaits)] == [1, 2]

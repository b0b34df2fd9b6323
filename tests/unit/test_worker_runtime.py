"""A worker on the wire: registering, assignments, lost connections, leaving."""

import asyncio
import os
from typing import Any

import pytest

from ganger import Context, __version__, runtime
from ganger.live_labels import LiveLabels
from ganger.runtime import WorkerRuntime
from ganger_broker.codec import encode
from ganger_broker.errors import InvalidSetting, InvalidWorkflow, TransportError
from ganger_broker.memory import MemoryBroker, MemoryTransport
from ganger_broker.messages import (
    LabelsChanged,
    Outcome,
    StepFinished,
    StepStarted,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_broker.settings import Settings
from ganger_broker.to_worker import Refused, RegisterAgain
from ganger_broker.topology import Queue
from ganger_broker.transport import Delivery, Published
from tests.unit.fake_dispatcher import PATIENCE, Working, working
from tests.unit.steps import Scripted


def attempts_of(found: Working, kind: Any) -> list[str]:
    return [event.attempt for event in found.dispatcher.of(kind)]


# ── registering ───────────────────────────────────────────────────────────────────────


async def test_the_first_thing_it_says_is_who_it_is() -> None:
    async with working(Scripted(), slots=3, labels={"memory": 512}) as found:
        first = found.dispatcher.events[0]
        assert isinstance(first, WorkerRegistered)
        assert (first.worker, first.name, first.slots) == ("w", "worker", 3)
        assert (first.labels, first.label_seq) == ({"memory": 512}, 0)
        assert [step.name for step in first.workflows[0].steps] == ["a", "t", "wait"]
        assert (first.attempts, first.draining) == ([], False)
        assert (first.pid, first.version) == (os.getpid(), __version__)
        assert first.host
        assert first.incarnation == found.runtime.incarnation


async def test_each_incarnation_has_a_name_of_its_own() -> None:
    async with working(Scripted()) as one, working(Scripted()) as other:
        assert one.runtime.incarnation != other.runtime.incarnation


@pytest.mark.parametrize("cause", ["told", "reconnected"])
async def test_it_registers_again_with_all_that_is_so_now(cause: str) -> None:
    async with working(Scripted(), labels={"model": "a"}) as found:
        dispatcher = found.dispatcher
        attempt = await dispatcher.assign("scripted:wait")
        await dispatcher.began(attempt)
        found.labels.upsert({"model": "b"})
        if cause == "told":
            await dispatcher.send(RegisterAgain())
        else:
            await found.transport.lose_connection()
        again = (await dispatcher.hear(WorkerRegistered, 2))[1]
        assert again.incarnation == found.runtime.incarnation
        assert (again.labels, again.label_seq) == ({"model": "b"}, 1)
        assert again.attempts == [attempt]
        assert not again.draining


async def test_an_idle_worker_does_not_wait_long_for_a_broker_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "LEAVE_PATIENCE", 0.05)
    async with working(Scripted(), grace=2 * PATIENCE) as found:
        found.transport.gate.clear()
        found.runtime.stop()
        async with asyncio.timeout(PATIENCE):
            await found.running


async def test_a_worker_that_is_refused_for_good_ends_and_says_why() -> None:
    async with working(Scripted()) as found:
        await found.dispatcher.send(Refused("what it said is odd"))
        await found.dispatcher.ended(await found.dispatcher.assign("scripted:a"))
        await found.dispatcher.send(Refused("another definition", for_good=True))
        with pytest.raises(InvalidWorkflow, match="another definition"):
            await asyncio.wait_for(asyncio.shield(found.running), PATIENCE)


async def test_a_refusal_of_another_process_of_its_id_is_not_heeded() -> None:
    async with working(Scripted()) as found:
        await found.dispatcher.send(Refused("you are two", True, "another incarnation"))
        await found.dispatcher.ended(await found.dispatcher.assign("scripted:a"))
        await found.dispatcher.send(Refused("you are two", True, found.runtime.incarnation))
        with pytest.raises(InvalidSetting, match="you are two"):
            await asyncio.wait_for(asyncio.shield(found.running), PATIENCE)


async def test_a_queue_that_was_deleted_is_made_again_and_it_registers_again() -> None:
    async with working(Scripted()) as found:
        dispatcher = found.dispatcher
        dispatcher.broker.delete_queue(dispatcher.topology.worker_queue("w"))
        await dispatcher.hear(WorkerRegistered, 2)
        end = await dispatcher.ended(await dispatcher.assign("scripted:a"))
        assert end.outcome is Outcome.SUCCEEDED


async def test_a_worker_the_broker_refuses_ends_with_the_reason() -> None:
    broker, settings = MemoryBroker(), Settings.load(broker_url="memory://")
    other = MemoryTransport(broker)
    await other.connect()
    await other.declare([Queue(settings.topology().events, {"x-queue-type": "stream"})])
    runtime = WorkerRuntime(
        settings,
        MemoryTransport(broker),
        worker_id="w",
        name="w",
        slots=1,
        labels=LiveLabels(),
        workflows=[],
        steps={},
    )
    with pytest.raises(TransportError, match=r"ganger\.events"):
        await runtime.run(1)
    await other.close()


# ── assignments ───────────────────────────────────────────────────────────────────────


async def test_an_assignment_is_acknowledged_when_its_start_is_confirmed() -> None:
    async with working(Scripted()) as found:
        dispatcher = found.dispatcher
        found.transport.gate.clear()
        published = len(found.transport.published)
        attempt = await dispatcher.assign("scripted:wait")
        await found.transport.until(lambda: len(found.transport.published) > published)
        assert found.transport.acknowledged == []
        found.transport.gate.set()
        await dispatcher.began(attempt)
        await found.transport.until(lambda: len(found.transport.acknowledged) == 1)
        # long before the step has ended
        assert attempts_of(found, StepFinished) == []


async def test_an_attempt_that_comes_again_is_acknowledged_and_not_run() -> None:
    workflow = Scripted()
    async with working(workflow) as found:
        dispatcher = found.dispatcher
        attempt = await dispatcher.assign("scripted:wait")
        await dispatcher.began(attempt)
        await dispatcher.assign("scripted:wait", attempt)  # while it is held
        workflow.release.set()
        await dispatcher.ended(attempt)
        await dispatcher.assign("scripted:wait", attempt)  # when it has ended
        last = await dispatcher.assign("scripted:a", "run/a/9")
        await dispatcher.ended(last)
        assert workflow.ran == [attempt, last]
        assert attempts_of(found, StepStarted) == [attempt, last]
        assert len(found.transport.acknowledged) == 4


async def test_an_assignment_of_another_incarnation_is_acknowledged_and_not_run() -> None:
    workflow = Scripted()
    async with working(workflow) as found:
        dispatcher = found.dispatcher
        await dispatcher.assign("scripted:a", "run/a/1", incarnation="the-one-before")
        last = await dispatcher.assign("scripted:a", "run/a/2")
        await dispatcher.ended(last)
        assert workflow.ran == [last]
        assert len(found.transport.acknowledged) == 2


async def test_many_steps_share_bodies() -> None:
    async with working(Scripted(), slots=200) as found:
        dispatcher = found.dispatcher
        for number in range(200):
            await dispatcher.assign("scripted:a", f"r{number}/a/1")
        await dispatcher.hear(StepFinished, 200)
        assert len(attempts_of(found, StepStarted)) == 200
        assert len(dispatcher.bodies) < 400


@pytest.mark.parametrize("body", [b"\xc1", encode({"type": "no_such_message"}), encode([1])])
async def test_a_message_it_cannot_read_is_dead_lettered_with_its_reason(body: bytes) -> None:
    dead: list[Delivery] = []
    came = asyncio.Event()

    def receive(delivery: Delivery) -> None:
        dead.append(delivery)
        came.set()

    async with working(Scripted()) as found:
        dispatcher = found.dispatcher
        reader = MemoryTransport(dispatcher.broker)
        await reader.connect()
        await reader.consume(dispatcher.topology.dead, receive, prefetch=10, no_ack=True)
        await dispatcher.send(body)
        async with asyncio.timeout(PATIENCE):
            await came.wait()
        assert dead[0].body == body
        assert dead[0].headers["ganger-reason"] == "malformed"
        assert dead[0].headers["ganger-detail"]
        end = await dispatcher.ended(await dispatcher.assign("scripted:a"))
        assert end.outcome is Outcome.SUCCEEDED
        assert body in found.transport.acknowledged
        await reader.close()


# ── what the broker does not take ─────────────────────────────────────────────────────


@pytest.mark.parametrize("outcome", [Published.RETURNED, Published.REFUSED])
async def test_events_that_are_not_taken_are_published_again(outcome: Published) -> None:
    async with working(Scripted()) as found:
        dispatcher = found.dispatcher
        found.transport.script = [outcome, outcome]
        end = await dispatcher.ended(await dispatcher.assign("scripted:a"))
        assert end.outcome is Outcome.SUCCEEDED
        # the order may have suffered, so it says again all that is so
        await dispatcher.hear(WorkerRegistered, 2)


async def test_events_survive_that_somebody_deletes_their_queue() -> None:
    async with working(Scripted()) as found:
        dispatcher = found.dispatcher
        found.transport.gate.clear()
        attempt = await dispatcher.assign("scripted:a")
        dispatcher.broker.delete_queue(dispatcher.topology.events)
        found.transport.gate.set()
        assert (await dispatcher.ended(attempt)).outcome is Outcome.SUCCEEDED


# ── leaving ───────────────────────────────────────────────────────────────────────────


async def test_it_says_that_it_drains_then_finishes_then_leaves() -> None:
    workflow = Scripted()
    async with working(workflow) as found:
        dispatcher = found.dispatcher
        attempt = await dispatcher.assign("scripted:wait")
        await dispatcher.began(attempt)
        found.runtime.stop()
        await dispatcher.hear(WorkerDraining)
        assert attempts_of(found, StepFinished) == []
        await dispatcher.send(RegisterAgain())
        assert (await dispatcher.hear(WorkerRegistered, 2))[1].draining
        late = await dispatcher.assign("scripted:a")  # sent before the draining was known
        await dispatcher.ended(late)
        workflow.release.set()
        await found.left()
        end = await dispatcher.ended(attempt)
        assert (end.outcome, end.output) == (Outcome.SUCCEEDED, "released")
        assert isinstance(dispatcher.events[-1], WorkerLeft)


async def test_what_runs_when_the_grace_is_over_is_left_to_others() -> None:
    cleaned_up: list[str] = []

    async def hang(context: Context) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned_up.append(context.attempt_id())

    async with working(Scripted(hang), grace=0.05) as found:
        dispatcher = found.dispatcher
        attempt = await dispatcher.assign("scripted:a")
        await dispatcher.began(attempt)
        found.runtime.stop()
        await found.left()
        assert cleaned_up == [attempt]
        assert attempts_of(found, StepFinished) == []  # it is not said to have been cancelled


@pytest.mark.parametrize("action", ["scripted:wait", "scripted:t"])
async def test_a_second_word_forces(action: str) -> None:
    def obedient(context: Context) -> bool:
        return context.wait_cancelled(PATIENCE)

    async with working(Scripted(None, obedient), grace=3600) as found:
        dispatcher = found.dispatcher
        await dispatcher.began(await dispatcher.assign(action))
        found.runtime.stop()
        await dispatcher.hear(WorkerDraining)
        found.runtime.stop(force=True)
        await found.left()
        assert attempts_of(found, StepFinished) == []


async def test_all_that_was_said_is_out_when_it_has_left() -> None:
    async with working(Scripted()) as found:
        dispatcher = found.dispatcher
        found.transport.gate.clear()
        attempt = await dispatcher.assign("scripted:a")
        found.labels.upsert({"last": "word"})
        found.runtime.stop()
        found.transport.gate.set()
        await found.left()
        assert (await dispatcher.ended(attempt)).outcome is Outcome.SUCCEEDED
        assert dispatcher.of(LabelsChanged)[0].upsert == {"last": "word"}
        assert isinstance(dispatcher.events[-1], WorkerLeft)


async def test_a_broker_that_is_away_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganger.runtime.LEAVE_PATIENCE", 0.05)
    async with working(Scripted(), grace=0.05) as found:
        found.transport.gate.clear()
        found.runtime.stop()
        async with asyncio.timeout(PATIENCE):
            await found.running
        assert found.dispatcher.of(WorkerLeft) == []


async def test_it_can_be_stopped_while_it_cannot_connect() -> None:
    class Unreachable(MemoryTransport):
        async def connect(self) -> None:
            await asyncio.get_running_loop().create_future()

    runtime = WorkerRuntime(
        Settings.load(broker_url="memory://"),
        Unreachable(MemoryBroker()),
        worker_id="w",
        name="w",
        slots=1,
        labels=LiveLabels(),
        workflows=[],
        steps={},
    )
    running = asyncio.create_task(runtime.run(PATIENCE))
    runtime.stop()
    async with asyncio.timeout(PATIENCE):
        await running
    assert not runtime.ready.is_set()


async def test_a_step_larger_than_one_trigger_may_be_is_taken() -> None:
    async def measure(context: Context) -> int:
        return len(context.step_output("first")) + len(context.step_output("second"))

    async with working(Scripted(measure), max_message_bytes=1024) as found:
        attempt = await found.dispatcher.assign(
            "scripted:a", parents={"first": "x" * 900, "second": "y" * 900}
        )
        assert (await found.dispatcher.ended(attempt)).output == 1800

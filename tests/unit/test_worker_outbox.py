"""The outbox: in order, many events in a body, nothing forgotten."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ganger.outbox import MAX_BODY_EVENTS, MAX_IN_FLIGHT, Outbox
from ganger_broker.codec import decode_events, encode
from ganger_broker.errors import GangerError, TransportClosed
from ganger_broker.messages import Heartbeat
from ganger_broker.transport import Delivery


def beat(name: str) -> Heartbeat:
    return Heartbeat("w", "i", [name])


class Wire:
    """Takes bodies; confirms them when the gate is open."""

    def __init__(self) -> None:
        self.bodies: list[list[str]] = []
        self.sizes: list[int] = []
        self.settled: list[list[Delivery]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: BaseException | None = None
        self.came = asyncio.Event()

    async def publish(self, body: bytes) -> None:
        events = decode_events(body, 10**9)
        self.bodies.append([event.attempts[0] for event in events if isinstance(event, Heartbeat)])
        self.sizes.append(len(body))
        self.came.set()
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails

    @property
    def names(self) -> list[str]:
        return [name for body in self.bodies for name in body]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.came.clear()
                await self.came.wait()


@asynccontextmanager
async def outbox_on(wire: Wire, max_body_bytes: int = 10**6) -> AsyncIterator[Outbox]:
    outbox = Outbox(wire.publish, wire.settled.append, max_body_bytes)
    running = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_is_said_in_one_turn_shares_a_body_in_order() -> None:
    wire = Wire()
    async with outbox_on(wire) as outbox:
        for number in range(5):
            outbox.append(beat(str(number)))
        outbox.append(encode(beat("packed")))
        await outbox.say(beat("last"))
    assert wire.bodies == [["0", "1", "2", "3", "4", "packed", "last"]]


async def test_bodies_are_bounded_in_events_and_in_bytes() -> None:
    wire = Wire()
    async with outbox_on(wire, max_body_bytes=20_000) as outbox:
        for number in range(MAX_BODY_EVENTS + 1):
            outbox.append(beat(f"{number:03}"))
        outbox.append(beat("x" * 30_000))  # alone larger than a body is to be
        await outbox.say(beat("last"))
    assert max(map(len, wire.bodies)) == MAX_BODY_EVENTS or max(wire.sizes[:-2]) <= 20_010
    assert wire.names[: MAX_BODY_EVENTS + 1] == [f"{n:03}" for n in range(MAX_BODY_EVENTS + 1)]
    assert ["x" * 30_000] in wire.bodies
    assert wire.names[-1] == "last"


async def test_while_bodies_are_on_their_way_events_gather() -> None:
    wire = Wire()
    wire.gate.clear()
    async with outbox_on(wire) as outbox:
        for number in range(MAX_IN_FLIGHT):
            outbox.append(beat(f"body {number}"))
            await wire.until(lambda number=number: len(wire.bodies) == number + 1)  # type: ignore[misc]
        for number in range(10):
            outbox.append(beat(str(number)))
        last = asyncio.create_task(outbox.say(beat("last")))
        for _ in range(5):  # turns of the loop in which a body too many would go out
            await asyncio.sleep(0)
        assert len(wire.bodies) == MAX_IN_FLIGHT
        wire.gate.set()
        await last
    assert wire.bodies[MAX_IN_FLIGHT:] == [[*map(str, range(10)), "last"]]


async def test_a_delivery_is_settled_when_its_event_is_confirmed() -> None:
    wire = Wire()
    wire.gate.clear()
    deliveries = [Delivery(b"", "k", tag) for tag in range(2)]
    async with outbox_on(wire) as outbox:
        for delivery in deliveries:
            outbox.append(beat("x"), delivery=delivery)
        last = asyncio.create_task(outbox.say(beat("last")))
        await wire.until(lambda: len(wire.bodies) == 1)
        assert wire.settled == []
        wire.gate.set()
        await last
    assert wire.settled == [deliveries]


async def test_threads_append_in_order() -> None:
    wire = Wire()
    async with outbox_on(wire) as outbox:

        def talk() -> None:
            for number in range(300):
                outbox.append(beat(str(number)))

        thread = threading.Thread(target=talk)
        thread.start()
        await wire.until(lambda: len(wire.names) == 300)
        thread.join()
    assert wire.names == [str(number) for number in range(300)]


async def test_what_can_never_be_confirmed_is_told() -> None:
    wire = Wire()
    wire.gate.clear()
    errors: list[GangerError | None] = []
    async with outbox_on(wire) as outbox:
        outbox.append(beat("on its way"), then=errors.append)
        await wire.until(lambda: len(wire.bodies) == 1)
        outbox.append(beat("waiting"), then=errors.append)
    outbox.append(beat("too late"), then=errors.append)
    assert [type(error) for error in errors] == [TransportClosed] * 3
    with pytest.raises(TransportClosed, match="the worker has left"):
        await outbox.say(beat("too late"))


async def test_an_event_that_cannot_be_packed_does_not_stop_the_others() -> None:
    wire = Wire()
    errors: list[GangerError | None] = []
    async with outbox_on(wire) as outbox:
        outbox.append(beat(object()), then=errors.append)  # type: ignore[arg-type]
        await outbox.say(beat("next"))
    assert wire.bodies == [["next"]]
    assert "cannot be packed" in str(errors[0])


async def test_a_defect_is_not_swallowed() -> None:
    wire = Wire()
    wire.fails = RuntimeError("a defect")
    outbox = Outbox(wire.publish, wire.settled.append)
    running = asyncio.create_task(outbox.run())
    with pytest.raises(TransportClosed):
        await outbox.say(beat("x"))
    with pytest.raises(RuntimeError, match="a defect"):
        await running

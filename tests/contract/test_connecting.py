"""What the port says of connecting and closing."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.transport import Outgoing, Published, Transport
from tests.inbox import Inbox

from .conftest import Bench

USES: list[Callable[[Transport], Awaitable[object]]] = [
    lambda transport: transport.publish([Outgoing("", "q", b"")]),
    lambda transport: transport.declare([]),
    lambda transport: transport.delete_queue("q"),
    lambda transport: transport.consume("q", print, prefetch=1),
]
NAMES = ["publish", "declare", "delete_queue", "consume"]


@pytest.mark.parametrize("use", USES, ids=NAMES)
async def test_closed_it_says_so(
    transport: Transport, use: Callable[[Transport], Awaitable[object]]
) -> None:
    await transport.close()

    with pytest.raises(TransportClosed):
        await use(transport)


@pytest.mark.parametrize("use", USES, ids=NAMES)
async def test_not_connected_it_says_so(
    bench: Bench, use: Callable[[Transport], Awaitable[object]]
) -> None:
    with pytest.raises(TransportError, match="connect"):
        await use(bench.unconnected())


async def test_closed_it_does_not_connect_again(transport: Transport) -> None:
    await transport.close()

    with pytest.raises(TransportClosed):
        await transport.connect()


async def test_connecting_and_closing_twice_is_fine(bench: Bench, inbox: Inbox) -> None:
    transport = await bench.transport()
    queue = bench.queue()
    await transport.connect()
    await transport.declare([queue])

    assert await transport.publish([Outgoing("", queue.name, b"")]) == [Published.CONFIRMED]
    await asyncio.gather(transport.close(), transport.close())
    await transport.close()

    other = await bench.transport()
    await other.consume(queue.name, inbox, prefetch=1)
    assert len(await inbox.wait(1)) == 1


async def test_closed_before_it_was_connected(bench: Bench) -> None:
    transport = bench.unconnected()

    await transport.close()

    with pytest.raises(TransportClosed):
        await transport.connect()

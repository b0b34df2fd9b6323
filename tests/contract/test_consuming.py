"""What the port says of consuming, acknowledging and giving back."""

import asyncio

import pytest

from ganger_broker.errors import TransportError
from ganger_broker.topology import Binding
from ganger_broker.transport import Delivery, Outgoing, Published, Transport
from tests.inbox import PATIENCE, Inbox

from .conftest import Bench


async def fill(transport: Transport, queue: str, count: int) -> list[bytes]:
    bodies = [str(number).encode() for number in range(count)]
    outcomes = await transport.publish([Outgoing("", queue, body) for body in bodies])
    assert outcomes == [Published.CONFIRMED] * count
    return bodies


async def rest(bench: Bench, queue: str) -> list[Delivery]:
    """All that is in a queue, when those who held something of it are gone."""
    other, inbox = await bench.transport(), Inbox()
    await other.publish([Outgoing("", queue, b"end")])
    subscription = await other.consume(queue, inbox, prefetch=1000)
    await inbox.wait_until(lambda: b"end" in inbox.bodies)
    await subscription.cancel()
    return [delivery for delivery in inbox.deliveries if delivery.body != b"end"]


async def test_nothing_is_handed_over_before_consume_has_returned(
    bench: Bench, transport: Transport
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    bodies = await fill(transport, queue.name, 50)
    returned = False
    too_early = []
    came = Inbox()

    def on_delivery(delivery: Delivery) -> None:
        if not returned:
            too_early.append(delivery)
        came(delivery)

    await transport.consume(queue.name, on_delivery, prefetch=100)
    returned = True

    await came.wait(50)
    assert too_early == []
    assert came.bodies == bodies


async def test_a_missing_queue_is_named(bench: Bench, transport: Transport, inbox: Inbox) -> None:
    missing = bench.queue("missing").name

    with pytest.raises(TransportError, match=missing):
        await transport.consume(missing, inbox, prefetch=1)

    queue = bench.queue()
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=1)
    await fill(transport, queue.name, 1)
    assert len(await inbox.wait(1)) == 1


async def test_at_most_prefetch_are_unacknowledged(bench: Bench, transport: Transport) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    limited, other = Inbox(), Inbox()
    subscription = await transport.consume(queue.name, limited, prefetch=3)
    await fill(transport, queue.name, 5)
    await limited.wait(3)

    # What the first may not have, the second gets.
    await transport.consume(queue.name, other, prefetch=10)
    await other.wait(2)
    assert (limited.bodies, other.bodies) == ([b"0", b"1", b"2"], [b"3", b"4"])

    subscription.ack(limited.deliveries[:2])
    await fill(transport, queue.name, 20)
    await asyncio.gather(limited.wait(5), other.wait(2 + 8))
    assert len(limited.deliveries) == 5


async def test_prefetch_is_each_consumers_own(bench: Bench, transport: Transport) -> None:
    queues = [bench.queue("one"), bench.queue("two")]
    await transport.declare(queues)
    inboxes = [Inbox(), Inbox()]
    for queue, inbox in zip(queues, inboxes, strict=True):
        await transport.consume(queue.name, inbox, prefetch=2)
        await fill(transport, queue.name, 2)

    for inbox in inboxes:
        assert len(await inbox.wait(2)) == 2


async def test_without_acknowledgement_prefetch_does_not_count(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    subscription = await transport.consume(queue.name, inbox, prefetch=1, no_ack=True)
    bodies = await fill(transport, queue.name, 30)

    subscription.ack(await inbox.wait(30))  # passed over

    assert inbox.bodies == bodies
    await transport.close()
    assert await rest(bench, queue.name) == []


@pytest.mark.parametrize(
    "acked",
    [
        [],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [0, 1, 2],
        [9, 8, 7],
        [0, 2, 4, 6, 8],
        [1, 3, 5, 7, 9],
        [5, 0, 9, 1, 4],
        [9, 0, 8, 1, 7, 2, 6, 3, 5],
    ],
    ids=str,
)
async def test_what_was_not_acknowledged_comes_again(
    bench: Bench, transport: Transport, inbox: Inbox, acked: list[int]
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    bodies = await fill(transport, queue.name, 10)
    subscription = await transport.consume(queue.name, inbox, prefetch=10)
    deliveries = await inbox.wait(10)
    assert not any(delivery.redelivered for delivery in deliveries)

    for position in acked:
        subscription.ack([deliveries[position]])
    await transport.close()

    again = await rest(bench, queue.name)
    assert [delivery.body for delivery in again] == [
        body for position, body in enumerate(bodies) if position not in acked
    ]
    assert all(delivery.redelivered for delivery in again)


async def test_acknowledgements_over_several_turns_of_the_loop(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await fill(transport, queue.name, 12)
    subscription = await transport.consume(queue.name, inbox, prefetch=12)
    deliveries = await inbox.wait(12)

    for positions in ([3], [0, 1], [7, 2], [4, 8], [5]):
        subscription.ack([deliveries[position] for position in positions])
        await transport.publish([])
        await fill(transport, bench.queue().name, 0)
        await transport.declare([queue])  # a round trip

    await transport.close()
    again = await rest(bench, queue.name)
    assert [delivery.body for delivery in again] == [b"6", b"9", b"10", b"11"]


async def test_acknowledging_again_is_passed_over(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    subscription = await transport.consume(queue.name, inbox, prefetch=10)
    await fill(transport, queue.name, 3)
    deliveries = list(await inbox.wait(3))

    subscription.ack(deliveries[1:2])
    subscription.ack([*deliveries[1:2], *deliveries])
    subscription.requeue(deliveries)
    await transport.declare([queue])  # a round trip
    subscription.ack(deliveries)

    await fill(transport, queue.name, 1)
    assert [d.redelivered for d in (await inbox.wait(4))[3:]] == [False]
    await transport.close()
    assert [delivery.body for delivery in await rest(bench, queue.name)] == [b"0"]


async def test_what_is_given_back_comes_again_first(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await fill(transport, queue.name, 4)
    subscription = await transport.consume(queue.name, inbox, prefetch=2)
    first, second = await inbox.wait(2)

    subscription.requeue([first])
    deliveries = await inbox.wait(3)
    subscription.ack([second])
    deliveries = await inbox.wait(4)

    assert [d.body for d in deliveries] == [b"0", b"1", b"0", b"2"]
    assert [d.redelivered for d in deliveries] == [False, False, True, False]


async def test_given_back_and_acknowledged_at_once(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await fill(transport, queue.name, 6)
    subscription = await transport.consume(queue.name, inbox, prefetch=6)
    deliveries = list(await inbox.wait(6))

    subscription.requeue([deliveries[0], deliveries[3]])
    subscription.ack([deliveries[1], deliveries[2], deliveries[4]])

    again = (await inbox.wait(8))[6:]
    assert [(d.body, d.redelivered) for d in again] == [(b"0", True), (b"3", True)]
    subscription.ack(again)
    await transport.close()
    assert [delivery.body for delivery in await rest(bench, queue.name)] == [b"5"]


async def test_consumers_of_one_queue_take_turns(bench: Bench, transport: Transport) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    inboxes = [Inbox(), Inbox()]
    for inbox in inboxes:
        await transport.consume(queue.name, inbox, prefetch=10)

    await fill(transport, queue.name, 6)

    for inbox in inboxes:
        assert len(await inbox.wait(3)) == 3


async def test_a_cancelled_consumer_may_settle_what_it_has(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    subscription = await transport.consume(queue.name, inbox, prefetch=3)
    await fill(transport, queue.name, 5)
    deliveries = list(await inbox.wait(3))

    await subscription.cancel()
    await subscription.cancel()
    subscription.ack(deliveries[:1])
    subscription.requeue(deliveries[1:2])

    other = Inbox()
    await transport.consume(queue.name, other, prefetch=10)
    await other.wait(3)
    assert sorted(other.bodies) == [b"1", b"3", b"4"]
    assert inbox.bodies == [b"0", b"1", b"2"]
    await transport.close()
    again = await rest(bench, queue.name)
    assert [delivery.body for delivery in again] == [b"1", b"2", b"3", b"4"]


async def test_closing_settles_what_a_cancelled_consumer_acknowledged_last(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    subscription = await transport.consume(queue.name, inbox, prefetch=3)
    await fill(transport, queue.name, 3)
    deliveries = await inbox.wait(3)
    await subscription.cancel()

    subscription.ack(deliveries[:2])
    await transport.close()

    assert [delivery.body for delivery in await rest(bench, queue.name)] == [b"2"]


async def test_a_failing_callback_does_not_stop_the_next_delivery(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])

    def on_delivery(delivery: Delivery) -> None:
        inbox(delivery)
        raise ValueError("a bug")

    await transport.consume(queue.name, on_delivery, prefetch=10)
    await fill(transport, queue.name, 3)

    assert [delivery.body for delivery in await inbox.wait(3)] == [b"0", b"1", b"2"]


async def test_a_consumer_whose_queue_is_deleted_comes_back(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue, exchange = bench.queue(), bench.exchange("direct")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "k")])
    subscription = await transport.consume(queue.name, inbox, prefetch=2)
    told = asyncio.Event()

    async def tell() -> None:
        told.set()

    def fail() -> None:
        raise ValueError("a bug")

    transport.on_reconnect(fail)
    transport.on_reconnect(tell)
    await fill(transport, queue.name, 2)
    old = list(await inbox.wait(2))

    await (await bench.transport()).delete_queue(queue.name)

    async with asyncio.timeout(PATIENCE):
        await told.wait()
    message = Outgoing(exchange.name, "k", b"new")
    assert await transport.publish([message]) == [Published.CONFIRMED]
    subscription.ack(old)  # of a queue that is no more: passed over
    subscription.requeue(old)
    assert [d.body for d in (await inbox.wait(3))[2:]] == [b"new"]
    await transport.close()
    assert [delivery.body for delivery in await rest(bench, queue.name)] == [b"new"]


async def test_a_consumer_comes_back_when_somebody_else_declares_its_queue(
    bench: Bench, inbox: Inbox
) -> None:
    owner, guest = await bench.transport(), await bench.transport()
    queue = bench.queue()
    await owner.declare([queue])
    await guest.consume(queue.name, inbox, prefetch=1)
    told = asyncio.Event()
    guest.on_reconnect(told.set)

    await owner.delete_queue(queue.name)
    await owner.declare([queue])

    async with asyncio.timeout(PATIENCE):
        await told.wait()
    await fill(owner, queue.name, 1)
    assert len(await inbox.wait(1)) == 1


async def test_deleting_ones_own_queue_ends_its_consumer(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue, kept = bench.queue(), bench.queue("kept")
    await transport.declare([queue, kept])
    await transport.consume(queue.name, inbox, prefetch=1)
    other = Inbox()
    await transport.consume(kept.name, other, prefetch=1)
    told = asyncio.Event()
    transport.on_reconnect(told.set)

    await transport.delete_queue(queue.name)

    # The other consumer's coming back is what a wrongly revived one would have come before.
    await (await bench.transport()).delete_queue(kept.name)
    async with asyncio.timeout(PATIENCE):
        await told.wait()
    assert await transport.publish([Outgoing("", queue.name, b"")]) == [Published.RETURNED]
    await fill(transport, kept.name, 1)
    assert len(await other.wait(1)) == 1


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_consumers_of_a_higher_priority_go_first(
    bench: Bench, transport: Transport, inbox: Inbox, queue_type: str
) -> None:
    queue, other = bench.queue(queue_type=queue_type), Inbox()
    await transport.declare([queue])
    await transport.consume(queue.name, other, prefetch=10)
    await transport.consume(queue.name, inbox, prefetch=3, priority=7)
    for body in (b"1", b"2", b"3", b"4", b"5"):
        await transport.publish([Outgoing("", queue.name, body)])
    await other.wait(2)
    assert (inbox.bodies, other.bodies) == ([b"1", b"2", b"3"], [b"4", b"5"])

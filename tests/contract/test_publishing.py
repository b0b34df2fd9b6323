"""What the port says of publishing."""

import asyncio

import pytest

from ganger_broker.errors import TransportError
from ganger_broker.topology import Binding, Queue
from ganger_broker.transport import Outgoing, Published, Transport
from tests.inbox import PATIENCE, Inbox

from .conftest import Bench

CONFIRMED, RETURNED = Published.CONFIRMED, Published.RETURNED


async def test_a_message_arrives_as_it_was_sent(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue, exchange = bench.queue(), bench.exchange("topic")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "a.*")])
    await transport.consume(queue.name, inbox, prefetch=10)
    headers = {"reason": "late", "count": 3, "share": 0.5, "nested": {"deep": [1, "two"]}}
    sent = Outgoing(
        exchange.name,
        "a.b",
        b"\x00body\xff",
        content_type="application/json",
        message_id="id-1",
        reply_to="answers",
        correlation_id="question-1",
        headers=headers,
    )

    assert await transport.publish([sent]) == [CONFIRMED]

    (came,) = await inbox.wait(1)
    assert (came.body, came.routing_key, came.content_type) == (
        b"\x00body\xff",
        "a.b",
        "application/json",
    )
    assert (came.message_id, came.reply_to, came.correlation_id) == (
        "id-1",
        "answers",
        "question-1",
    )
    assert came.headers == headers
    assert not came.redelivered


async def test_new_is_what_was_neither_sent_nor_delivered_before(
    bench: Bench, transport: Transport
) -> None:
    exchange, dead, queue = bench.exchange("fanout"), bench.queue("dead"), bench.queue("brief")
    queue = Queue(queue.name, {"x-message-ttl": 50, "x-dead-letter-exchange": exchange.name})
    await transport.declare([exchange, dead, Binding(exchange.name, dead.name, ""), queue])
    first = Inbox()
    subscription = await transport.consume(queue.name, first, prefetch=1)
    await transport.publish([Outgoing("", queue.name, b"", new=new) for new in (True, False)])

    subscription.requeue(await first.wait(1))
    subscription.ack((await first.wait(2))[1:])
    subscription.ack((await first.wait(3))[2:])
    assert [d.new for d in first.deliveries] == [True, False, False]

    await subscription.cancel()
    buried = Inbox()
    await transport.consume(dead.name, buried, prefetch=1)
    await transport.publish([Outgoing("", queue.name, b"late", new=True)])
    (came,) = await buried.wait(1)
    assert (came.body, came.new) == (b"late", False)


async def test_the_default_exchange_goes_by_the_queues_name(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=10)

    assert await transport.publish([Outgoing("", queue.name, b"x")]) == [CONFIRMED]

    (came,) = await inbox.wait(1)
    assert came.routing_key == queue.name
    assert came.content_type == "application/msgpack"
    assert (came.reply_to, came.correlation_id, came.headers) == (None, None, {})


async def test_without_an_id_each_message_is_given_its_own(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=10)

    await transport.publish([Outgoing("", queue.name, b"x"), Outgoing("", queue.name, b"y")])

    ids = {delivery.message_id for delivery in await inbox.wait(2)}
    assert len(ids) == 2
    assert None not in ids


async def test_outcomes_are_in_order(bench: Bench, transport: Transport) -> None:
    queue = bench.queue()
    missing = bench.queue("missing").name
    await transport.declare([queue])

    outcomes = await transport.publish(
        [
            Outgoing("", queue.name, b"1"),
            Outgoing("", missing, b"2"),
            Outgoing("", missing, b"3", mandatory=False),
            Outgoing("", queue.name, b"4"),
            Outgoing("", missing, b"5"),
        ]
    )

    assert outcomes == [CONFIRMED, RETURNED, CONFIRMED, CONFIRMED, RETURNED]


async def test_messages_of_one_id_have_each_its_own_outcome(
    bench: Bench, transport: Transport
) -> None:
    queue = bench.queue()
    missing = bench.queue("missing").name
    await transport.declare([queue])
    keys = [queue.name, missing, queue.name, missing, missing, queue.name]

    outcomes = await transport.publish([Outgoing("", key, b"", message_id="one") for key in keys])

    assert outcomes == [CONFIRMED, RETURNED, CONFIRMED, RETURNED, RETURNED, CONFIRMED]


async def test_a_missing_exchange_returns_its_own_messages_only(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=100)
    nowhere = bench.exchange("topic", "nowhere").name
    good = [Outgoing("", queue.name, bytes([n])) for n in range(6)]

    outcomes = await transport.publish(
        [
            *good[:3],
            Outgoing(nowhere, "k", b"", mandatory=True),
            *good[3:],
            Outgoing(nowhere, "k", b"", mandatory=False),
        ]
    )

    assert outcomes == [*[CONFIRMED] * 3, RETURNED, *[CONFIRMED] * 3, RETURNED]
    expected = {message.body for message in good}
    await inbox.wait_until(lambda: set(inbox.bodies) == expected)


async def test_a_deleted_queue_returns_its_messages(bench: Bench, transport: Transport) -> None:
    queue, exchange = bench.queue(), bench.exchange("direct")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "k")])
    message = Outgoing(exchange.name, "k", b"")
    assert await transport.publish([message]) == [CONFIRMED]

    await transport.delete_queue(queue.name)

    assert await transport.publish([message]) == [RETURNED]


async def test_order_holds_within_and_between_calls(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    inbox.acknowledge_by = await transport.consume(queue.name, inbox, prefetch=50)
    bodies = [str(number).encode() for number in range(600)]
    calls = [
        transport.publish([Outgoing("", queue.name, body) for body in bodies[at : at + 7]])
        for at in range(0, 600, 7)
    ]

    outcomes = await asyncio.gather(*calls)

    assert {outcome for call in outcomes for outcome in call} == {CONFIRMED}
    await inbox.wait(600)
    assert inbox.bodies == bodies


async def test_many_messages_in_one_call(bench: Bench, transport: Transport, inbox: Inbox) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    inbox.acknowledge_by = await transport.consume(queue.name, inbox, prefetch=500)
    bodies = [str(number).encode() for number in range(5000)]

    outcomes = await transport.publish([Outgoing("", queue.name, body) for body in bodies])

    assert outcomes == [CONFIRMED] * 5000
    await inbox.wait(5000)
    assert inbox.bodies == bodies


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 3_000_000])
async def test_bodies_of_any_size(
    bench: Bench, transport: Transport, inbox: Inbox, size: int
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=10)
    body = bytes(n % 251 for n in range(1000)) * (size // 1000) + b"x" * (size % 1000)

    assert await transport.publish([Outgoing("", queue.name, body)]) == [CONFIRMED]

    (came,) = await inbox.wait(1)
    assert came.body == body


async def test_nothing_to_publish(transport: Transport) -> None:
    assert await transport.publish([]) == []


@pytest.mark.parametrize(
    "bad",
    [
        Outgoing("", "key", b"", headers={"object": object()}),
        Outgoing("", "k" * 256, b""),
        Outgoing("", "key", b"", message_id="i" * 256),
        Outgoing("", "key", b"", headers={"long": "x" * 2**17}),
    ],
    ids=["header", "key", "id", "headers"],
)
async def test_what_cannot_be_packed_is_told_to_its_publisher_only(
    bench: Bench, transport: Transport, bad: Outgoing
) -> None:
    queue = bench.queue()
    await transport.declare([queue])

    failed, fine = await asyncio.gather(
        transport.publish([bad]),
        transport.publish([Outgoing("", queue.name, b"")]),
        return_exceptions=True,
    )

    assert isinstance(failed, TransportError)
    assert "cannot be packed" in str(failed)
    assert fine == [CONFIRMED]


async def test_giving_up_on_one_call_leaves_the_others(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue = bench.queue()
    await transport.declare([queue])
    inbox.acknowledge_by = await transport.consume(queue.name, inbox, prefetch=100)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await transport.publish([Outgoing("", queue.name, b"given up")] * 50)

    async with asyncio.timeout(PATIENCE):
        outcomes = await transport.publish([Outgoing("", queue.name, b"last")])

    assert outcomes == [CONFIRMED]
    await inbox.wait_until(lambda: b"last" in inbox.bodies)
    assert set(inbox.bodies) <= {b"given up", b"last"}

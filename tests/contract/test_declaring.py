"""What the port says of declaring and deleting."""

import pytest

from ganger_broker.errors import TransportError
from ganger_broker.topology import Binding, Exchange, QueueType, Topology
from ganger_broker.transport import Outgoing, Published, Transport
from tests.inbox import Inbox

from .conftest import Bench

CONFIRMED, RETURNED = Published.CONFIRMED, Published.RETURNED


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_the_topology_is_declared_by_everybody(bench: Bench, queue_type: QueueType) -> None:
    topology = Topology(bench.prefix, queue_type)
    items = [*topology.shared(), *topology.for_worker("w1"), *topology.for_client("c1")]
    one, other = await bench.transport(), await bench.transport()

    await one.declare(items)
    await other.declare(items)

    assert await one.publish(
        [
            Outgoing(topology.exchange, topology.trigger_key("caption"), b""),
            Outgoing(topology.exchange, topology.cancel_key("run"), b""),
            Outgoing(topology.exchange, topology.event_key("w1"), b""),
            Outgoing(topology.exchange, topology.returned_key("w1"), b""),
            Outgoing(topology.work_exchange, "w1", b""),
            Outgoing("", topology.reply_queue("c1"), b""),
            Outgoing(topology.dead, "", b""),
            Outgoing(topology.exchange, "something.else", b""),
            Outgoing(topology.work_exchange, "w2", b""),
        ]
    ) == [*[CONFIRMED] * 7, RETURNED, RETURNED]


@pytest.mark.parametrize(
    ("first", "second", "argument"),
    [
        ({"message_ttl": 1000}, {"message_ttl": 2000}, "x-message-ttl"),
        ({"message_ttl": 1000}, {}, "x-message-ttl"),
        ({}, {"expires": 60_000}, "x-expires"),
        (
            {"dead_letter_exchange": "a"},
            {"dead_letter_exchange": "b"},
            "x-dead-letter-exchange",
        ),
    ],
)
async def test_a_queue_with_other_arguments_is_named(
    bench: Bench,
    transport: Transport,
    inbox: Inbox,
    first: dict[str, object],
    second: dict[str, object],
    argument: str,
) -> None:
    queue = bench.queue(**first)
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=1)

    with pytest.raises(TransportError) as raised:
        await transport.declare([bench.queue(**second)])

    assert repr(queue.name) in str(raised.value)
    assert argument in str(raised.value)
    # and it is none the worse for it
    await transport.declare([queue, bench.queue("more")])
    assert await transport.publish([Outgoing("", queue.name, b"still")]) == [CONFIRMED]
    assert [delivery.body for delivery in await inbox.wait(1)] == [b"still"]


async def test_an_exchange_of_another_kind_is_named(bench: Bench, transport: Transport) -> None:
    exchange = bench.exchange("topic")
    await transport.declare([exchange])

    with pytest.raises(TransportError) as raised:
        await transport.declare([Exchange(exchange.name, "fanout")])

    assert repr(exchange.name) in str(raised.value)
    assert "type" in str(raised.value)


async def test_a_binding_needs_its_exchange_and_its_queue(
    bench: Bench, transport: Transport
) -> None:
    queue, exchange = bench.queue(), bench.exchange("topic")
    missing = f"{bench.prefix}.missing"
    await transport.declare([queue, exchange])

    with pytest.raises(TransportError, match=missing):
        await transport.declare([Binding(missing, queue.name, "k")])
    with pytest.raises(TransportError, match=missing):
        await transport.declare([Binding(exchange.name, missing, "k")])


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "b.a", False),
        ("#", "", True),
        ("#", "a.b", True),
        ("*", "", False),  # an empty key has no words
        ("", "", True),
        ("", "a", False),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.x.y.c", True),
        ("a.#.c", "a.x.y", False),
        ("*.#", "a", True),
        ("a.*.#.c", "a.c", False),
    ],
)
async def test_topic_patterns(
    bench: Bench, transport: Transport, pattern: str, key: str, matches: bool
) -> None:
    queue, exchange = bench.queue(), bench.exchange("topic")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, pattern)])

    outcomes = await transport.publish([Outgoing(exchange.name, key, b"")])

    assert outcomes == [CONFIRMED if matches else RETURNED]


async def test_direct_goes_by_the_whole_key(bench: Bench, transport: Transport) -> None:
    queue, exchange = bench.queue(), bench.exchange("direct")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "a.*")])

    outcomes = await transport.publish(
        [Outgoing(exchange.name, key, b"") for key in ("a.*", "a.b", "")]
    )

    assert outcomes == [CONFIRMED, RETURNED, RETURNED]


async def test_each_bound_queue_gets_one_copy(bench: Bench, transport: Transport) -> None:
    exchange = bench.exchange("fanout")
    queues = [bench.queue("one"), bench.queue("two")]
    bindings = [Binding(exchange.name, queue.name, key) for queue in queues for key in ("k", "l")]
    await transport.declare([exchange, *queues, *bindings])
    inboxes = [Inbox(), Inbox()]
    for queue, inbox in zip(queues, inboxes, strict=True):
        await transport.consume(queue.name, inbox, prefetch=10)

    await transport.publish([Outgoing(exchange.name, "any", b"1")])
    await transport.publish([Outgoing("", queue.name, b"last") for queue in queues])

    for inbox in inboxes:
        await inbox.wait_until(lambda inbox=inbox: b"last" in inbox.bodies)
        assert inbox.bodies == [b"1", b"last"]


async def test_deleting_forgets_arguments_messages_and_bindings(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    queue, exchange = bench.queue(message_ttl=60_000), bench.exchange("direct")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "k")])
    await transport.publish([Outgoing("", queue.name, b"old")])

    await transport.delete_queue(queue.name)
    await transport.declare([bench.queue()])

    assert await transport.publish([Outgoing(exchange.name, "k", b"")]) == [RETURNED]
    await transport.publish([Outgoing("", queue.name, b"new")])
    await transport.consume(queue.name, inbox, prefetch=10)
    assert [delivery.body for delivery in await inbox.wait(1)] == [b"new"]


async def test_deleting_what_is_gone_is_fine(bench: Bench, transport: Transport) -> None:
    queue = bench.queue()
    await transport.declare([queue])

    await transport.delete_queue(queue.name)
    await transport.delete_queue(queue.name)
    await transport.delete_queue(bench.queue("never").name)

    assert await transport.publish([Outgoing("", queue.name, b"")]) == [RETURNED]

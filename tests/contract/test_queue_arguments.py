"""What Ganger's queues rely on: time to live, expiry, dead-lettering, the delivery limit."""

import asyncio

from ganger_broker.topology import Binding, Queue, Topology
from ganger_broker.transport import Outgoing, Published, Transport
from tests.inbox import PATIENCE, Inbox

from .conftest import Bench


async def test_what_waits_too_long_is_dead_lettered(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    dead, exchange = bench.queue("dead"), bench.exchange("topic")
    waiting = bench.queue(
        "waiting",
        message_ttl=50,
        dead_letter_exchange=exchange.name,
        dead_letter_routing_key="late.one",
    )
    await transport.declare([exchange, dead, Binding(exchange.name, dead.name, "late.*"), waiting])
    await transport.consume(dead.name, inbox, prefetch=10)

    sent = [
        Outgoing("", waiting.name, body, message_id=body.decode(), headers={"mine": 1})
        for body in (b"a", b"b")
    ]
    await transport.publish(sent)

    first, second = await inbox.wait(2)
    assert (first.body, second.body) == (b"a", b"b")
    assert (first.routing_key, first.message_id, first.redelivered) == ("late.one", "a", False)
    assert first.headers["mine"] == 1
    assert first.headers["x-first-death-queue"] == waiting.name
    assert first.headers["x-first-death-reason"] == "expired"
    death = first.headers["x-death"][0]
    assert (death["queue"], death["reason"], death["count"]) == (waiting.name, "expired", 1)
    assert (death["exchange"], death["routing-keys"]) == ("", [waiting.name])


async def test_without_a_key_of_its_own_the_dead_keep_theirs(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    dead, exchange = bench.queue("dead"), bench.exchange("fanout")
    waiting = bench.queue("waiting", message_ttl=10, dead_letter_exchange=exchange.name)
    await transport.declare([exchange, dead, Binding(exchange.name, dead.name, ""), waiting])
    await transport.consume(dead.name, inbox, prefetch=10)

    await transport.publish([Outgoing("", waiting.name, b"a")])

    (came,) = await inbox.wait(1)
    assert came.routing_key == waiting.name


async def test_what_a_consumer_holds_does_not_expire(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    exchange, dead = bench.exchange("fanout"), bench.queue("dead")
    waiting = bench.queue("waiting", message_ttl=50, dead_letter_exchange=exchange.name)
    await transport.declare([exchange, dead, Binding(exchange.name, dead.name, ""), waiting])
    held = Inbox()
    await transport.consume(waiting.name, held, prefetch=1)
    await transport.consume(dead.name, inbox, prefetch=10)

    await transport.publish([Outgoing("", waiting.name, body) for body in (b"held", b"late")])

    await inbox.wait(1)
    assert (held.bodies, inbox.bodies) == ([b"held"], [b"late"])


async def test_without_a_dead_letter_exchange_the_expired_are_gone(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    waiting, clock = bench.queue("waiting", message_ttl=10), bench.queue("clock", message_ttl=60)
    exchange, rung = bench.exchange("fanout"), bench.queue("rung")
    clock.arguments["x-dead-letter-exchange"] = exchange.name
    await transport.declare([exchange, rung, Binding(exchange.name, rung.name, ""), waiting, clock])
    bell = Inbox()
    await transport.consume(rung.name, bell, prefetch=1)
    await transport.publish([Outgoing("", waiting.name, b"old"), Outgoing("", clock.name, b"")])
    await bell.wait(1)

    await transport.consume(waiting.name, inbox, prefetch=10)
    await transport.publish([Outgoing("", waiting.name, b"new")])

    assert [delivery.body for delivery in await inbox.wait(1)] == [b"new"]


async def test_an_unused_queue_expires(bench: Bench, transport: Transport) -> None:
    queue = bench.queue(expires=100)
    await transport.declare([queue])
    message = Outgoing("", queue.name, b"")
    assert await transport.publish([message]) == [Published.CONFIRMED]

    async with asyncio.timeout(PATIENCE):
        while await transport.publish([message]) != [Published.RETURNED]:
            pass
    await transport.declare([bench.queue()])  # with other arguments: it is really gone
    assert await transport.publish([message]) == [Published.CONFIRMED]


async def test_a_consumed_queue_does_not_expire(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    used, unused = bench.queue("used", expires=100), bench.queue("unused", expires=200)
    await transport.declare([used, unused])
    await transport.consume(used.name, inbox, prefetch=1)

    async with asyncio.timeout(PATIENCE):
        while await transport.publish([Outgoing("", unused.name, b"")]) != [Published.RETURNED]:
            pass

    assert await transport.publish([Outgoing("", used.name, b"")]) == [Published.CONFIRMED]


async def test_the_delivery_limit_ends_a_loop(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    exchange, dead = bench.exchange("fanout"), bench.queue("dead")
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 2,
        "x-dead-letter-exchange": exchange.name,
    }
    queue = Queue(f"{bench.prefix}.limited", arguments)
    await transport.declare([exchange, dead, Binding(exchange.name, dead.name, ""), queue])
    await transport.consume(dead.name, inbox, prefetch=1)
    tries = Inbox()
    subscription = await transport.consume(queue.name, tries, prefetch=1)
    await transport.publish([Outgoing("", queue.name, b"poison")])

    for count in (1, 2, 3):
        subscription.requeue((await tries.wait(count))[count - 1 :])

    (came,) = await inbox.wait(1)
    assert came.body == b"poison"
    assert came.headers["x-first-death-reason"] == "delivery_limit"
    assert [d.headers.get("x-delivery-count") for d in tries.deliveries] == [None, 1, 2]
    assert [d.redelivered for d in tries.deliveries] == [False, True, True]


async def test_an_assignment_not_picked_up_goes_back_to_the_dispatcher(
    bench: Bench, transport: Transport, inbox: Inbox
) -> None:
    topology = Topology(bench.prefix, pickup_deadline=0.05)
    await transport.declare([*topology.shared(), *topology.for_worker("w1")])
    await transport.consume(topology.events, inbox, prefetch=10)

    await transport.publish([Outgoing(topology.work_exchange, "w1", b"step", message_id="a1")])

    (came,) = await inbox.wait(1)
    assert (came.body, came.routing_key) == (b"step", topology.returned_key("w1"))
    assert came.message_id == "a1"

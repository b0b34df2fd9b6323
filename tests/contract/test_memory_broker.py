"""What the in-memory broker promises beyond the port: threads, timers, looking, losing."""

import asyncio
import threading

from ganger_broker.memory import MemoryBroker, MemoryTransport
from ganger_broker.topology import Binding, Exchange, Queue
from ganger_broker.transport import Outgoing, Published
from tests.inbox import PATIENCE, Inbox


async def opened(broker: MemoryBroker) -> MemoryTransport:
    transport = MemoryTransport(broker)
    await transport.connect()
    return transport


def at_most_for(seconds: float, thread: threading.Thread) -> None:
    thread.join(seconds)
    assert not thread.is_alive()


async def test_event_loops_in_several_threads_share_it() -> None:
    broker = MemoryBroker()
    here = await opened(broker)
    await here.declare([Queue("there"), Queue("here")])
    answers, count = Inbox(), 500
    answers.acknowledge_by = await here.consume("here", answers, prefetch=50)

    async def echo() -> None:
        """In each thread: send back as many as are its share of what comes."""
        transport, stop = await opened(broker), asyncio.Event()
        pending: set[asyncio.Task[list[Published]]] = set()

        def on_delivery(delivery: object) -> None:
            body = delivery.body  # type: ignore[attr-defined]
            if stop.is_set():
                subscription.requeue([delivery])  # type: ignore[list-item]
                return  # a stop for another thread
            subscription.ack([delivery])  # type: ignore[list-item]
            if body == b"stop":
                stop.set()
            else:
                answer = transport.publish([Outgoing("", "here", body)])
                pending.add(asyncio.ensure_future(answer))

        subscription = await transport.consume("there", on_delivery, prefetch=1)
        await stop.wait()
        await subscription.cancel()
        await asyncio.gather(*pending)
        await transport.close()

    threads = [threading.Thread(target=lambda: asyncio.run(echo()), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    bodies = [str(number).encode() for number in range(count)]
    await here.publish([Outgoing("", "there", body) for body in bodies])
    await answers.wait(count)
    await here.publish([Outgoing("", "there", b"stop")] * 3)

    for thread in threads:
        await asyncio.to_thread(at_most_for, PATIENCE, thread)
    assert sorted(answers.bodies) == sorted(bodies)
    assert (broker.depth("there"), broker.depth("here")) == (0, 0)
    await here.close()


async def test_the_loop_that_kept_the_time_may_go() -> None:
    broker = MemoryBroker()
    first = await opened(broker)
    await first.declare(
        [
            Exchange("dead", "fanout"),
            Queue("dead"),
            Binding("dead", "dead", ""),
            Queue("waiting", {"x-message-ttl": 100, "x-dead-letter-exchange": "dead"}),
        ]
    )
    await first.publish([Outgoing("", "waiting", b"late")])
    second, inbox = await opened(broker), Inbox()
    await second.consume("dead", inbox, prefetch=1)

    await first.close()

    assert [delivery.body for delivery in await inbox.wait(1)] == [b"late"]
    await second.close()


def test_a_loop_that_ended_unannounced_gives_back_what_it_held() -> None:
    broker = MemoryBroker()
    forgotten: list[MemoryTransport] = []

    async def leave() -> None:
        transport, inbox = await opened(broker), Inbox()
        forgotten.append(transport)
        await transport.declare([Queue("queue")])
        await transport.consume("queue", inbox, prefetch=1)
        await transport.publish([Outgoing("", "queue", body) for body in (b"1", b"2")])
        await inbox.wait(1)

    async def come() -> list[bytes]:
        transport, inbox = await opened(broker), Inbox()
        await transport.publish([Outgoing("", "queue", b"3")])
        inbox.acknowledge_by = await transport.consume("queue", inbox, prefetch=10)
        await inbox.wait(3)
        await transport.close()
        return inbox.bodies

    asyncio.run(leave())

    assert asyncio.run(come()) == [b"1", b"2", b"3"]


async def test_a_lost_connection_can_be_played() -> None:
    broker = MemoryBroker()
    transport, inbox = await opened(broker), Inbox()
    await transport.declare([Queue("queue")])
    subscription = await transport.consume("queue", inbox, prefetch=2)
    told = asyncio.Event()
    transport.on_reconnect(told.set)
    await transport.publish([Outgoing("", "queue", body) for body in (b"1", b"2")])
    old = list(await inbox.wait(2))

    await transport.lose_connection()

    assert told.is_set()
    again = (await inbox.wait(4))[2:]
    assert [(d.body, d.redelivered) for d in again] == [(b"1", True), (b"2", True)]
    subscription.ack(old)  # of the lost connection: passed over
    subscription.ack(again[:1])
    await transport.close()
    assert broker.depth("queue") == 1


async def test_it_can_be_looked_into() -> None:
    broker = MemoryBroker()
    transport = await opened(broker)
    await transport.declare([Queue("one"), Queue("two")])
    await transport.publish([Outgoing("", "one", b"")] * 3)

    assert broker.queues() == ["one", "two"]
    assert (broker.depth("one"), broker.depth("two"), broker.depth("none")) == (3, 0, 0)
    await transport.close()


async def test_the_dead_do_not_go_round_for_ever() -> None:
    broker = MemoryBroker()
    transport = await opened(broker)
    arguments = {
        "x-message-ttl": 0,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "round",
    }
    await transport.declare([Queue("round", arguments)])

    assert await transport.publish([Outgoing("", "round", b"")]) == [Published.CONFIRMED]

    assert broker.depth("round") == 0
    await transport.close()


async def test_headers_are_the_receivers_own() -> None:
    broker = MemoryBroker()
    transport, inbox = await opened(broker), Inbox()
    await transport.declare([Queue("queue")])
    headers = {"key": "sent"}
    await transport.publish([Outgoing("", "queue", b"", headers=headers)])
    headers["key"] = "changed since"

    await transport.consume("queue", inbox, prefetch=1)

    assert (await inbox.wait(1))[0].headers == {"key": "sent"}
    await transport.close()

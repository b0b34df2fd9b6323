"""RabbitMQ stopped, killed, wiped and cut off, while messages are under way."""

import asyncio
import os
import secrets

import aiormq
import pytest
from structlog.testing import capture_logs
from tools.private_servers import PrivateRabbit
from yarl import URL

from ganger_broker.errors import TransportClosed
from ganger_broker.rabbitmq import RabbitTransport, session
from ganger_broker.topology import Binding, Exchange, QueueType
from ganger_broker.transport import Delivery, Outgoing, Published
from tests.inbox import PATIENCE, Inbox
from tests.integration.queues import a_queue

BROKER_URL = os.environ.get("GANGER_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672/")
NOBODY = "amqp://guest:guest@127.0.0.1:1/"
"""A port on which nobody answers."""
CONFIRMED = Published.CONFIRMED
OUTAGE = 60.0
"""Seconds until RabbitMQ must be back and everything with it."""


class Traffic:
    """Numbered messages, published without pause and consumed with acknowledgement."""

    def __init__(self, transport: RabbitTransport, queue: str) -> None:
        self.confirmed: list[bytes] = []
        self.inbox = Inbox()
        self._transport = transport
        self._queue = queue
        self._stopping = False
        self._more = asyncio.Event()

    async def __aenter__(self) -> "Traffic":
        self.inbox.acknowledge_by = await self._transport.consume(
            self._queue, self.inbox, prefetch=50
        )
        self._tasks = [asyncio.create_task(self._publish(n)) for n in range(3)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        async with asyncio.timeout(OUTAGE):
            await asyncio.gather(*self._tasks)

    async def flows(self, count: int = 300) -> None:
        """Return when that many more messages are confirmed and consumed."""
        confirmed = len(self.confirmed) + count
        consumed = len(self.inbox.deliveries) + count
        async with asyncio.timeout(OUTAGE):
            while len(self.confirmed) < confirmed or len(self.inbox.deliveries) < consumed:
                self._more.clear()
                await self._more.wait()

    async def flows_for(self, seconds: float) -> None:
        """Return when messages were confirmed and consumed for so long."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            await self.flows(50)

    async def arrived(self) -> None:
        """Return when everything confirmed has been consumed."""
        await self.inbox.wait_until(lambda: set(self.confirmed) <= set(self.inbox.bodies))

    async def _publish(self, lane: int) -> None:
        number = 0
        while not self._stopping:
            bodies = [f"{lane}-{number + n}".encode() for n in range(10)]
            number += 10
            outcomes = await self._transport.publish(
                [Outgoing("", self._queue, body) for body in bodies]
            )
            assert outcomes == [CONFIRMED] * 10
            self.confirmed += bodies
            self._more.set()


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restart_under_traffic_loses_nothing(
    rabbit: PrivateRabbit, transport: RabbitTransport, queue_type: QueueType, end: str
) -> None:
    queue = a_queue(queue_type)
    await transport.declare([queue])
    back = asyncio.Event()
    transport.on_reconnect(back.set)

    async with Traffic(transport, queue.name) as traffic:
        # A quorum queue's membership is on disk only some half a second after its declaration.
        await traffic.flows_for(2.0)
        await asyncio.to_thread(rabbit.stop if end == "stop" else rabbit.kill)
        await asyncio.to_thread(rabbit.start)
        async with asyncio.timeout(OUTAGE):
            await back.wait()
        await traffic.flows()

    await traffic.arrived()
    assert set(traffic.inbox.bodies) == set(traffic.confirmed)


async def test_while_it_is_down_publishing_waits_and_says_so(
    rabbit: PrivateRabbit, transport: RabbitTransport
) -> None:
    queue = a_queue("quorum")
    await transport.declare([queue])
    with capture_logs() as logs:
        await asyncio.to_thread(rabbit.stop)
        waiting = asyncio.create_task(transport.publish([Outgoing("", queue.name, b"x")] * 3))
        declaring = asyncio.create_task(transport.declare([a_queue()]))
        await asyncio.to_thread(rabbit.start)
        async with asyncio.timeout(OUTAGE):
            assert await waiting == [CONFIRMED] * 3
            await declaring

    attempts = [line for line in logs if line["event"] == "reconnecting failed, trying again"]
    assert [line["attempt"] for line in attempts] == list(range(1, len(attempts) + 1))
    assert attempts
    assert all(0 < line["wait"] <= 5.5 and line["error"] for line in attempts)


async def test_connecting_waits_for_a_broker_that_is_down(rabbit: PrivateRabbit) -> None:
    await asyncio.to_thread(rabbit.stop)
    transport = RabbitTransport(rabbit.url, name="early")
    connecting = asyncio.create_task(transport.connect())
    await asyncio.to_thread(rabbit.start)

    async with asyncio.timeout(OUTAGE):
        await connecting

    assert transport.connected
    await transport.declare([a_queue()])
    await transport.close()


async def test_connecting_can_be_bounded() -> None:
    transport = RabbitTransport(NOBODY, name="bounded")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await transport.connect()


async def test_closing_ends_connecting() -> None:
    transport = RabbitTransport(NOBODY, name="closed early")
    with capture_logs() as logs:
        connecting = asyncio.create_task(transport.connect())
        async with asyncio.timeout(PATIENCE):
            while not logs:
                await asyncio.wait([connecting], timeout=0.01)
            await transport.close()
            with pytest.raises(TransportClosed):
                await connecting


async def test_closing_ends_what_waits_for_a_broker_that_is_down(rabbit: PrivateRabbit) -> None:
    transport = RabbitTransport(rabbit.url, name="closing")
    await transport.connect()
    queue, inbox = a_queue(), Inbox()
    await transport.declare([queue])
    await transport.consume(queue.name, inbox, prefetch=1)
    await asyncio.to_thread(rabbit.kill)
    waiting = [
        asyncio.create_task(transport.publish([Outgoing("", queue.name, b"")])),
        asyncio.create_task(transport.declare([queue])),
        asyncio.create_task(transport.consume(queue.name, inbox, prefetch=1)),
    ]
    done, _ = await asyncio.wait(waiting, timeout=0)
    assert not done

    async with asyncio.timeout(PATIENCE):
        await transport.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(result) for result in results] == [TransportClosed] * 3
    await asyncio.to_thread(rabbit.start)


async def test_a_broker_that_lost_everything_is_set_up_again(
    rabbit: PrivateRabbit, transport: RabbitTransport
) -> None:
    exchange = Exchange(f"test-{secrets.token_hex(6)}", "topic")
    queue, inbox = a_queue("quorum"), Inbox()
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "a.#")])
    await transport.consume(queue.name, inbox, prefetch=10)
    back = asyncio.Event()
    transport.on_reconnect(back.set)

    await asyncio.to_thread(rabbit.stop)
    rabbit.forget()
    await asyncio.to_thread(rabbit.start)

    async with asyncio.timeout(OUTAGE):
        await back.wait()
        assert await transport.publish([Outgoing(exchange.name, "a.b", b"x")]) == [CONFIRMED]
    assert [delivery.body for delivery in await inbox.wait(1)] == [b"x"]


async def test_what_was_delivered_before_the_loss_cannot_be_acknowledged_after(
    rabbit: PrivateRabbit, transport: RabbitTransport
) -> None:
    queue, inbox = a_queue(), Inbox()
    await transport.declare([queue])
    subscription = await transport.consume(queue.name, inbox, prefetch=2)
    await transport.publish([Outgoing("", queue.name, body) for body in (b"1", b"2")])
    old = list(await inbox.wait(2))

    await asyncio.to_thread(rabbit.restart)
    async with asyncio.timeout(OUTAGE):
        again = (await inbox.wait(4))[2:]
    subscription.ack(old)
    subscription.ack(again[:1])
    await transport.publish([Outgoing("", queue.name, b"3")])

    await inbox.wait(5)
    assert inbox.bodies == [b"1", b"2", b"1", b"2", b"3"]
    assert [delivery.redelivered for delivery in inbox.deliveries] == [False] * 2 + [True] * 2 + [
        False
    ]


class Line:
    """A line to RabbitMQ that can be cut, and held up by clearing ``flowing``."""

    async def __aenter__(self) -> "Line":
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = str(URL(BROKER_URL).with_host("127.0.0.1").with_port(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self.flowing.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut whatever is connected; new connections are taken."""
        for end in self._ends:
            end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to = URL(BROKER_URL)
        far_reader, far_writer = await asyncio.open_connection(to.host, to.port or 5672)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._ends.add(sink)
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(2**16):
                await self.flowing.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()
            self._ends.discard(sink)


async def test_a_line_cut_again_and_again_loses_nothing() -> None:
    queue = a_queue()
    async with Line() as line:
        transport = RabbitTransport(line.url, name="cut")
        await transport.connect()
        await transport.declare([queue])
        reconnects = 0
        back = asyncio.Event()

        async def on_reconnect() -> None:
            nonlocal reconnects
            reconnects += 1
            back.set()

        transport.on_reconnect(on_reconnect)
        async with Traffic(transport, queue.name) as traffic:
            for _ in range(5):
                await traffic.flows(100)
                back.clear()
                line.cut()
                async with asyncio.timeout(PATIENCE):
                    await back.wait()
            await traffic.flows(100)
        await traffic.arrived()
        await transport.delete_queue(queue.name)
        await transport.close()

    assert reconnects == 5


async def test_a_broker_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "ANSWER_TIMEOUT", 0.3)
    queue, inbox = a_queue(), Inbox()
    async with Line() as line:
        transport = RabbitTransport(line.url, name="silent")
        await transport.connect()
        await transport.declare([queue])
        line.flowing.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await transport.consume(queue.name, inbox, prefetch=1)
        with capture_logs() as logs:
            consuming = asyncio.create_task(transport.consume(queue.name, inbox, prefetch=1))
            async with asyncio.timeout(PATIENCE):
                while not any("trying again" in line["event"] for line in logs):
                    await asyncio.wait([consuming], timeout=0.01)
                line.flowing.set()
                await consuming
        assert await transport.publish([Outgoing("", queue.name, b"x")]) == [CONFIRMED]
        assert [delivery.body for delivery in await inbox.wait(1)] == [b"x"]
        await transport.delete_queue(queue.name)
        await transport.close()


async def test_nothing_is_handed_over_by_a_channel_that_is_gone(
    rabbit: PrivateRabbit, transport: RabbitTransport
) -> None:
    """What a lost channel still had in hand comes again with a tag that counts."""
    queue = a_queue()
    await transport.declare([queue])
    taken: list[Delivery] = []
    inbox = Inbox()

    def on_delivery(delivery: Delivery) -> None:
        taken.append(delivery)
        inbox(delivery)

    subscription = await transport.consume(queue.name, on_delivery, prefetch=100)
    await transport.publish([Outgoing("", queue.name, b"%d" % n) for n in range(100)])
    await inbox.wait(1)
    await asyncio.to_thread(rabbit.restart)
    async with asyncio.timeout(OUTAGE):
        await inbox.wait_until(lambda: sum(d.redelivered for d in taken) == 100)

    subscription.ack(taken)
    await transport.close()

    connection = await aiormq.connect(rabbit.url)
    channel = await connection.channel()
    declared = await channel.queue_declare(queue.name, passive=True)
    await connection.close()
    assert declared.message_count == 0

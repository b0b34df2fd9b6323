"""What RabbitMQ refuses or chokes on."""

import asyncio
import secrets

import aiormq
import pytest
from structlog.testing import capture_logs
from tools.private_servers import MAX_MESSAGE_SIZE, PrivateRabbit
from yarl import URL

from ganger_broker.errors import TransportError
from ganger_broker.rabbitmq import RabbitTransport
from ganger_broker.topology import Binding, Exchange
from ganger_broker.transport import Outgoing, Published
from tests.inbox import PATIENCE, Inbox
from tests.integration.queues import a_queue

CONFIRMED = Published.CONFIRMED


async def test_a_message_the_broker_finds_too_large_is_refused_alone(
    transport: RabbitTransport,
) -> None:
    queue = a_queue()
    await transport.declare([queue])
    small, large = (Outgoing("", queue.name, b"x" * size) for size in (10, MAX_MESSAGE_SIZE + 1))

    outcomes = await transport.publish([small, small, large, small])

    assert outcomes == [CONFIRMED, CONFIRMED, Published.IMPOSSIBLE, CONFIRMED]
    assert await transport.publish([small]) == [CONFIRMED]


async def test_what_the_broker_has_no_room_for_is_refused(transport: RabbitTransport) -> None:
    queue = a_queue(max_length=2, overflow="reject-publish")
    await transport.declare([queue])
    message = Outgoing("", queue.name, b"")
    assert await transport.publish([message] * 2) == [CONFIRMED] * 2

    outcomes = [await transport.publish([message]) for _ in range(4)]

    assert outcomes[-1] == [Published.REFUSED]


async def test_an_exchange_somebody_deleted_is_there_again(
    rabbit: PrivateRabbit, transport: RabbitTransport
) -> None:
    queue, exchange = a_queue(), Exchange(f"test-{secrets.token_hex(6)}", "topic")
    await transport.declare([exchange, queue, Binding(exchange.name, queue.name, "#")])
    message = Outgoing(exchange.name, "k", b"")
    assert await transport.publish([message]) == [CONFIRMED]
    connection = await aiormq.connect(rabbit.url)
    await (await connection.channel()).exchange_delete(exchange.name)
    await connection.close()

    assert await transport.publish([message] * 3) == [CONFIRMED] * 3


async def test_a_channel_the_server_closed_is_opened_again(transport: RabbitTransport) -> None:
    queue, inbox = a_queue(), Inbox()
    await transport.declare([queue])
    subscription = await transport.consume(queue.name, inbox, prefetch=1)
    back = asyncio.Event()
    transport.on_reconnect(back.set)
    channel = subscription._channel
    assert channel is not None

    await channel.basic_ack(4711)  # a tag it never gave

    async with asyncio.timeout(PATIENCE):
        await back.wait()
    await transport.publish([Outgoing("", queue.name, b"x")])
    assert [delivery.body for delivery in await inbox.wait(1)] == [b"x"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"password": "wrong"}, "'guest'"),
        ({"user": "nobody"}, "'nobody'"),
        ({"path": "/nowhere"}, "'nowhere'"),
    ],
    ids=["password", "user", "virtual host"],
)
async def test_being_refused_is_told_at_once(
    rabbit: PrivateRabbit, change: dict[str, str], named: str
) -> None:
    url = URL(rabbit.url)
    for part, value in change.items():
        url = getattr(url, f"with_{part}")(value)

    with pytest.raises(TransportError, match=named) as raised:
        await RabbitTransport(str(url), name="refused").connect()

    assert "guest:" not in str(raised.value)
    assert "wrong" not in str(raised.value)


# ── what it chokes on ─────────────────────────────────────────────────────────────────


async def test_an_address_that_costs_the_connection_costs_nobody_elses_message(
    transport: RabbitTransport,
) -> None:
    """RabbitMQ closes the whole connection on a direct-reply address that is made up."""
    queue, inbox = a_queue(), Inbox()
    await transport.declare([queue])
    inbox.acknowledge_by = await transport.consume(queue.name, inbox, prefetch=10)
    made_up = Outgoing("", "amq.rabbitmq.reply-to.g1h2AA.bogus", b"x")
    others = [Outgoing("", queue.name, b"%d" % number) for number in range(4)]

    with capture_logs() as logs:
        outcomes = await transport.publish([*others[:2], made_up, *others[2:]])

    assert outcomes == [CONFIRMED, CONFIRMED, Published.IMPOSSIBLE, CONFIRMED, CONFIRMED]
    await inbox.wait_until(lambda: set(inbox.bodies) == {b"0", b"1", b"2", b"3"})
    assert await transport.publish([others[0]]) == [CONFIRMED]
    lost = [line for line in logs if line["event"] == "connection lost"]
    assert len(lost) <= 3

"""A stream goes on where RabbitMQ was away in the middle of it."""

import asyncio
from typing import Any

from tools.private_servers import PrivateRabbit

from ganger.stream_reader import StreamReader
from ganger.stream_sender import StreamSender
from ganger_broker.codec import MSGPACK, decode_reply, encode
from ganger_broker.messages import StreamItem
from ganger_broker.rabbitmq import RabbitTransport
from ganger_broker.transport import Delivery, Outgoing, Subscription
from tests.integration.queues import a_queue

COUNT = 3_000
OUTAGE = 60.0
"""Seconds until RabbitMQ must be back and everything with it."""


async def test_a_restart_in_the_middle_of_a_stream_loses_nothing_and_keeps_the_order(
    rabbit: PrivateRabbit, transport: RabbitTransport
) -> None:
    queue = a_queue("classic")
    await transport.declare([queue])
    # RabbitMQ 3.10 that is killed within moments of a declaration now and then comes back without
    # the queue ("Recovering 0 queues" in its log): one that has been written out it keeps.
    await asyncio.to_thread(rabbit.restart)
    reader, sender = StreamReader(), StreamSender(transport)
    all_sent = asyncio.Event()
    subscription: Subscription

    def receive(delivery: Delivery) -> None:
        item: Any = decode_reply(delivery.body, MSGPACK, 10_000)
        reader.take(item)
        subscription.ack([delivery])

    def send(seq: int) -> None:
        item = StreamItem("r", "s", "r/s/1", seq, 1, "chunk", seq)
        message = Outgoing("", queue.name, encode(item), mandatory=False)
        sender.send([message], all_sent.set if seq == COUNT else lambda: None)

    subscription = await transport.consume(queue.name, receive, prefetch=50)
    running = asyncio.create_task(sender.run())
    for seq in range(1, COUNT + 1):
        send(seq)
    read: list[int] = []
    async with asyncio.timeout(OUTAGE):
        while len(read) < COUNT:
            assert await reader.wait()
            while (item := reader.next()) is not None:
                read.append(item.seq)
                if len(read) == COUNT // 10:
                    await asyncio.to_thread(rabbit.kill)
                    await asyncio.to_thread(rabbit.start)
        await all_sent.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert read == list(range(1, COUNT + 1))

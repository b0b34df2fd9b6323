"""No system at all: two hops with aio-pika, durable and confirmed, committed to Redis between.

What a round trip costs on this machine before anybody dispatches anything; the yardstick
for the others. ``python -m bench.peers.bare_app worker`` is the process in the middle: it
takes what has come, commits it to Redis in one round trip, answers, and acknowledges.
"""

import asyncio
import os
import sys
from uuid import uuid4

import aio_pika
from bench.peers.driving import READY, drive_async
from redis.asyncio import Redis

QUEUE = os.environ.get("BENCH_QUEUE", "bench-bare")
KIND = os.environ.get("GANGER_QUEUE_TYPE", "classic")
IN_FLIGHT = 200


async def opened() -> tuple[aio_pika.abc.AbstractConnection, aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(os.environ["GANGER_BROKER_URL"])
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(prefetch_count=IN_FLIGHT)
    return connection, channel


async def send(channel: aio_pika.abc.AbstractChannel, to: str, **fields: str) -> None:
    message = aio_pika.Message(b"{}", delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **fields)
    await channel.default_exchange.publish(message, routing_key=to)


async def worker() -> None:
    redis = Redis.from_url(os.environ["GANGER_REDIS_URL"])
    _, channel = await opened()
    queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": KIND})
    came: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
    await queue.consume(came.put)
    print(READY, flush=True)

    async def answer(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        await send(channel, message.reply_to or "", correlation_id=message.correlation_id or "")
        await message.ack()

    answering: set[asyncio.Task[None]] = set()
    while True:
        batch = [await came.get()]
        while not came.empty():
            batch.append(came.get_nowait())
        await redis.hset(QUEUE, mapping={message.correlation_id: "done" for message in batch})
        for message in batch:
            task = asyncio.create_task(answer(message))
            answering.add(task)
            task.add_done_callback(answering.discard)


async def client() -> None:
    connection, channel = await opened()
    replies = await channel.declare_queue(f"{QUEUE}.{uuid4().hex}", exclusive=True)
    waiting: dict[str, asyncio.Future[None]] = {}

    async def receive(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        waiting.pop(message.correlation_id or "").set_result(None)

    await replies.consume(receive, no_ack=True)

    async def job() -> None:
        name = uuid4().hex
        waiting[name] = answered = asyncio.get_running_loop().create_future()
        await send(channel, QUEUE, correlation_id=name, reply_to=replies.name)
        await answered

    await drive_async(job)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(worker() if "worker" in sys.argv else client())

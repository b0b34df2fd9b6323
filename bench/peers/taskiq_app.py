"""Taskiq: aio-pika broker, acks when executed, results in Redis; one worker process."""

import asyncio
import os

from bench.peers.driving import drive_async
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

broker = AioPikaBroker(
    os.environ["GANGER_BROKER_URL"],
    qos=100,
    exchange=Exchange(name="bench-taskiq"),
    task_queues=[Queue(name="bench-taskiq", type=QueueType.CLASSIC)],
    dead_letter_queue=Queue(name="bench-taskiq-dead", type=QueueType.CLASSIC),
    delay_queue=Queue(name="bench-taskiq-delay", type=QueueType.CLASSIC),
).with_result_backend(RedisAsyncResultBackend(os.environ["GANGER_REDIS_URL"], result_ex_time=600))


@broker.task(task_name="noop")
async def noop() -> dict[str, int]:
    return {"ok": 1}


async def main() -> None:
    await broker.startup()

    async def job() -> None:
        task = await noop.kiq()
        await task.wait_result(check_interval=0.001, timeout=60)

    await drive_async(job)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())

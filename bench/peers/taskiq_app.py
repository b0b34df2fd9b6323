"""Taskiq: aio-pika broker, acks when executed, results in Redis; one worker process.

Its publishes are always confirmed. It has its results by asking for them: often while one
job is in flight, less often with many, as asking then takes what the jobs need.
"""

import asyncio
import os

from bench.peers.driving import READY, drive_async
from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

broker = AioPikaBroker(
    os.environ["GANGER_BROKER_URL"],
    qos=200,
    exchange=Exchange(name="bench-taskiq"),
    task_queues=[Queue(name="bench-taskiq", type=QueueType.CLASSIC)],
    dead_letter_queue=Queue(name="bench-taskiq-dead", type=QueueType.CLASSIC),
    delay_queue=Queue(name="bench-taskiq-delay", type=QueueType.CLASSIC),
).with_result_backend(RedisAsyncResultBackend(os.environ["GANGER_REDIS_URL"], result_ex_time=600))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def ready(_: TaskiqState) -> None:
    print(READY, flush=True)


@broker.task(task_name="noop")
async def noop() -> dict[str, int]:
    return {"ok": 1}


async def job(ask_every: float) -> None:
    task = await noop.kiq()
    await task.wait_result(check_interval=ask_every, timeout=60)


async def main() -> None:
    await broker.startup()
    await drive_async(lambda: job(0.02), lambda: job(0.001))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())

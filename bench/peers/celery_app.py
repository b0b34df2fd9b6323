"""Celery: late acks, publisher confirms, results in Redis; one worker process (solo pool).

The solo pool runs tasks in the worker's own process: with one process and jobs that do
nothing it is Celery's fastest, as there is no hop to a child.
"""

import os

from bench.peers.driving import drive
from celery import Celery
from kombu import Queue

app = Celery(
    "bench", broker=os.environ["GANGER_BROKER_URL"], backend=os.environ["GANGER_REDIS_URL"]
)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_delivery_mode="persistent",
    task_default_queue="bench-celery",
    task_queues=[Queue("bench-celery", durable=True)],
    task_serializer="json",
    worker_prefetch_multiplier=100,
    result_expires=600,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop() -> dict[str, int]:
    return {"ok": 1}


if __name__ == "__main__":
    drive(noop.delay, lambda result: result.get(timeout=60, interval=0.001))

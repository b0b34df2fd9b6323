"""Celery: late acks, results in Redis; one worker process (solo pool).

The solo pool runs tasks in the worker's own process: with one process and jobs that do
nothing it is Celery's fastest, as there is no hop to a child.
"""

import os
from typing import Any

from bench.peers.driving import CONFIRMED, READY, drive
from celery import Celery
from celery.signals import worker_ready
from kombu import Queue

app = Celery(
    "bench", broker=os.environ["GANGER_BROKER_URL"], backend=os.environ["GANGER_REDIS_URL"]
)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": CONFIRMED},
    task_acks_late=True,
    task_default_delivery_mode="persistent",
    task_default_queue="bench-celery",
    task_queues=[Queue("bench-celery", durable=True)],
    task_serializer="json",
    worker_prefetch_multiplier=200,
    result_expires=600,
)


@worker_ready.connect
def ready(**_: Any) -> None:
    print(READY, flush=True)


@app.task(name="noop")
def noop() -> dict[str, int]:
    return {"ok": 1}


if __name__ == "__main__":
    drive(noop.delay, lambda result: result.get(timeout=60))

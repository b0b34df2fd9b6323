"""Dramatiq: confirmed deliveries, results in Redis; one worker process, its 8 threads."""

import os

import dramatiq
from bench.peers.driving import drive
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RabbitmqBroker(url=os.environ["GANGER_BROKER_URL"], confirm_delivery=True)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["GANGER_REDIS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, queue_name="bench-dramatiq")
def noop() -> dict[str, int]:
    return {"ok": 1}


if __name__ == "__main__":
    drive(noop.send, lambda message: message.get_result(block=True, timeout=60_000))

"""Dramatiq: results in Redis; one worker process, its 8 threads. It always acks late."""

import os

import dramatiq
from bench.peers.driving import CONFIRMED, READY, drive
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend


class SaysReady(dramatiq.Middleware):
    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        print(READY, flush=True)


broker = RabbitmqBroker(url=os.environ["GANGER_BROKER_URL"], confirm_delivery=CONFIRMED)
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["GANGER_REDIS_URL"])))
broker.add_middleware(SaysReady())
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, queue_name="bench-dramatiq")
def noop() -> dict[str, int]:
    return {"ok": 1}


if __name__ == "__main__":
    drive(noop.send, lambda message: message.get_result(block=True, timeout=60_000))

"""The verb ``dispatcher``."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Annotated

import structlog
import typer

from ganger_broker.errors import InvalidSetting
from ganger_broker.event_loop import run
from ganger_broker.garbage import collect_seldom
from ganger_broker.leaving import SIGNALS, ignore_signals
from ganger_broker.logs import configure_logging
from ganger_broker.settings import Settings, flag_name
from ganger_broker.transports import open_transport
from ganger_dispatcher.metrics import Metrics
from ganger_dispatcher.service import Dispatcher
from ganger_dispatcher.store import RedisStore, open_redis

from .options import BrokerUrl, Prefix, RedisUrl, named

__all__ = ["dispatcher"]

_COLLECT_AFTER = 50_000
"""New objects until cycles are looked for: some hundred steps under way hold as many."""


def dispatcher(
    broker_url: BrokerUrl = None,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
    queue_type: Annotated[
        str | None,
        typer.Option(
            metavar="quorum|classic",
            help="Of the shared queues, the same for all of a deployment [GANGER_QUEUE_TYPE; "
            "default: quorum]",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Serve metrics for Prometheus there; 0: anywhere, and log where "
            "[GANGER_METRICS_PORT; default: nowhere]",
        ),
    ] = None,
) -> None:
    """Run a dispatcher, which gives steps to workers; it needs RabbitMQ and Redis.

    One leads. Start more on other machines: they stand by and take over when it is gone.
    """
    settings = Settings.load(
        flag_name,
        broker_url=broker_url,
        redis_url=redis_url,
        prefix=prefix,
        queue_type=queue_type,
        metrics_port=metrics_port,
    )
    if settings.embedded:
        raise InvalidSetting(
            f"{named('broker_url', broker_url)}: {settings.broker_url} is a broker inside one "
            "process, which has a dispatcher of its own there; give an amqp:// URL"
        )
    configure_logging(settings)
    with _metrics(settings, named("metrics_port", metrics_port)) as metrics:
        collect_seldom(_COLLECT_AFTER)
        run(_dispatch(settings, metrics))
        ignore_signals()


@contextmanager
def _metrics(settings: Settings, name: str) -> Iterator[Metrics | None]:
    """Metrics that are served, where they are to be."""
    port = settings.metrics_port
    if port is None:
        yield None
        return
    from ganger_dispatcher.exporter import exporting  # most verbs can do without it

    metrics = Metrics()
    with ExitStack() as serving:
        try:
            found = serving.enter_context(exporting(metrics, port))
        except OSError as exc:
            raise InvalidSetting(f"{name}: port {port} cannot be had: {exc.strerror}") from exc
        structlog.get_logger("ganger.dispatcher").info("serving_metrics", port=found)
        yield metrics


async def _dispatch(settings: Settings, metrics: Metrics | None) -> None:
    store = RedisStore(open_redis(settings.redis_url), settings.keys(), settings.feed_length)
    transport = open_transport(settings, "dispatcher", missed_soon=True)
    service = Dispatcher(settings, transport, store, metrics=metrics)
    loop = asyncio.get_running_loop()

    def tell(number: int, frame: FrameType | None) -> None:  # a loop's own go when it is closed
        if not loop.is_closed():
            loop.call_soon_threadsafe(service.stop)

    for number in SIGNALS:
        signal.signal(number, tell)
    try:
        await service.run()
    finally:
        await store.close()

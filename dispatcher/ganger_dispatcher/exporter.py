"""Metrics over HTTP, in the format of Prometheus."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .metrics import Figures, Metrics

__all__ = ["exporting", "families"]

_OF_POOLS = {
    "workers": "Live workers of the pool that take steps.",
    "slots": "Their slots.",
    "used": "Their slots in use.",
    "pending": "Steps that wait for a worker of the pool.",
    "wanted": "Replicas that the pool wants for what it has to do.",
}


def families(figures: Figures) -> Iterator[Metric]:
    """The figures as metrics; of a standby only that it is one."""
    leading = "1: this dispatcher leads; 0: it stands by."
    yield GaugeMetricFamily("ganger_leader", leading, int(figures.leading))
    if figures.leading:
        waiting = "Steps that wait for a worker or a rate limit."
        yield GaugeMetricFamily("ganger_pending_steps", waiting, figures.pending_steps)
        yield GaugeMetricFamily("ganger_live_workers", "Live workers.", figures.live_workers)
        yield from _of_pools(figures)
        yield from _counters(figures.counters)


def _of_pools(figures: Figures) -> Iterator[Metric]:
    for field, text in _OF_POOLS.items():
        name = "wanted_replicas" if field == "wanted" else field
        family = GaugeMetricFamily(f"ganger_pool_{name}", text, labels=["pool"])
        for pool, load in figures.pools.items():
            family.add_metric([pool], getattr(load, field))
        yield family


def _counters(counters: Mapping[str, int]) -> Iterator[Metric]:
    """``name`` as it is; ``name:reason`` under a label, which then has all that ``name`` has."""
    by_reason: dict[str, dict[str, int]] = {}
    for counter, value in sorted(counters.items()):
        name, _, reason = counter.partition(":")
        by_reason.setdefault(name, {})[reason] = value
    for name, values in by_reason.items():
        reasons = {reason: value for reason, value in values.items() if reason}
        text = f"{name.replace('_', ' ').capitalize()}, whoever led."
        family = CounterMetricFamily(f"ganger_{name}", text, labels=["reason"] if reasons else [])
        for reason, value in (reasons or values).items():
            family.add_metric([reason] if reasons else [], value)
        yield family


class _Reading(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return families(self._metrics.figures)


@contextmanager
def exporting(metrics: Metrics, port: int) -> Iterator[int]:
    """Serve them from threads of their own; the port, also where 0 asked for any.

    Raises:
        OSError: the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(_Reading(metrics))
    server, thread = start_http_server(port, registry=registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""Jobs per second and round trips of no-op jobs: Ganger against Celery, Dramatiq, Taskiq.

    python bench/e2e.py [--rounds 3] [--only ganger-classic celery …] [--json FILE]

Same RabbitMQ, same Redis, same machine, one run. Each system has one worker process,
durable classic queues, persistent messages, late acknowledgements and results in Redis.
Celery and Dramatiq come twice: as they are by default, and with confirmed publishes,
which Taskiq always has. Ganger confirms each hop, has its dispatcher besides and 999 more
registered workers with labels that are alive, and a second line on quorum queues, its
default. The bare lines are no system: two hops through RabbitMQ with a commit to Redis
between, which is what round trips cost here at least; Ganger's have four hops and two
commits. Throughput: 5,000 jobs, 200 in flight, every result awaited. Round trips: one job
at a time. The systems take turns; the figures are medians over the rounds.

``make bench-peers`` runs it, with the peers in .venv-bench.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from uuid import uuid4

import pika
import redis
from peers.driving import READY

from ganger_broker.settings import Settings
from ganger_broker.topology import Exchange, Queue, Topology

ROOT = Path(__file__).parents[1]
OWN = Path(sys.executable).parent
PEERS = ROOT / ".venv-bench" / "bin"
START_DEADLINE = 60.0
"""Seconds until a process that is not ready is ended."""


@dataclass
class System:
    """One system: the processes to start, each with the text it prints when it is ready."""

    name: str
    processes: list[tuple[list[str], str]]
    client: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def peer(name: str, *command: str, confirmed: bool = False) -> System:
    """A peer as its users start it; ``confirmed``: told to confirm what its default does not."""
    client = [str(PEERS / "python"), "-m", f"bench.peers.{name}_app"]
    worker = [str(PEERS / command[0]), *command[1:]]
    return System(
        f"{name}-confirmed" if confirmed else name,
        [(worker, READY)],
        client,
        {"BENCH_CONFIRMED": "yes" if confirmed else "no"},
    )


def ganger(queue_type: str) -> System:
    worker = ["worker", "bench.peers.ganger_app:app", "--name=real", "--slots=200"]
    return System(
        f"ganger-{queue_type}",
        [
            ([str(OWN / "ganger"), "dispatcher"], "leading"),
            ([str(OWN / "python"), "-m", "bench.peers.fleet"], "registered"),
            (
                [str(OWN / "ganger"), *worker, "--label=real=yes", "--label=zone=a"],
                "worker registered",
            ),
        ],
        [str(OWN / "python"), "-m", "bench.peers.ganger_app"],
        {"GANGER_QUEUE_TYPE": queue_type, "GANGER_PREFIX": f"bench-{uuid4().hex[:8]}"},
    )


def bare(queue_type: str) -> System:
    python = str(OWN / "python")
    return System(
        f"bare-{queue_type}",
        [([python, "-m", "bench.peers.bare_app", "worker"], READY)],
        [python, "-m", "bench.peers.bare_app"],
        {"GANGER_QUEUE_TYPE": queue_type, "BENCH_QUEUE": f"bench-bare-{queue_type}"},
    )


CELERY = ("celery", "celery", "-A", "bench.peers.celery_app", "worker", "--pool=solo")
DRAMATIQ = ("dramatiq", "dramatiq", "bench.peers.dramatiq_app", "--processes=1", "--threads=8")
TASKIQ = (
    *("taskiq", "taskiq", "worker", "bench.peers.taskiq_app:broker", "--workers=1"),
    "--log-level=WARNING",  # as quiet as the others are by default
)
SYSTEMS = [
    peer(*CELERY),
    peer(*CELERY, confirmed=True),
    peer(*DRAMATIQ),
    peer(*DRAMATIQ, confirmed=True),
    peer(*TASKIQ),
    ganger("classic"),
    ganger("quorum"),
    bare("classic"),
    bare("quorum"),
]
PEER_QUEUES = [
    "bench-celery",
    *("bench-dramatiq", "bench-dramatiq.DQ", "bench-dramatiq.XQ"),
    *("bench-bare-classic", "bench-bare-quorum"),
    *("bench-taskiq", "bench-taskiq-dead", "bench-taskiq-delay"),
]


def measure(system: System) -> dict[str, float]:
    """Start the system, run its client once, end it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **system.environment}
    started = []
    try:
        for command, ready in system.processes:
            started.append(start(command, ready, environment))
        client = subprocess.run(
            system.client, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        if client.returncode:
            raise SystemExit(f"{system.name}: the client failed\n{client.stderr}")
        figures: dict[str, float] = json.loads(client.stdout.splitlines()[-1])
        return figures
    finally:
        for process in reversed(started):
            end(process)
        tidy(system)


def start(command: list[str], ready: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a process and wait until it prints that it is ready."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    too_long = threading.Timer(START_DEADLINE, end, [process])
    too_long.start()
    for line in process.stdout:
        said.append(line)
        if ready in line:
            too_long.cancel()
            # from here on nobody reads what it prints; it must not block on that
            subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
            return process
    raise SystemExit(f"{' '.join(command)} ended without {ready!r}:\n{''.join(said)}")


def end(process: subprocess.Popen[str]) -> None:
    """End a process started here, with its children."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tidy(system: System) -> None:
    """Delete what a system left; the peers' results go by themselves, after ten minutes."""
    queues, exchanges = PEER_QUEUES, ["bench-celery", "bench-taskiq"]
    if prefix := system.environment.get("GANGER_PREFIX"):
        shared = Topology(prefix).shared()
        queues = [item.name for item in shared if isinstance(item, Queue)]
        exchanges = [item.name for item in shared if isinstance(item, Exchange)]
        with redis.Redis.from_url(os.environ["GANGER_REDIS_URL"]) as client:
            for keys in _chunks(client.scan_iter(f"{prefix}:*", count=1000), 1000):
                client.delete(*keys)
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["GANGER_BROKER_URL"]))
    channel = connection.channel()
    for queue in queues:
        channel.queue_delete(queue)
    for exchange in exchanges:
        channel.exchange_delete(exchange)
    connection.close()


def _chunks(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while held := list(islice(keys, size)):
        yield held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[s.name for s in SYSTEMS])
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args()
    settings = Settings.load()
    os.environ["GANGER_BROKER_URL"] = settings.broker_url
    os.environ["GANGER_REDIS_URL"] = settings.redis_url
    systems = [s for s in SYSTEMS if not given.only or s.name in given.only]
    found: dict[str, list[dict[str, float]]] = {system.name: [] for system in systems}
    for number in range(given.rounds):
        for system in systems:
            figures = measure(system)
            found[system.name].append(figures)
            print(
                f"round {number + 1} {system.name:<20}"
                + "  ".join(f"{name} {value:8.1f}" for name, value in figures.items()),
                flush=True,
            )
    medians = {
        name: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    show(medians)
    if given.json:
        Path(given.json).write_text(json.dumps(medians, indent=2))


def show(medians: dict[str, dict[str, float]]) -> None:
    """The table, with ratios to the fastest peer."""
    peers = [name for name in medians if not name.startswith(("ganger", "bare"))]
    best = max(peers, key=lambda name: medians[name]["jobs_per_s"], default=None)
    print(
        f"\n{'':<20}{'jobs/s':>10}{'p50 ms':>10}{'p95 ms':>10}{'of fastest peer':>18}"
        f"{'p50 of bare hops':>18}"
    )
    for name, row in medians.items():
        ratio = f"{row['jobs_per_s'] / medians[best]['jobs_per_s']:.2f}x" if best else ""
        bare_hops = medians.get("bare-quorum" if name.endswith("quorum") else "bare-classic")
        trip = f"{row['p50_ms'] / bare_hops['p50_ms']:.2f}x" if bare_hops else ""
        print(
            f"{name:<20}{row['jobs_per_s']:>10,.0f}{row['p50_ms']:>10.1f}"
            f"{row['p95_ms']:>10.1f}{ratio:>18}{trip:>18}"
        )


if __name__ == "__main__":
    main()

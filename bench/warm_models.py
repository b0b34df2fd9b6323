"""Model loads and waits of a fleet of GPU workers, by how steps are routed.

    python bench/warm_models.py [--minutes 10] [--rates 1 2 …] [--json FILE]

40 workers of one slot hold one of 12 models at a time. A step runs for 1 s; loading its
model first, where the worker has another one, takes 20 s. Demand is skewed: the model of
rank k is asked for in proportion to 1/k. Requests arrive at random (seeded), all
strategies get the same ones. The clock is simulated; the engine is the real one, with the
facts and effects it has in production. *Wait* is from the trigger until the step's own
work begins, loading included. ``random`` is what a shared queue does: any idle worker. The
fleet is cold at first. ``weights``: the warm model is preferred; ``+ prefer_for``: and waited for,
as long as loading takes; ``+ sets_labels``: and one that is being loaded counts as warm.

``make bench`` runs it, and ``bench/plot_warm_models.py`` draws what ``--json`` wrote.
"""

import argparse
import json
import random
import statistics
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from ganger_broker.definitions import FromInput, StepDefinition, WorkflowDefinition
from ganger_broker.messages import (
    LabelsChanged,
    Outcome,
    StepFinished,
    StepStarted,
    Trigger,
    WorkerRegistered,
)
from ganger_dispatcher.core import Core
from ganger_dispatcher.core.core import Fact
from ganger_dispatcher.core.effects import Assign
from ganger_dispatcher.core.facts import TimePassed, TriggerReceived
from ganger_dispatcher.core.state import Policy

WORKERS = 40
MODELS = [f"model-{number}" for number in range(1, 13)]
STEP = 1_000
LOAD = 20 * STEP
"""Milliseconds of simulated time."""
FOR_EVER = 10**12
SEED = 7

Desired = dict[str, Any]
Request = tuple[int, str]
"""When it comes, ms, and the model it wants."""


class Simulation:
    """A clock, and workers that load a model where they have another one."""

    def __init__(self) -> None:
        self.now = 0
        self.loads = 0
        self.waits: list[int] = []
        self.model: dict[str, str] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, due: int, do: Callable[[], None]) -> None:
        """Have something done."""
        self._count += 1
        heappush(self._events, (due, self._count, do))

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._events:
            self.now, _, do = heappop(self._events)
            do()

    def work(self, worker: str, request: Request, loaded: Callable[[], None]) -> int:
        """A step begins on a worker: when it will end. ``loaded`` is called when it has to load."""
        came, model = request
        ready = self.now
        if self.model.get(worker) != model:
            self.loads += 1
            ready += LOAD
            self.model[worker] = model
            self.at(ready, loaded)
        self.waits.append(ready - came)
        return ready + STEP


def at_random(requests: list[Request]) -> Simulation:
    """Any idle worker takes the next request."""
    simulation, chance = Simulation(), random.Random(SEED)
    idle = [f"w{number}" for number in range(WORKERS)]
    queue: deque[Request] = deque()

    def serve() -> None:
        while queue and idle:
            worker = idle.pop(chance.randrange(len(idle)))
            end = simulation.work(worker, queue.popleft(), lambda: None)
            simulation.at(end, lambda worker=worker: finish(worker))  # type: ignore[misc]

    def finish(worker: str) -> None:
        idle.append(worker)
        serve()

    def arrive(request: Request) -> None:
        queue.append(request)
        serve()

    for request in requests:
        simulation.at(request[0], lambda request=request: arrive(request))  # type: ignore[misc]
    simulation.run()
    return simulation


class Engine:
    """The core, with simulated workers."""

    def __init__(self, *, sets_labels: bool) -> None:
        self.simulation = Simulation()
        self._core = Core(Policy(worker_timeout=FOR_EVER, pickup_deadline=FOR_EVER))
        self._requests: dict[str, Request] = {}
        self._seq = dict.fromkeys((f"w{number}" for number in range(WORKERS)), 0)
        step = StepDefinition(
            "describe",
            schedule_timeout=1e9,
            sets_labels={"model": FromInput("model")} if sets_labels else {},
        )
        for worker in self._seq:
            flow = WorkflowDefinition("describe", [step])
            self._tell(WorkerRegistered(worker, "1", name=worker, slots=1, workflows=[flow]))

    def serve(self, requests: list[Request], desired: Callable[[str], Desired]) -> Simulation:
        """Let all requests come; ``desired`` says what one for a model desires."""
        for number, request in enumerate(requests):
            run_id = f"r{number}"
            self._requests[run_id] = request
            model = request[1]
            trigger = Trigger("describe", {"model": model}, run_id)
            trigger.desired_worker_labels = desired(model)
            fact = TriggerReceived(trigger, run_id)
            self.simulation.at(request[0], lambda fact=fact: self._tell(fact))  # type: ignore[misc]
        self.simulation.run()
        return self.simulation

    def _tell(self, fact: Fact) -> None:
        self._core.begin_batch()
        effects = self._core.handle(fact, self.simulation.now)
        wake_at = self._core.wake_at
        if wake_at is not None and wake_at < FOR_EVER // 100:
            self.simulation.at(max(wake_at, self.simulation.now), self._wake)
        for effect in effects:
            if isinstance(effect, Assign):
                self._begin(effect.worker, effect.assignment.attempt)

    def _wake(self) -> None:
        if self._core.wake_at is not None and self._core.wake_at <= self.simulation.now:
            self._tell(TimePassed())

    def _begin(self, worker: str, attempt: str) -> None:
        request = self._requests[attempt.partition("/")[0]]
        end = self.simulation.work(worker, request, lambda: self._loaded(worker, request[1]))
        self.simulation.at(
            self.simulation.now, lambda: self._tell(StepStarted(worker, "1", attempt))
        )
        finished = StepFinished(worker, "1", attempt, Outcome.SUCCEEDED)
        self.simulation.at(end, lambda: self._tell(finished))

    def _loaded(self, worker: str, model: str) -> None:
        self._seq[worker] += 1
        self._tell(LabelsChanged(worker, "1", self._seq[worker], {"model": model}))


def weighted(model: str) -> Desired:
    """The warm model is preferred."""
    return {"model": {"value": model, "weight": 10}}


def patient(model: str) -> Desired:
    """And waited for, for as long as it would take to load it."""
    return {"model": {"value": model, "weight": 10, "prefer_for": LOAD / 1000}}


STRATEGIES: dict[str, Callable[[list[Request]], Simulation]] = {
    "random": at_random,
    "least loaded": lambda requests: Engine(sets_labels=False).serve(requests, lambda _: {}),
    "weights": lambda requests: Engine(sets_labels=False).serve(requests, weighted),
    "+ prefer_for": lambda requests: Engine(sets_labels=False).serve(requests, patient),
    "+ sets_labels": lambda requests: Engine(sets_labels=True).serve(requests, patient),
}


def demand(minutes: float, rate: float) -> list[Request]:
    """Requests at random, of a skewed choice of models."""
    chance = random.Random(SEED)
    shares = [1 / rank for rank in range(1, len(MODELS) + 1)]
    requests: list[Request] = []
    at = 0.0
    while at < minutes * 60_000:
        requests.append((round(at), chance.choices(MODELS, shares)[0]))
        at += chance.expovariate(rate) * 1000
    return requests


def main() -> None:
    """Print a table for each figure: a row for each rate, a column for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="of demand (10)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 2, 3, 4, 5, 6, 7, 8])
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    print(
        f"{given.minutes:g} minutes of requests, {WORKERS} workers, {len(MODELS)} models", end=", "
    )
    print(f"step {STEP / 1000:g} s, load {LOAD / 1000:g} s")
    rows = [measured(rate, demand(given.minutes, rate)) for rate in given.rates]
    for figure, what in (("loads", "model loads per 100 requests"), ("p95", "p95 wait, s")):
        print(f"\n{what}\n{'requests/s':>10}", *(f"{name:>13}" for name in STRATEGIES))
        for row in rows:
            cells = [f"{row[figure][name]:>13,.1f}" for name in STRATEGIES]
            print(f"{row['rate']:>10g}", *cells)
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


def measured(rate: float, requests: list[Request]) -> dict[str, Any]:
    """What became of these requests, by strategy."""
    row: dict[str, Any] = {"rate": rate, "loads": {}, "p95": {}}
    for name, serve in STRATEGIES.items():
        simulation = serve(requests)
        assert len(simulation.waits) == len(requests)
        row["loads"][name] = 100 * simulation.loads / len(requests)
        row["p95"][name] = statistics.quantiles(simulation.waits, n=100)[94] / 1000
    return row


if __name__ == "__main__":
    main()

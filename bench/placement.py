"""Placements and label upserts per second, by size of the fleet.

    python bench/placement.py [--workers 1000 10000 …] [--json FILE]

32 active signatures of 4 conditions (2 to 3 of them required), labels drawn from small
vocabularies as real fleets have them, half of all slots busy. A placement is: choose
the best worker, take its slot, free the slot of an earlier step. Beside the engine, on
the same fleet in the same run: a plain-Python oracle and a full NumPy scan.

``make bench`` runs it.
"""

import argparse
import gc
import json
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ganger_broker.labels import Requirement, parse_desired
from ganger_dispatcher.placement import Placement
from ganger_dispatcher.placement.columns import Cell
from ganger_dispatcher.placement.comparators import met

COLUMNS = (
    "workers",
    "placements/s",
    "upserts/s",
    "NumPy scan/s",
    "plain Python/s",
    "classes",
    "100k pending",
    "peak MiB",
)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SIGNATURES = 32
SLOTS = 10
ACTION = "caption:caption"

MODELS = [f"model-{number}" for number in range(20)]
MEMORY = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
REGIONS = ["fra", "iad", "sin", "syd", "gru", "nrt"]
GPUS = ["none", "t4", "a10", "a100", "h100"]


def requirements(rng: random.Random) -> list[Requirement]:
    """The active signatures: warm model preferred, memory and more required."""
    made = []
    for number in range(SIGNATURES):
        region: Any = rng.choice(REGIONS)
        desired = {
            "model": {"value": rng.choice(MODELS), "weight": rng.choice([10, 50, 100])},
            "memory": {"value": rng.choice(MEMORY[:5]), "comparator": "GREATER_THAN"},
            "region": {"value": region, "weight": rng.choice([5, 20])} if number % 2 else region,
            "gpu": {"value": rng.sample(GPUS, 3), "comparator": "IN"}
            if number % 3
            else {"value": "none", "comparator": "NOT_EQUAL", "required": True},
        }
        groups = parse_desired(desired).values()
        made.append(Requirement.of(ACTION, [c for group in groups for c in group]))
    return made


def fleet(size: int, rng: random.Random) -> Placement:
    """A fleet with, on average, half of its slots in use."""
    placement = Placement()
    busy = [0, 0, 2, 3, 5, 5, 7, 8, 10, 10]
    for number in range(size):
        labels = {
            "model": rng.choice(MODELS),
            "memory": rng.choice(MEMORY),
            "region": rng.choice(REGIONS),
            "gpu": rng.choice(GPUS),
        }
        placement.join(f"worker-{number:07d}", labels, [ACTION], SLOTS, rng.choice(busy))
    return placement


def oracle(placement: Placement, requirement: Requirement) -> str | None:
    """The same choice in plain Python: every worker, every condition."""
    rows = placement.fleet
    best, chosen = None, None
    for worker, row in rows.row_of.items():
        used, slots, labels = rows.used[row], rows.slots[row], rows.labels[row]
        if used >= slots:
            continue
        highest = total = 0
        for condition in requirement.conditions:
            if met(condition, Cell(labels.get(condition.key))):
                highest = max(highest, condition.weight)
                total += condition.weight
            elif condition.required:
                break
        else:
            rank = (-highest, -total, used / slots, rows.given[row])
            if best is None or rank < best:
                best, chosen = rank, worker
    return chosen


def rate(work: Callable[[int], None], seconds: float, most: int) -> float:
    """Calls per second of ``work(n)``, over about ``seconds`` or ``most`` calls."""
    began = time.perf_counter()
    work(0)
    chunk = 200 if time.perf_counter() - began < 1e-3 else 1  # looking at the clock costs too
    done, began = 0, time.perf_counter()
    while done < most:
        for _ in range(min(most - done, chunk)):
            work(done)
            done += 1
        if time.perf_counter() - began > seconds:
            break
    return done / (time.perf_counter() - began)


class Mill:
    """Steps coming and going: one placed, one freed, so that the load stays where it is."""

    def __init__(self, placement: Placement, wanted: list[Requirement], held: int) -> None:
        self.placement, self.wanted, self.most = placement, wanted, held
        self.held: deque[str] = deque()

    def step(self, number: int) -> None:
        worker = self.placement.choose(self.wanted[number % len(self.wanted)])
        assert worker is not None, "the bench's fleet is large enough for its load"
        self.placement.take(worker)
        self.held.append(worker)
        if len(self.held) > self.most:
            self.placement.release(self.held.popleft())


def measure(size: int, seconds: float) -> dict[str, float]:
    """All figures at one size."""
    rng = random.Random(1)
    wanted = requirements(rng)
    placement = fleet(size, rng)
    gc.collect()
    mill = Mill(placement, wanted, held=max(50, size // 20))
    for number in range(3 * SIGNATURES + mill.most):
        mill.step(number)  # signatures become active, and the held steps are the mill's own
    placements = rate(mill.step, seconds, 10_000_000)
    changes = [
        (f"worker-{rng.randrange(size):07d}", {"model": rng.choice(MODELS)}) for _ in range(20_000)
    ]
    upserts = rate(lambda number: placement.change_labels(*changes[number]), seconds, len(changes))
    backlog = pending_ratio(placement, mill, seconds)
    scans = rate(lambda number: placement.scan(wanted[number % SIGNATURES]), seconds, 20_000)
    plain = rate(lambda number: oracle(placement, wanted[number % SIGNATURES]), seconds, 1_000)
    for requirement in wanted:
        assert placement.choose(requirement) == oracle(placement, requirement)
    return {
        "workers": size,
        "placements_per_s": placements,
        "upserts_per_s": upserts,
        "scan_per_s": scans,
        "oracle_per_s": plain,
        "classes": placement.index.class_count,
        "with_100k_pending_ratio": backlog,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def pending_ratio(placement: Placement, mill: Mill, seconds: float) -> float:
    """Steps per second with 100,000 pending steps nobody can take, over those without.

    A step here is placed, freed, and the freed worker asked whether a pending step is
    for it. Half of the pending steps want a customer of their own, so there are 50,000
    signatures among them. Measured in turns, the median of the ratios.
    """

    def step(number: int) -> None:
        mill.step(number)
        assert placement.next_for(mill.held[-1]) is None

    ratios = []
    for _ in range(5):
        without = rate(step, seconds / 5, 10_000_000)
        for number in range(100_000):
            customer = f"customer-{number}" if number % 2 else "nobody"
            conditions = parse_desired({"customer": customer})["customer"]
            requirement = Requirement.of(ACTION, conditions)
            placement.backlog.add(f"run-{number}/caption", requirement, 0)
        with_pending = rate(step, seconds / 5, 10_000_000)
        for number in range(100_000):
            placement.backlog.remove(f"run-{number}/caption")
        ratios.append(with_pending / without)
    return sorted(ratios)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args()
    print(f"{SIGNATURES} active signatures of 4 conditions, half of the slots busy")
    print("".join(f"{name:>16}" for name in COLUMNS))
    figures = []
    for size in given.workers:
        found = measure(size, given.seconds)
        figures.append(found)
        print(
            f"{size:>16,}{found['placements_per_s']:>16,.0f}{found['upserts_per_s']:>16,.0f}"
            f"{found['scan_per_s']:>16,.1f}{found['oracle_per_s']:>16,.2f}"
            f"{found['classes']:>16,}{found['with_100k_pending_ratio']:>15.2f}x"
            f"{found['peak_mib']:>16,.0f}",
            flush=True,
        )
    first, last = figures[0], figures[-1]
    ratio = first["placements_per_s"] / last["placements_per_s"]
    print(f"{last['workers']:,} workers are {ratio:.2f}x slower than {first['workers']:,}")
    if given.json:
        with open(given.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    sys.exit(main())

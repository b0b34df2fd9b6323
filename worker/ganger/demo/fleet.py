"""The demo's fleet and workflows: made-up work on made-up machines, real routing."""

import asyncio
from typing import Any, NamedTuple

from ganger.app import Ganger
from ganger.context import Context
from ganger.worker import Worker
from ganger_broker.labels import LabelValue, WorkerLabelComparator
from ganger_broker.settings import Settings

__all__ = ["FLEET", "WISHES", "Machine", "make_app", "make_workers"]

STEP_SECONDS = 0.25
LOAD_SECONDS = 1.5
"""What loading another model takes here; in earnest it is half a minute."""


class Machine(NamedTuple):
    """One worker of the fleet."""

    labels: dict[str, LabelValue]
    slots: int


FLEET = {
    "gpu-fra": Machine({"model": "vision-v2", "memory": 512, "region": "fra"}, 3),
    "gpu-iad": Machine({"model": "chat-v1", "memory": 512, "region": "iad"}, 3),
    "ram-fra": Machine({"model": "none", "memory": 1024, "region": "fra"}, 2),
    "small-sin": Machine({"memory": 64, "region": "sin"}, 4),
}

MORE = WorkerLabelComparator.GREATER_THAN

WISHES: dict[str, dict[str, Any]] = {
    "caption": {
        "model": {"value": "vision-v2", "weight": 10},
        "memory": {"value": 256, "comparator": MORE},
    },
    "chat": {
        "model": {"value": "chat-v1", "weight": 10},
        "memory": {"value": 256, "comparator": MORE},
    },
    "index": {"memory": {"value": 900, "comparator": MORE}},
    "invoice": {"region": "fra"},
    "resize": {"memory": {"value": 100, "comparator": "LESS_THAN", "weight": 5}},
    "swap": {"model": "none"},
    "draw": {
        "model": {"value": "vision-v3", "weight": 10},
        "memory": {"value": 256, "comparator": MORE},
    },
    "tango": {"region": "gru"},
}
"""What each workflow's one step desires of its worker."""


def make_app(settings: Settings) -> Ganger:
    """An app with all workflows of the demo."""
    app = Ganger(settings)
    for name, wish in WISHES.items():
        body = _swap if name == "swap" else _work
        _declare(app, name, wish, body)
    return app


def _declare(app: Ganger, name: str, wish: dict[str, Any], body: Any) -> None:
    step = app.step(name, desired_worker_labels=wish)(body)
    app.workflow(name)(type(name.capitalize(), (), {name: step}))


async def _work(self: object, context: Context) -> dict[str, Any]:
    await asyncio.sleep(STEP_SECONDS)
    return {"worker": context.worker.id()}


async def _swap(self: object, context: Context) -> dict[str, Any]:
    context.worker.upsert_labels({"model": "unset"})
    await asyncio.sleep(LOAD_SECONDS)
    context.worker.upsert_labels({"model": "vision-v3"})
    return {"worker": context.worker.id()}


def make_workers(app: Ganger) -> list[Worker]:
    """The fleet, each worker with every workflow registered."""
    workers = []
    for name, machine in FLEET.items():
        worker = app.worker(name, labels=machine.labels, slots=machine.slots, worker_id=name)
        for workflow in app.workflows.values():
            worker.register_workflow(workflow)
        workers.append(worker)
    return workers

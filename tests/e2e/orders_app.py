"""A program with typed input, limits and models to load: ``tests.e2e.orders_app:app``."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, field_validator

from ganger import Concurrency, ConcurrencyStrategy, Context, Ganger, from_input

app = Ganger()


class Order(BaseModel):
    """What the shop takes. Its pattern is one that a backtracking engine takes for ever over."""

    name: str = Field(pattern=r"^(a+)+$")
    seats: int = Field(ge=1, alias="numberOfSeats")

    @field_validator("seats")
    @classmethod
    def _in_pairs(cls, seats: int) -> int:
        """What only Python can tell: seats are sold in pairs."""
        if seats % 2:
            raise ValueError("seats are sold in pairs")
        return seats


class Bill(BaseModel):
    """What it says."""

    total: float = Field(alias="totalPrice")


@app.workflow(input_validator=Order)
class Shop:
    """Typed from its trigger to its last step."""

    @app.step(desired_worker_labels={"gpu": 1})
    async def price(self, context: Context) -> Bill:
        return Bill(totalPrice=context.workflow_input().seats * 2.5)

    @app.step(parents=["price"])
    async def tell(self, context: Context) -> float:
        return float(context.step_output("price").total)


async def until_there(context: Context) -> str:
    """Says that it has begun, and runs until the test makes a file; only the first attempt."""
    await context.worker.async_upsert_labels({"busy": context.workflow_run_id()})
    done = Path(context.workflow_input()["until"])
    while context.attempt_id().endswith("/1") and not done.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.02)
    return context.worker.name()


@app.workflow(concurrency=Concurrency("key", 1, ConcurrencyStrategy.CANCEL_NEWEST))
class Newest:
    """Of two of a key the second one is cancelled."""

    @app.step(timeout="5m", desired_worker_labels={"gpu": 1})
    async def step(self, context: Context) -> str:
        return await until_there(context)


@app.workflow(concurrency=Concurrency("key", 1, ConcurrencyStrategy.CANCEL_IN_PROGRESS))
class Oldest:
    """Of two of a key the first one is cancelled."""

    @app.step(timeout="5m", desired_worker_labels={"gpu": 1})
    async def step(self, context: Context) -> str:
        return await until_there(context)


@app.task(
    desired_worker_labels={"model": {"value": "vision", "weight": 10, "prefer_for": "20s"}},
    sets_labels={"model": from_input("model")},
)
async def describe(input: dict[str, Any], context: Context) -> str:
    """Loads a model where it is not there; says where it ran, and whether it loaded."""
    if context.worker.get_labels().get("model") == input["model"]:
        return context.worker.name()
    await asyncio.sleep(0.5)
    await context.worker.async_upsert_labels({"model": input["model"]})
    return f"{context.worker.name()}, which loaded it"


@app.task(desired_worker_labels={"gpu": 1})
def double(input: dict[str, Any], context: Context) -> int:
    """Twice a number."""
    return int(input["n"]) * 2


@app.task(desired_worker_labels={"gpu": 1})
async def doubles(input: dict[str, Any], context: Context) -> list[int]:
    """Twice each number, by children in the same slot."""
    return list(await double.aio_run_many([{"n": n} for n in input["numbers"]]))

"""Typed inputs and outputs: pydantic models on the way in, on the way out, and between steps."""

import asyncio
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ganger import Context, Ganger, InvalidWorkflow, RunFailed
from ganger.input_schema import input_schema
from ganger.testing import Fleet
from ganger.workflow import declaration_of
from ganger_broker.model_values import dumped

PATIENCE = 20.0


class Order(BaseModel):
    seats: int = Field(ge=1)
    name: str = "Ada"

    @field_validator("name")
    @classmethod
    def is_no_shout(cls, name: str) -> str:
        if name.isupper():  # nothing that a JSON Schema could say
            raise ValueError("do not shout")
        return name


class Kind(Enum):
    RAIL = "rail"


class Bill(BaseModel):
    total: float
    order: Order


def shop(app: Ganger) -> None:
    @app.workflow(input_validator=Order)
    class Shop:
        @app.step()
        async def price(self, context: Context) -> Bill:
            order = context.workflow_input()
            assert isinstance(order, Order)
            return Bill(total=order.seats * 2.5, order=order)

        @app.step(parents=["price"], retries=3)
        def send(self, context: Context) -> str:
            bill = context.step_output("price")
            assert isinstance(bill, Bill)
            return f"{bill.order.name}: {bill.total}"

    @app.task(input_validator=Order)
    async def double(input: Order, context: Context) -> int:
        return input.seats * 2


async def result(app: Ganger, workflow: str, given: Any) -> dict[str, Any]:
    worker = app.worker("w")
    for each in app.workflows.values():
        worker.register_workflow(each)
    async with worker:
        try:
            return await (await app.admin.aio.run_workflow(workflow, given)).result(PATIENCE)
        finally:
            await app.admin.aio.close()


async def test_steps_get_and_return_objects(app: Ganger) -> None:
    shop(app)
    found = await result(app, "shop", {"seats": 2})
    assert found["send"] == "Ada: 5.0"
    assert found["price"] == {"total": 5.0, "order": {"seats": 2, "name": "Ada"}}


async def test_a_run_is_given_an_object(app: Ganger) -> None:
    shop(app)
    assert await result(app, "double", Order(seats=4)) == {"double": 8}


async def test_what_does_not_fit_the_schema_never_runs(app: Ganger) -> None:
    shop(app)
    with pytest.raises(RunFailed) as caught:
        await result(app, "shop", {"seats": 0})
    error = caught.value.result.error
    assert (error.reason.value, error.step) == ("INVALID_INPUT", None)
    assert error.message.startswith("$.input.seats: 0 is less than")


async def test_what_only_the_model_can_tell_fails_the_first_step_for_good(app: Ganger) -> None:
    shop(app)
    with pytest.raises(RunFailed) as caught:
        await result(app, "shop", {"seats": 1, "name": "ADA"})
    error = caught.value.result.error
    assert (error.reason.value, error.step) == ("INVALID_INPUT", "price")
    assert error.message == "$.input.name: Value error, do not shout"


def test_the_definition_carries_the_schema(app: Ganger) -> None:
    shop(app)
    definition = declaration_of(app.workflows["shop"]).definition
    assert definition.input_schema == input_schema(Order)
    assert definition.input_schema is not None


def test_a_validator_must_be_a_model(app: Ganger) -> None:
    with pytest.raises(InvalidWorkflow, match=r"input_validator: \{\} must be a pydantic model"):

        @app.workflow(input_validator={})  # type: ignore[arg-type]
        class Wrong:
            @app.step()
            async def step(self, context: Context) -> None: ...


async def test_what_a_step_returns_has_to_fit_its_annotation(app: Ganger) -> None:
    @app.workflow()
    class Wrong:
        @app.step(retries=3)
        async def price(self, context: Context) -> Bill:
            return {"total": "much", "order": {"seats": 2}}  # type: ignore[return-value]

        @app.step(parents=["price"])
        async def send(self, context: Context) -> None:
            raise AssertionError("is not to run")

    with pytest.raises(
        RunFailed, match=r"price returned: \$\.total: Input should be a valid number"
    ):
        await result(app, "wrong", {})


async def test_models_within_others_are_objects_again(app: Ganger) -> None:
    @app.workflow()
    class Several:
        @app.step()
        async def orders(self, context: Context) -> list[Order]:
            return [Order(seats=1), {"seats": 2}]  # type: ignore[list-item]

        @app.step()
        async def nobody(self, context: Context) -> "Order | None":
            return None

        @app.step(parents=["orders", "nobody"])
        async def count(self, context: Context) -> list[str]:
            orders = context.step_output("orders")
            return [type(each).__name__ for each in [*orders, context.step_output("nobody")]]

    outputs = await result(app, "several", {})
    assert outputs["count"] == ["Order", "Order", "NoneType"]
    assert outputs["orders"] == [{"seats": 1, "name": "Ada"}, {"seats": 2, "name": "Ada"}]


async def test_a_task_that_says_so_returns_an_object(app: Ganger) -> None:
    @app.task(input_validator=Order)
    async def bill(input: Order, context: Context) -> Bill:
        return Bill(total=input.seats, order=input)

    worker = app.worker("w")
    worker.register_workflow(bill)
    async with worker:
        found = await bill.aio_run(Order(seats=2), timeout=PATIENCE)
        assert found == Bill(total=2, order=Order(seats=2))
        assert await bill.aio_run_many([{"seats": 3}], timeout=PATIENCE) == [
            Bill(total=3, order=Order(seats=3))
        ]
    await app.admin.aio.close()


def test_typed_steps_go_by_required_labels_and_survive_a_lost_worker(
    app: Ganger, fleet: Fleet
) -> None:
    @app.workflow(input_validator=Order)
    class Shop:
        @app.step(desired_worker_labels={"gpu": 1}, timeout="1h")
        async def price(self, context: Context) -> Bill:
            order = context.workflow_input()
            await asyncio.sleep(60)
            return Bill(total=order.seats, order=order)

        @app.step(parents=["price"], desired_worker_labels={"gpu": 0})
        async def send(self, context: Context) -> str:
            return f"{context.step_output('price').order.name} on {context.worker.name()}"

    fleet.worker("cpu", app, labels={"gpu": 0})
    fleet.worker("gpu", app, labels={"gpu": 1})
    run = fleet.start("shop", Order(seats=2))
    fleet.advance("30s")
    fleet.kill("gpu")
    bad = fleet.run("shop", {"seats": "two"})
    assert (bad.status, bad.error and bad.error.reason) == ("failed", "INVALID_INPUT")
    fleet.worker("other", app, labels={"gpu": 1})
    fleet.advance("2m")
    assert run.output == {
        "price": {"total": 2.0, "order": {"seats": 2, "name": "Ada"}},
        "send": "Ada on cpu",
    }
    assert run.step("price").workers == ("gpu", "other")


def failing_shop(app: Ganger) -> None:
    @app.workflow(input_validator=Order)
    class Shop:
        @app.step(desired_worker_labels={"gpu": 1})
        async def price(self, context: Context) -> None:
            raise ConnectionError

        @app.on_failure_step(desired_worker_labels={"gpu": 0})
        async def apologise(self, context: Context) -> Any:
            return told(context.workflow_input(), context)


def failing_tasks(app: Ganger) -> None:
    shop = app.workflow(name="shop", input_validator=Order)

    @shop.task(desired_worker_labels={"gpu": 1})
    async def price(input: Order, context: Context) -> None:
        raise ConnectionError

    @shop.on_failure_task(desired_worker_labels={"gpu": 0})
    def apologise(input: Any, context: Context) -> Any:
        assert input == context.workflow_input()
        return told(input, context)


told_so_far: list[Any] = []


def told(given: Any, context: Context) -> None:
    reasons = {name: error.reason.value for name, error in context.step_run_errors().items()}
    told_so_far.append((given, reasons, context.worker.name()))


@pytest.mark.parametrize("declare", [failing_shop, failing_tasks])
def test_a_failure_step_gets_an_input_that_fits_no_model_as_it_came(
    app: Ganger, fleet: Fleet, declare: Callable[[Ganger], None]
) -> None:
    declare(app)
    told_so_far.clear()
    fleet.worker("gpu", app, labels={"gpu": 1})
    fleet.worker("cpu", app, labels={"gpu": 0})
    unfit = {"seats": 1, "name": "ADA"}
    run = fleet.run("shop", unfit)
    assert (run.status, run.error and run.error.reason) == ("failed", "INVALID_INPUT")
    assert run.step("apologise").status == "succeeded"
    fleet.run("shop", {"seats": 1})
    assert told_so_far == [
        (unfit, {"price": "INVALID_INPUT"}, "cpu"),
        (Order(seats=1), {"price": "STEP_FAILED"}, "cpu"),
    ]


def test_a_failure_step_runs_whatever_the_model_s_own_code_raises(
    app: Ganger, fleet: Fleet
) -> None:
    class Odd(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def is_known(cls, name: str) -> str:
            raise KeyError(name)

    @app.workflow(input_validator=Odd)
    class Look:
        @app.step()
        async def look(self, context: Context) -> None: ...

        @app.on_failure_step()
        async def tell(self, context: Context) -> Any:
            return context.workflow_input()

    fleet.worker("w", app)
    run = fleet.run("look", {"name": "x"})
    assert (run.status, run.error and run.error.reason) == ("failed", "STEP_FAILED")
    assert run.step("tell").output == {"name": "x"}


class Booking(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    kind: Kind
    places: tuple[int, ...]
    price: Decimal


BOOKING = Booking(day=date(2026, 11, 26), kind=Kind.RAIL, places=(3, 4), price=Decimal("9.50"))


async def test_the_strictest_models_take_what_json_has_for_their_types(app: Ganger) -> None:
    @app.workflow(input_validator=Booking)
    class Trips:
        @app.step()
        async def book(self, context: Context) -> Booking:
            return context.workflow_input()

        @app.step(parents=["book"])
        async def same(self, context: Context) -> bool:
            return context.step_output("book") == context.workflow_input() == BOOKING

    output = await result(app, "trips", dumped(BOOKING, "$"))
    assert output["same"] is True
    assert output["book"] == {
        "day": "2026-11-26",
        "kind": "rail",
        "places": [3, 4],
        "price": "9.50",
    }


class Blob(BaseModel):
    data: bytes


async def test_a_model_that_cannot_be_dumped_fails_its_step_and_leaves_its_slot(
    app: Ganger,
) -> None:
    @app.workflow()
    class Blobs:
        @app.step()
        async def make(self, context: Context) -> Blob:
            return Blob(data=b"\xff")

    with pytest.raises(RunFailed) as caught:
        await result(app, "blobs", {})
    error = caught.value.result.error
    assert (error.reason.value, error.step) == ("STEP_FAILED", "make")
    assert "utf-8" in error.message

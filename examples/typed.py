"""Typed input and output: pydantic models; what does not fit is refused before anything runs.

    python examples/typed.py

Prints:

    Ada pays 5.0 for 2 seats
    refused: $.input.seats: 0 is less than the minimum of 1
"""

import os

from pydantic import BaseModel, Field

from ganger import Context, Ganger, RunFailed

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))


class Order(BaseModel):
    name: str
    seats: int = Field(ge=1)


class Bill(BaseModel):
    total: float
    order: Order


@app.workflow(input_validator=Order)
class Shop:
    @app.step()
    async def price(self, context: Context) -> Bill:
        order = context.workflow_input()  # an Order
        return Bill(total=order.seats * 2.5, order=order)

    @app.step(parents=["price"])
    async def tell(self, context: Context) -> str:
        bill = context.step_output("price")  # a Bill, as its annotation says
        return f"{bill.order.name} pays {bill.total} for {bill.order.seats} seats"


if __name__ == "__main__":
    worker = app.worker("worker")
    worker.register_workflow(Shop())
    with worker:
        run = app.admin.run_workflow(Shop, {"name": "Ada", "seats": 2})
        print(run.sync_result(30)["tell"])
        try:
            app.admin.run_workflow(Shop, {"name": "Ada", "seats": 0}).sync_result(30)
        except RunFailed as failed:
            print(f"refused: {failed.result.error.message}")

"""The function style: the same workflows without classes.

    python examples/functions.py

Prints:

    double: 42
    many: [0, 2, 4, 6]
    shop: {'price': 30, 'bill': 'to Ada: 30'}
"""

import os
from typing import Any

from ganger import Context, Ganger

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))


@app.task(retries=3, desired_worker_labels={"memory": {"value": 16, "weight": 10}})
async def double(input: dict[str, Any], context: Context) -> int:
    return int(input["n"]) * 2


shop = app.workflow(name="shop")


@shop.task()
async def price(input: dict[str, Any], context: Context) -> int:
    return sum(input["items"])


@shop.task(parents=[price])
def bill(input: dict[str, Any], context: Context) -> str:
    return f"to {input['name']}: {context.step_output(price)}"


if __name__ == "__main__":
    worker = app.worker("worker", labels={"memory": 16})
    worker.register_workflow(double)
    worker.register_workflow(shop)
    with worker:
        print(f"double: {double.run({'n': 21}, timeout=30)}")
        print(f"many: {double.run_many([{'n': n} for n in range(4)], timeout=30)}")
        print(f"shop: {shop.run({'name': 'Ada', 'items': [10, 20]}, timeout=30)}")

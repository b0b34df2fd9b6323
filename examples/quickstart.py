"""A workflow of one step, a worker, and a run.

Everything in this process:  python examples/quickstart.py
With servers, a dispatcher:  GANGER_BROKER_URL=amqp://guest:guest@127.0.0.1/ python …

Prints:

    Hello, Ada!
"""

import os

from ganger import Context, Ganger

app = Ganger(broker_url=os.environ.get("GANGER_BROKER_URL", "memory://"))


@app.workflow()
class Greet:
    @app.step(desired_worker_labels={"language": "en"})
    async def greet(self, context: Context) -> dict[str, str]:
        name = context.workflow_input()["name"]
        return {"greeting": f"Hello, {name}!", "worker": context.worker.id()}


if __name__ == "__main__":
    worker = app.worker("greeter", labels={"language": "en"})
    worker.register_workflow(Greet())
    with worker:
        run = app.admin.run_workflow(Greet, {"name": "Ada"})
        print(run.sync_result(timeout=30)["greet"]["greeting"])

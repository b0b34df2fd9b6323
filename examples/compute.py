"""Steps that say what machine they need: two pools of workers, in several regions.

    python examples/compute.py                          # one process, in memory
    cd examples && ganger compute plan compute:app      # what there would be
    ganger compute up compute:app --on local --slots 2  # worker processes on this machine

Prints:

    collect ran on shared, crunch on performance
    a trigger that desires it is crunched in sin
"""

from contextlib import ExitStack
from typing import Any

from ganger import Compute, Context, Ganger

app = Ganger()

SMALL = Compute(cpu_kind="shared", cpus=1, memory_mb=512, num_replicas=4, regions=["fra", "iad"])
LARGE = Compute(
    cpu_kind="performance", cpus=2, memory_mb=4096, num_replicas=2, regions=["fra", "sin"]
)


# Its steps run on SMALL machines where they don't say so themselves. Steps of equal Compute share
# a pool, and run on workers of that pool only.
@app.workflow(compute=SMALL)
class Report:
    @app.step()
    async def collect(self, context: Context) -> dict[str, Any]:
        return {"rows": 3, "on": context.worker.get_labels()}

    @app.step(parents=["collect"], compute=LARGE)
    def crunch(self, context: Context) -> dict[str, Any]:
        return {
            "total": context.step_output("collect")["rows"] * 2,
            "on": context.worker.get_labels(),
        }


def main() -> None:
    app.override(broker_url="memory://")
    # what `ganger compute up` does with processes: workers of each pool, in its regions
    places = [(SMALL, "fra"), (SMALL, "iad"), (LARGE, "fra"), (LARGE, "sin")]
    workers = [app.worker(region, pool=compute, region=region) for compute, region in places]
    with ExitStack() as running:
        for worker in workers:
            worker.register_workflow(Report())
            running.enter_context(worker)
        output = app.admin.run_workflow("report").sync_result(timeout=30)
        kinds = {step: output[step]["on"]["ganger.cpu_kind"] for step in output}
        print(f"collect ran on {kinds['collect']}, crunch on {kinds['crunch']}")

        # ganger.region is a label as others are; weighted, as SMALL is not in sin
        desired = {"ganger.region": {"value": "sin", "weight": 10}}
        ref = app.admin.run_workflow("report", desired_worker_labels=desired)
        region = ref.sync_result(timeout=30)["crunch"]["on"]["ganger.region"]
        print(f"a trigger that desires it is crunched in {region}")


if __name__ == "__main__":
    main()

"""Two pools in several regions, for the tests of ``ganger compute``."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ganger import Compute, Context, Ganger, StickyStrategy

app = Ganger()

SMALL = Compute(
    cpu_kind="shared", cpus=1, memory_mb=256, num_replicas=6, regions=["fra", "iad", "sin"]
)
LARGE = Compute(
    cpu_kind="performance", cpus=1, memory_mb=2048, num_replicas=1, regions=["ams", "fra"]
)


@app.workflow(compute=SMALL)
class Report:
    @app.step()
    async def collect(self, context: Context) -> dict[str, Any]:
        return {"worker": context.worker.id(), **context.worker.get_labels()}

    @app.step(parents=["collect"], compute=LARGE)
    async def crunch(self, context: Context) -> dict[str, Any]:
        return {"worker": context.worker.id(), **context.worker.get_labels()}


@app.task(compute=SMALL)
def hog(input: dict[str, Any], context: Context) -> int:
    """Wants more memory than its machine has: itself, or with processes that it starts; or aborts,
    as native code does that gets none."""
    if input.get("aborts"):
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    code = f"held = bytearray({int(input['mb'])} * 2**20); import time; time.sleep(600)"
    if input.get("processes"):
        command = [sys.executable, "-c", code]
        started = [
            subprocess.Popen(command, start_new_session=True) for _ in range(input["processes"])
        ]
        Path(input["pids"]).write_text(" ".join(str(process.pid) for process in started))
        time.sleep(600)
    return len(bytearray(int(input["mb"]) * 2**20))


@app.workflow(name="naps", compute=SMALL, sticky=StickyStrategy.HARD)
class Naps:
    """Two of them, on one worker."""

    @app.step()
    def first(self, context: Context) -> str:
        time.sleep(float(context.workflow_input()["seconds"]))
        return context.worker.id()

    @app.step(parents=["first"])
    def second(self, context: Context) -> str:
        return self.first(context)


@app.task(compute=SMALL)
def nap(input: dict[str, Any], context: Context) -> str:
    """Takes a while, and says when it has begun."""
    context.worker.upsert_labels({"busy": context.workflow_run_id()})
    time.sleep(float(input["seconds"]))
    return context.worker.id()

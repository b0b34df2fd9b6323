"""A user's module, for the tests of the command line."""

__all__ = ["TASKS"]

TASKS = """
import asyncio, os, signal
from ganger import Ganger, Context

app = Ganger(broker_url="memory://")
empty = Ganger(broker_url="memory://")
named = app.worker("own-name")

@app.workflow()
class Leave:
    @app.step()
    async def leave(self, context: Context):
        signals = context.workflow_input()["signals"]
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
        if signals > 1:
            await asyncio.get_running_loop().create_future()
        labels = context.worker.get_labels()
        return {"worker": context.worker.name(), "labels": labels}

named.register_workflow(Leave())
"""

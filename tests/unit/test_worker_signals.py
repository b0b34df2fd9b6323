"""SIGTERM and SIGINT: the first is for draining, the second ends the process in any case."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ganger.signals import stopping_on_signals
from tests.unit.fake_dispatcher import PATIENCE

BLOCKED = """
import asyncio, os, signal, time
import ganger.signals
from ganger.signals import stopping_on_signals

ganger.signals.FORCE_PATIENCE = 0.01

async def main():
    with stopping_on_signals(lambda force: print("the loop was not held up")):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

asyncio.run(main())
"""

LEAVING = """
import asyncio, atexit, os, signal, threading
import ganger_broker.event_loop as event_loop
from ganger import Context, Ganger
from tests.unit.test_worker_signals import Interrupted

NUMBER = signal.Signals[os.environ["NUMBER"]]
event_loop.new_event_loop = lambda: Interrupted(NUMBER)
app = Ganger(broker_url="memory://")
if "AT_EXIT" in os.environ:  # before the embedded dispatcher stops, and after
    atexit.register(os.kill, os.getpid(), NUMBER)

@app.workflow()
class Leave:
    @app.step()
    async def leave(self, context: Context) -> None:
        os.kill(os.getpid(), NUMBER)

if __name__ == "__main__":
    worker = app.worker("w")
    worker.register_workflow(Leave())
    threading.Timer(0.5, app.admin.run_workflow, ["leave", {}]).start()
    worker.start()
"""


class Interrupted(asyncio.SelectorEventLoop):
    """A loop that is told to leave while it is being closed: by a signal, in the main thread."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def close(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self.is_closed():
            os.kill(os.getpid(), self._number)
        super().close()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("words", [["app.py"], ["-m", "ganger", "dev", "app:app", "--no-reload"]])
def test_a_process_that_leaves_already_is_not_disturbed(
    tmp_path: Path, number: str, words: list[str]
) -> None:
    (tmp_path / "app.py").write_text(LEAVING)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
    environment |= {"NUMBER": number, "PYTHONPATH": str(Path(__file__).parents[2])}
    if words[0] == "-m":
        words = [*words, "--trigger", "leave"]
        environment["AT_EXIT"] = "yes"
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert "Exception ignored" not in ended.stderr


STOPPING = """
import os, signal
from ganger.background import BackgroundLoop
from ganger.embedded import _stop

class Slow:
    async def stop(self):
        os.kill(os.getpid(), signal.SIGINT)
        print("stopped")

_stop(BackgroundLoop("d"), Slow())
"""


def test_a_dispatcher_that_stops_with_its_process_is_not_disturbed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STOPPING], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "stopped\n", "")


async def test_the_first_signal_stops_and_the_second_forces() -> None:
    told: asyncio.Queue[bool] = asyncio.Queue()
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals(told.put_nowait):
        for number, forced in ((signal.SIGTERM, False), (signal.SIGINT, True)):
            os.kill(os.getpid(), number)
            assert await asyncio.wait_for(told.get(), PATIENCE) is forced
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_ends_a_process_whose_loop_is_held_up() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 128 + signal.SIGTERM
    assert "a step holds up the event loop" in ended.stdout + ended.stderr
    assert "the loop was not held up" not in ended.stdout

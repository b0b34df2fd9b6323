"""SIGTERM and SIGINT: the first is for draining, the second ends the process in any case."""

import asyncio
import os
import signal
import subprocess
import sys

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

"""The command ``ganger`` as a process: signals, reloading, what it logs."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from .cli_tasks import TASKS

PATIENCE = 30.0


async def ganger(folder: Path, *words: str) -> tuple[int, str, str]:
    """The command in a process of its own, to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ganger", *words),
        cwd=folder.parent,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def dev(folder: Path, *words: str) -> tuple[int, str, str]:
    """``ganger dev``, to its end."""
    return await ganger(folder, "dev", "--no-reload", *words)


def logged(err: str) -> list[str]:
    """The events of a worker's log, in order."""
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if "worker" in line and "dispatcher" not in line]


AWAY = "amqp://127.0.0.1:1/"
"""A broker that nobody can reach."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trigger", "caption"], "the broker did not take the trigger of caption"),
        (["trigger", "caption", "--wait"], "the broker did not take the trigger of caption"),
        (
            ["trigger", "caption", "--at", "2027-01-01T09:00Z"],
            "no answer to the schedule of caption",
        ),
        (["cancel", "r1"], "the broker did not take the request to cancel run r1"),
        (["unschedule", "s1"], "no answer to the request to delete schedule s1"),
    ],
)
async def test_a_timeout_holds_while_the_broker_is_away(
    folder: Path, words: list[str], said: str
) -> None:
    status, out, err = await ganger(folder, *words, "--broker-url", AWAY, "--timeout", "300ms")
    assert (status, out) == (1, "")
    *log, last = err.splitlines()
    assert last == (
        f"ganger: {said} within 300ms; is the broker up, and is --broker-url (GANGER_BROKER_URL) "
        "right?"
    )
    assert {json.loads(line)["event"] for line in log} <= {"connecting failed, trying again"}


async def test_dev_runs_it_all_and_a_signal_drains(folder: Path) -> None:
    words = ("--trigger", "leave", "--input", '{"signals": 1}', "--label", "memory=512")
    status, out, err = await dev(folder, f"{folder.stem}:app", *words, "--name", "dev")
    assert status == 0
    assert json.loads(out) == {"leave": {"worker": "dev", "labels": {"memory": 512}}}
    assert logged(err) == ["worker registered", "draining", "left"]


async def test_a_second_signal_forces(folder: Path) -> None:
    words = ("--trigger", "leave", "--input", '{"signals": 2}', "--grace", "1h")
    status, out, err = await dev(folder, f"{folder.stem}:named", *words)
    assert (status, out) == (0, "")
    assert logged(err)[1:] == ["draining", "leaving steps to other workers", "left"]
    assert "ganger: stopped before leave had ended" in err


class Dev:
    """``ganger dev`` in a process of its own, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def says(self, text: str) -> str:
        """The next line with ``text`` in it; waits for it."""
        assert self.process.stderr is not None
        while text not in (line := (await self.process.stderr.readline()).decode()):
            assert line, f"it ended without {text!r}"
            self.said.append(line.rstrip())
        self.said.append(line.rstrip())
        return line

    async def ends(self) -> int | None:
        """Its exit status, when told to end."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = await self.process.communicate()
        self.said += rest.decode().splitlines()
        return self.process.returncode

    def for_people(self) -> list[str]:
        """What it has said beside its log."""
        return [line for line in self.said if not line.startswith("{")]


@asynccontextmanager
async def developing(folder: Path, *words: str) -> AsyncIterator[Dev]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ganger", "dev", f"{folder.stem}:app", *words),
        cwd=folder.parent,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield Dev(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_dev_starts_anew_when_a_file_changes(folder: Path) -> None:
    async with developing(folder, "--label", "version=1") as dev:
        await dev.says("worker registered")
        await asyncio.to_thread(folder.write_text, TASKS.replace("Leave", "Depart"))
        await dev.says("left")
        await dev.says("worker registered")
        await asyncio.to_thread(folder.write_text, "def f(:")
        await dev.says("SyntaxError")
        await asyncio.to_thread(folder.write_text, TASKS)
        await dev.says("worker registered")
        assert await dev.ends() == 0


CHOOSY = """
from ganger import Ganger, Context

app = Ganger()

@app.workflow()
class Caption:
    @app.step(desired_worker_labels={
        "memory": {"value": 256, "comparator": "GREATER_THAN"}, "zone": "fra", "model": "x",
    })
    async def caption(self, context: Context): ...
"""


async def test_dev_says_why_a_step_waits(folder: Path) -> None:
    await asyncio.to_thread(folder.write_text, CHOOSY)
    words = ("--no-reload", "--trigger", "caption", "--name", "mine")
    labels = ("--label", "memory=64", "--label", 'zone="7"', "--label", "model=x")
    async with developing(folder, *words, *labels) as dev:
        line = json.loads(await dev.says("step waits"))
        worker = line["event"].partition("nearest is ")[2].partition(":")[0]
        assert worker.startswith("mine-")
        assert line["event"] == (
            f"step waits, no worker meets what it requires; nearest is {worker}: memory must be "
            'GREATER_THAN 256, it has 64 and zone must be EQUAL "fra", it has "7"'
        )
        assert line["step_run"].endswith("/caption")
        await dev.ends()


async def test_dev_ends_without_noise_while_a_step_waits(folder: Path) -> None:
    await asyncio.to_thread(folder.write_text, CHOOSY)
    async with developing(folder, "--trigger", "caption") as dev:
        await dev.says("step waits")
        assert await dev.ends() == 0
    assert dev.for_people() == ["ganger: stopped before caption had ended"]


async def test_dev_ends_without_noise_where_what_it_ran_has_ended(folder: Path) -> None:
    held = folder.with_name("held")
    os.mkfifo(held)  # its other end is let go when the process with the app has ended
    module = f"{CHOOSY}\nimport os\nos.open({str(held)!r}, os.O_WRONLY)\n"
    await asyncio.to_thread(folder.write_text, module)
    async with developing(folder, "--trigger", "nope") as dev:
        await asyncio.to_thread(held.read_bytes)
        assert await dev.ends() == 0
    [said] = dev.for_people()
    assert "has no workflow 'nope'" in said


BUSY = """
import asyncio
from ganger import Ganger, Context

app = Ganger()

@app.workflow()
class Caption:
    @app.step()
    async def caption(self, context: Context):
        await app.admin.aio.run_workflow("caption")
        await asyncio.get_running_loop().create_future()
"""


async def test_dev_says_that_a_step_waits_for_a_slot(folder: Path) -> None:
    await asyncio.to_thread(folder.write_text, BUSY)
    words = ("--no-reload", "--trigger", "caption", "--slots", "1", "--grace", "1ms")
    async with developing(folder, *words) as dev:
        line = await dev.says("step waits for a free slot")
        assert "/caption" in line
        await dev.ends()


POOLED = """
from ganger import Compute, Ganger

app = Ganger()


@app.task(compute=Compute(cpu_kind="shared", cpus=1, memory_mb=512, regions=["iad", "fra"]))
def work(input, context):
    context.worker.upsert_labels({"done": 1})
    return context.worker.get_labels()["ganger.region"]
"""


@pytest.fixture
def pooled(folder: Path) -> Path:
    folder.write_text(POOLED)
    return folder


async def test_dev_has_a_worker_of_each_pool(pooled: Path) -> None:
    async with developing(pooled, "--no-reload", "--trigger", "work") as dev:
        assert '"ganger.region": "fra"' in await dev.says("shared-1cpu-512mb-fra-iad")
        await dev.says("worker registered")  # the one that is in no pool, and hears signals
        assert await dev.ends() == 0

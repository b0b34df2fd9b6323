"""The programs and commands of the README and the quickstart do as written what the pages say.

So does the program of the design, which starts its worker at its top level.
"""

import asyncio
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from .processes import GANGER, ROOT, Process, ganger

README = ROOT / "README.md"
QUICKSTART = ROOT / "docs" / "quickstart.md"
TRIGGERS = ROOT / "docs" / "triggers.md"

Command = tuple[str, list[str]]
"""What is typed, and what the page says it prints."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.S | re.M)


def commands(page: Path, *, having: str) -> list[Command]:
    """The commands of the console block that has this one in it."""
    (block,) = [block for block in blocks(page, "console") if f"$ {having}" in block]
    typed = [part.splitlines() for part in re.split(r"^\$ ", block, flags=re.M) if part]
    return [(lines[0], lines[1:]) for lines in typed]


def words(command: str) -> list[str]:
    """A command as it is started here."""
    program, *rest = shlex.split(command)
    return [{"ganger": str(GANGER), "python": sys.executable}[program], *rest]


def alike(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run: the end of a worker's id."""
    return [re.sub(r"-[0-9a-f]{8}\b", "-<id>", line) for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def save(page: Path, folder: Path) -> None:
    """The page's program, saved as the page says."""
    program = next(block for block in blocks(page, "python") if "app = Ganger()" in block)
    (folder / "app.py").write_text(program)


@asynccontextmanager
async def running(command: str, folder: Path, **environment: str) -> AsyncIterator[Process]:
    """A command that runs until it is told to end, and then ends well."""
    process = await Process.launch(words(command), folder, environment)
    try:
        yield process
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0, "\n".join(process.lines)
    finally:
        await process.stop()


# ── in one process ────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a terminal where nothing is set."""
    for name in ("GANGER_BROKER_URL", "GANGER_REDIS_URL", "GANGER_PREFIX"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("page", [README, QUICKSTART], ids=lambda page: page.stem)
async def test_the_program_runs_in_one_process_and_prints_what_the_page_says(
    page: Path, folder: Path
) -> None:
    save(page, folder)
    [(command, said)] = commands(page, having="ganger dev")
    assert said
    async with running(f"{command} --no-reload", folder) as dev:
        assert alike(await dev.prints(len(said))) == alike(said)


@pytest.mark.usefixtures("no_settings")
async def test_without_its_label_the_step_of_the_quickstart_says_why_it_waits(
    folder: Path,
) -> None:
    save(QUICKSTART, folder)
    [(command, _)] = commands(QUICKSTART, having="ganger dev")
    command = command.replace("--label memory=512", "--no-reload")
    async with running(command, folder) as dev:
        assert "memory must be GREATER_THAN 256, it has no" in await dev.says("step waits")


DRIVER = """
import json, os, runpy, signal, threading
from ganger import Ganger

def drive():
    print(json.dumps(Ganger().admin.run_workflow("caption").sync_result(timeout=30)), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=drive).start()
started = runpy.run_path("design_program.py", run_name="__main__")
print(started["worker"].get_labels()["model"])
"""


@pytest.mark.usefixtures("no_settings")
async def test_the_program_of_the_design_runs_as_written(folder: Path) -> None:
    process = await Process.launch(
        [sys.executable, "-c", DRIVER], Path(__file__).parent, {"GANGER_BROKER_URL": "memory://"}
    )
    try:
        assert await process.ended() == 0, "\n".join(process.lines)
    finally:
        await process.stop()
    (result,) = [line for line in process.lines if line.startswith('{"caption"')]
    assert alike([result]) == ['{"caption": {"worker": "affinity-worker-<id>"}}']
    assert "fancy-vision-model" in process.lines


# ── for real ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def environment(broker_url: str, redis_url: str, prefix: str) -> dict[str, str]:
    return {
        "GANGER_BROKER_URL": broker_url,
        "GANGER_REDIS_URL": redis_url,
        "GANGER_PREFIX": prefix,
    }


async def test_the_readme_s_commands_print_what_it_says(
    folder: Path, environment: dict[str, str]
) -> None:
    save(README, folder)
    *started, (trigger, said) = commands(README, having="ganger dispatcher")
    assert [command for command, _ in started] == ["ganger dispatcher", "python app.py"]
    async with AsyncExitStack() as stack:
        for command, _ in started:
            await stack.enter_async_context(running(command, folder, **environment))
        status, printed = await ganger(*shlex.split(trigger)[1:], **environment)
    assert (status, alike(printed.splitlines())) == (0, alike(said))


async def test_the_quickstart_s_step_goes_to_the_worker_it_prefers(
    folder: Path, environment: dict[str, str]
) -> None:
    save(QUICKSTART, folder)
    started = commands(QUICKSTART, having="ganger dispatcher")
    [(trigger, _)] = commands(QUICKSTART, having="ganger trigger")
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(running(command, folder, **environment))
            for command, _ in started
        ]
        await asyncio.gather(*(each.says("worker registered") for each in processes[1:]))
        status, printed = await ganger(*shlex.split(trigger)[1:], **environment)
    assert status == 0
    assert '"worker": "gpu-' in printed
    assert '"url": "https://example.org/cat.png"' in printed


TALKING = """
from ganger import Context, Ganger

app = Ganger()

@app.workflow()
class Caption:
    @app.step()
    async def caption(self, context: Context):
        context.log("the model is loaded")
        context.put_stream("a cat")
        return "done"
"""


async def test_a_program_without_ganger_reads_the_stream(
    folder: Path, environment: dict[str, str]
) -> None:
    (folder / "app.py").write_text(TALKING)
    [program] = [block for block in blocks(TRIGGERS, "python") if "stream_item" in block]
    for said, here in (
        ('"amqp://guest:guest@127.0.0.1:5672/"', repr(environment["GANGER_BROKER_URL"])),
        ('exchange="ganger"', f"exchange={environment['GANGER_PREFIX']!r}"),
    ):
        assert said in program
        program = program.replace(said, here)
    async with AsyncExitStack() as stack:
        for command in ("ganger dispatcher", "ganger worker app:app"):
            running_one = running(command, folder, **environment)
            process = await stack.enter_async_context(running_one)
            await process.says("leading" if "dispatcher" in command else "worker registered")
        reader = await Process.launch([sys.executable, "-c", program], folder, {})
        try:
            assert await reader.ended() == 0, "\n".join(reader.lines)
        finally:
            await reader.stop()
    assert reader.lines == [
        "img-19/caption/1 1 log the model is loaded",
        "img-19/caption/1 2 chunk a cat",
        "succeeded {'caption': 'done'}",
    ]

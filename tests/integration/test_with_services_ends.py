"""The servers that the tests were given end with them, however they end."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tools.private_servers import PrivateRedis

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds until something awaited counts as not coming."""

TELL_AND_WAIT = (
    "import os, signal; print('url', os.environ['GANGER_REDIS_URL'], flush=True); signal.pause()"
)
TELL_AND_FAIL = "import os; print('url', os.environ['GANGER_REDIS_URL']); raise SystemExit(7)"


async def with_services(code: str, place: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Run Python code with a private Redis; the process, and the server's port."""
    environment = {**os.environ, "GANGER_TEST_SERVICES": "private", "TMPDIR": str(place)}
    del environment["GANGER_REDIS_URL"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.with_services", "--", sys.executable, "-c", code),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        async for line in process.stdout:
            if line.startswith(b"url "):
                port = urlsplit(line.decode().split()[1]).port
                assert port is not None
                return process, port
    raise AssertionError("the command did not run")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def ends(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(PATIENCE):
        return await process.wait()


async def test_the_commands_status_is_ours(broker_url: str, tmp_path: Path) -> None:
    process, port = await with_services(TELL_AND_FAIL, tmp_path)
    assert await ends(process) == 7
    assert not listens(port)
    assert not os.listdir(tmp_path)


async def test_termination_ends_the_command_and_then_the_servers(
    broker_url: str, tmp_path: Path
) -> None:
    process, port = await with_services(TELL_AND_WAIT, tmp_path)
    assert listens(port)
    process.send_signal(signal.SIGTERM)
    assert await ends(process) == 128 + signal.SIGTERM
    assert not listens(port)
    assert not os.listdir(tmp_path)


def test_a_server_that_does_not_come_up_is_ended(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path)

    def interrupted() -> bool:
        raise KeyboardInterrupt

    server.answers = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert server._process is not None
    assert server._process.poll() is not None

"""Ganger's processes, started as a user starts them, and what they print."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GANGER = Path(sys.executable).with_name("ganger")
PATIENCE = 30.0
"""Seconds until something awaited counts as not coming."""


class Process:
    """One ``ganger`` process; ``lines`` is what it printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._more = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *words: str, **environment: str) -> "Process":
        return await cls.launch([str(GANGER), *words], ROOT, environment)

    @classmethod
    async def launch(
        cls, command: Sequence[str], cwd: Path, environment: Mapping[str, str]
    ) -> "Process":
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={**os.environ, "GANGER_LOG_FORMAT": "json", **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self._more:
                self.lines.append(line.decode().rstrip())
                self._more.notify_all()
        async with self._more:
            self._more.notify_all()

    async def says(self, text: str) -> str:
        """The first line with ``text`` in it; waits for it."""
        async with asyncio.timeout(PATIENCE), self._more:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                if self._reader.done():
                    raise AssertionError(f"ended without {text!r}:\n" + "\n".join(self.lines))
                await self._more.wait()

    async def prints(self, count: int) -> list[str]:
        """The first lines that it does not log; waits until there are so many."""
        async with asyncio.timeout(PATIENCE), self._more:
            while True:
                printed = [line for line in self.lines if not line.startswith('{"')]
                if len(printed) >= count:
                    return printed[:count]
                assert not self._reader.done(), "ended too early:\n" + "\n".join(self.lines)
                await self._more.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status; waits for the end."""
        async with asyncio.timeout(PATIENCE):
            await self._reader
            return await self.process.wait()

    async def stop(self) -> None:
        """End it if it runs still."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader


async def ganger(*words: str, stdin: bytes | None = None, **environment: str) -> tuple[int, str]:
    """Run a verb to its end: exit status and what it printed on standard output."""
    process = await asyncio.create_subprocess_exec(
        str(GANGER),
        *words,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode() or err.decode()


async def ganger_json(*words: str, **environment: str) -> Any:
    """What a verb prints with ``--json``."""
    status, text = await ganger(*words, "--json", **environment)
    assert status == 0, text
    return json.loads(text)

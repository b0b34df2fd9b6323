"""The dispatcher of ``ganger.testing``: the embedded one, on a clock and a Redis of its own."""

from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

import msgspec
from fakeredis import FakeAsyncRedis, FakeServer
from rich.console import Console

from ganger_broker.messages import RunStatus
from ganger_broker.settings import Settings

from .cli.matching import show_explanation
from .core.records import StepRun, split_attempt
from .core.states import StepStatus
from .embedded import EmbeddedDispatcher
from .inspection import StepExplanation, explain_step
from .store import RedisStore

__all__ = ["ObservedDispatcher"]

_WIDTH = 100
"""Columns of an explanation."""
_UNDER_WAY = (StepStatus.BACKOFF, StepStatus.ASSIGNED, StepStatus.RUNNING)
_LEFT = (StepStatus.WAITING, StepStatus.PENDING, *_UNDER_WAY)


class ObservedDispatcher(EmbeddedDispatcher):
    """Tells what became of runs; all of it on the event loop that it runs on."""

    def __init__(self, settings: Settings, clock: Callable[[], int]) -> None:
        super().__init__(settings, clock)
        self._now = clock
        self._server = FakeServer()
        self._fed = "0"
        self._placed: dict[str, list[str]] = {}

    async def run(self, run_id: str) -> dict[str, Any] | None:
        """A run with its steps, and under ``placed`` the workers that each step run was given
        to, in order; None where there is none."""
        found = await self._store.run(run_id)
        if found is None:
            return None
        header, steps = found
        await self._follow()
        placed = {step: self._placed.get(f"{run_id}/{step}", []) for step in steps}
        return {
            **msgspec.to_builtins(header),
            "steps": {name: msgspec.to_builtins(step) for name, step in steps.items()},
            "placed": placed,
        }

    async def runs(self) -> list[tuple[str, str]]:
        """(id, workflow) of all runs, oldest first."""
        found = await self._store.newest_runs(0)
        return [(run_id, header.workflow) for run_id, header, _ in reversed(found)]

    async def goes_on(self) -> bool:
        """Whether something is to happen by itself, whatever is under way on workers: a schedule
        comes due, or a run is tried again, waits in its turn, or is queued."""
        if await self._store.schedules():
            return True
        for run_id, header, steps in await self._store.newest_runs(0):
            if header.status is RunStatus.RUNNING and await self._run_goes_on(run_id, steps):
                return True
        return False

    async def _run_goes_on(self, run_id: str, steps: Mapping[str, StepRun]) -> bool:
        left = {name: step.status for name, step in steps.items() if step.status in _LEFT}
        pending = [name for name, status in left.items() if status is StepStatus.PENDING]
        if not pending or any(status in _UNDER_WAY for status in left.values()):
            return True
        said = [(await self._explained(f"{run_id}/{name}")).verdict for name in pending]
        return any(verdict != "never with this fleet" for verdict in said)

    async def explain(self, step_run: str) -> dict[str, Any]:
        """Why a step run waits, as ``ganger explain --json`` prints it."""
        explained: dict[str, Any] = msgspec.to_builtins(await self._explained(step_run))
        return explained

    async def explain_text(self, step_run: str) -> str:
        """Why a step run waits, as ``ganger explain`` prints it."""
        console = Console(file=StringIO(), width=_WIDTH, markup=False, force_terminal=False)
        with console.capture() as captured:
            show_explanation(console, await self._explained(step_run))
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    async def _explained(self, step_run: str) -> StepExplanation:
        return await explain_step(self._store, step_run, self._now())

    async def _follow(self) -> None:
        """Read on in the feed, which alone knows where earlier attempts were."""
        while entries := await self._store.feed(self._fed):
            for entry_id, entry in entries:
                self._fed = entry_id
                found = split_attempt(entry["attempt"]) if entry["kind"] == "placed" else None
                if found is not None:
                    run_id, step, _ = found
                    self._placed.setdefault(f"{run_id}/{step}", []).append(entry["worker"])

    def _open_store(self) -> RedisStore:
        settings = self._settings
        redis = FakeAsyncRedis(server=self._server)
        return RedisStore(redis, settings.keys(), settings.feed_length)

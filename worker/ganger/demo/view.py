"""What the demo shows: the fleet, who got which step and why, what waits."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .fleet import FLEET
from .judge import Judge, Placed

__all__ = ["View"]

_SHOWN = 14
"""Placements on the screen at once."""


class View:
    """A live screen on a terminal; lines as they happen anywhere else."""

    def __init__(self, console: Console, judge: Judge) -> None:
        self._console = console
        self._judge = judge
        self._act = ""
        self._explained: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=12) if console.is_terminal else None

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self.refresh()
            self._live.stop()

    def act(self, text: str) -> None:
        """A new part of the story."""
        self._act = text
        self._line(f"── {text}")

    def placed(self, placed: Placed) -> None:
        """A step has gone to a worker."""
        waited = f" after {placed.waited_ms} ms" if placed.step_run in self._explained else ""
        wrong = " MISPLACED" if placed.misplaced else ""
        self._explained.pop(placed.step_run, None)
        self._line(f"{placed.step_run:<22} → {placed.worker:<10} {placed.why}{waited}{wrong}")

    def explained(self, found: Mapping[str, Any]) -> None:
        """Why a step waits."""
        text = f"{found['verdict']}; nearest misses:"
        for worker in found["workers"]:
            for reason in worker["reasons"]:
                if reason["required"] and not reason["met"]:
                    text += (
                        f"\n  {worker['id']:<10} {reason['key']} {reason['comparator']} "
                        f"{reason['desired']}: {reason['actual']} ({reason['code']})"
                    )
        self._explained[found["step_run"]] = text
        self._line(f"{found['step_run']} waits: {text}")

    def refresh(self) -> None:
        """Draw the screen anew."""
        if self._live:
            self._live.update(self._screen())

    def _line(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            self.refresh()

    def _screen(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._act, style="bold"), self._fleet(), self._steps()]
        for step_run, text in self._explained.items():
            parts.append(Panel(text, title=f"{step_run} waits", border_style="yellow"))
        return Group(*parts)

    def _fleet(self) -> Table:
        table = Table("worker", "slots", "labels", expand=True)
        for name, machine in FLEET.items():
            used = self._judge.used[name]
            labels = self._judge.labels.get(name, {})
            table.add_row(
                name,
                Text("●" * used + "○" * (machine.slots - used), style="green"),
                "  ".join(f"{key}={value}" for key, value in labels.items()),
            )
        return table

    def _steps(self) -> Table:
        table = Table("step run", "worker", "why", expand=True)
        for placed in self._judge.placed[-_SHOWN:]:
            style = "red" if placed.misplaced else ""
            table.add_row(placed.step_run, placed.worker, placed.why, style=style)
        return table

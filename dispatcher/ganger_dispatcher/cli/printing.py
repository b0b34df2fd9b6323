"""How verbs print: JSON for programs, tables for people.

The only place where they do, so that nothing reaches a terminal that it would obey."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganger_broker.messages import RunError
from ganger_broker.terminal import visible, visible_json

__all__ = [
    "add_row",
    "date_text",
    "error_text",
    "id_table",
    "print_json",
    "print_table",
    "say",
    "time_text",
]

_UNBROKEN = 36
"""Characters of an id that are kept on one line, in which it can be copied whole."""


def print_json(value: Any) -> None:
    """Print indented JSON."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    typer.echo(visible_json(text))


def say(text: str, *, err: bool = False) -> None:
    """Print a text for people, in which nothing is left that a terminal would obey."""
    typer.echo(visible(text), err=err)


def print_table(table: Table, rows: list[Any], nothing: str) -> None:
    """Print a table, or where it has no rows a word on that."""
    Console().print(table if rows else nothing)


def id_table(first: str, *others: str, ids: Iterable[str], title: str | None = None) -> Table:
    """A table whose first column holds ``ids``; nothing in it is cut, however narrow it is."""
    table = Table(title=title, show_lines=True)
    longest = max(map(len, ids), default=0)
    table.add_column(first, no_wrap=longest <= _UNBROKEN, overflow="fold")
    for other in others:
        table.add_column(other, overflow="fold")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Cells are what users wrote: brackets in them are brackets, and no markup."""
    table.add_row(*(Text(visible(cell)) for cell in cells))


def error_text(error: RunError) -> str:
    """An error in one line."""
    return ": ".join(part for part in (error.type, error.message) if part) or error.reason.value


def date_text(at: int) -> str:
    """Date and time of day, here; ``at`` in ms."""
    return datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def time_text(at: int) -> str:
    """A time of day, here; ``at`` in ms."""
    return datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%H:%M:%S")

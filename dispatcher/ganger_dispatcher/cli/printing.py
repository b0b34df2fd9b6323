"""How verbs print: JSON for programs, tables for people."""

from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["add_row", "print_json", "print_table"]


def print_json(value: Any) -> None:
    """Print indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(table: Table, rows: list[Any], nothing: str) -> None:
    """Print a table, or where it has no rows a word on that."""
    Console().print(table if rows else nothing)


def add_row(table: Table, *cells: str) -> None:
    """Cells are what users wrote: brackets in them are brackets, and no markup."""
    table.add_row(*map(Text, cells))

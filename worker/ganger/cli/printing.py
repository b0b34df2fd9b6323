"""How verbs print: the only place, so that nothing reaches a terminal that it would obey."""

from typing import Any

import msgspec
import typer

from ganger_broker.terminal import visible, visible_json

__all__ = ["print_json", "print_line", "say"]


def say(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print for people, on standard output or standard error."""
    typer.echo(visible(str(text)) + end, err=err, nl=False)


def print_json(value: Any) -> None:
    """Print indented JSON on standard output."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    typer.echo(visible_json(text))


def print_line(value: Any) -> None:
    """Print JSON on one line."""
    typer.echo(visible_json(msgspec.json.encode(value).decode()))

"""The command ``ganger``. Exit status: 0 done, 1 failed, 2 wrong use."""

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated

import typer

from ganger.version import __version__
from ganger_broker.errors import GangerError, InvalidInput, MissingExtra

from . import ask, work
from .compute import commands as compute_commands
from .printing import say

__all__ = ["main"]

_PANELS = {
    "Try it, in one process": ("demo", "dev"),
    "Run it, with RabbitMQ and Redis": ("dispatcher", "worker"),
    "Use it": ("trigger", "cancel", "unschedule", "schema"),
    "Look at it": ("workers", "runs", "logs", "schedules", "explain", "match", "doctor"),
}
_DISPATCHER_VERBS = (
    "dispatcher",
    "workers",
    "runs",
    "logs",
    "schedules",
    "explain",
    "match",
    "doctor",
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; ends with ``SystemExit``. ``args``: by default those of the process."""
    try:
        _commands()(args)
    except InvalidInput as exc:
        _end(exc, 2)
    except GangerError as exc:
        _end(exc, 1)


def _end(exc: GangerError, status: int) -> None:
    say(f"ganger: {exc}", err=True)
    sys.exit(status)


def _commands() -> typer.Typer:
    app = typer.Typer(
        name="ganger",
        help=(
            "Run every step on the worker best suited to it right now.\n\n"
            "A setting is taken from its flag, else from the environment (GANGER_*, named beside "
            "each flag), else it has its default. Exit status: 0 done, 1 failed, 2 wrong use."
        ),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    app.command()(work.demo)
    app.command()(work.dev)
    app.command()(work.worker)
    app.command()(ask.trigger)
    app.command()(ask.cancel)
    app.command()(ask.unschedule)
    app.command()(ask.schema)
    app.add_typer(compute_commands, rich_help_panel="Run it, with RabbitMQ and Redis")
    _add_installed(app)
    _group(app)
    return app


def _group(app: typer.Typer) -> None:
    for command in app.registered_commands:
        verb = command.name or getattr(command.callback, "__name__", "")
        command.rich_help_panel = next(
            (panel for panel, verbs in _PANELS.items() if verb in verbs), command.rich_help_panel
        )


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"ganger {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Settings: flag, then environment (GANGER_*), then default."""


def _add_installed(app: typer.Typer) -> None:
    """The verbs of the dispatcher, where it is installed; else a word on how to."""
    for entry in entry_points(group="ganger.commands"):
        try:
            add = entry.load()
        except ImportError as exc:
            for verb in _DISPATCHER_VERBS:
                _add_missing(app, verb, exc)
        else:
            add(app)


def _add_missing(app: typer.Typer, verb: str, cause: ImportError) -> None:
    @app.command(
        verb,
        help="Not installed: pip install 'ganger[dispatcher]'",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def missing() -> None:
        raise MissingExtra(f"{verb} needs: pip install 'ganger[dispatcher]' ({cause})") from cause

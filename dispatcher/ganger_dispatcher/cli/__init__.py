"""The command line's verbs that need NumPy and Redis: ``ganger.commands`` entry point."""

import typer

from .checking import doctor
from .logs import logs
from .matching import explain, match
from .serving import dispatcher
from .showing import runs, schedules, workers

__all__ = ["commands"]


def commands(app: typer.Typer) -> None:
    """Add these verbs to the ``ganger`` command."""
    app.command()(dispatcher)
    app.command()(workers)
    app.command()(runs)
    app.command()(schedules)
    app.command()(logs)
    app.command()(explain)
    app.command()(match)
    app.command()(doctor)

"""Logging: structlog for all of Ganger, and the libraries' own logs through the same door.

Libraries log with ``structlog.get_logger()``; only programs call ``configure_logging``.
"""

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from .settings import Settings, misspelt
from .terminal import visible

__all__ = ["configure_logging"]

_SAID_BY_US = ("aio_pika", "aiormq")
"""Libraries whose every failure the transport raises or logs itself, with more to it."""


class _Written(structlog.PrintLogger):
    """Lines that cannot be written are lost, and cost nobody anything: a pipe whose reader has
    gone, an encoding that lacks a letter."""

    def msg(self, message: str) -> None:
        """Write a line."""
        with suppress(OSError, ValueError):
            try:
                super().msg(message)
            except UnicodeEncodeError:
                super().msg(message.encode("ascii", "backslashreplace").decode())

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _visible_words(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """What is logged is what others wrote, in part: a terminal is not to obey it."""
    return {
        key: visible(value) if isinstance(value, str) else value for key, value in event.items()
    }


def _visible_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(visible(text.getvalue()))


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error) in the level and format of the settings.

    ``log_format`` ``auto`` is for people on a terminal, else JSON, one object a line. What
    is bound in structlog's context variables stands on every line. Libraries that log with
    the standard library are heard from level warning. Environment variables that look like a
    misspelt setting are warned of.
    """
    stream = sys.stderr if stream is None else stream
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and stream.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Not rich's tracebacks: they show local variables, and with them passwords in URLs.
    console_renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=_visible_traceback
    )
    rendering: list[Processor] = (
        [_visible_words, console_renderer]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Written(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for name in _SAID_BY_US:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    for name, meant in misspelt(os.environ).items():
        structlog.get_logger("ganger").warning(
            "this environment variable is no setting", name=name, did_you_mean=meant
        )

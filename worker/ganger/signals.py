"""SIGTERM and SIGINT for a process that is a worker: the first drains it, the second forces."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

from ganger_broker.leaving import SIGNALS

__all__ = ["FORCE_PATIENCE", "restoring_signals", "stopping_on_signals"]

FORCE_PATIENCE = 10.0
"""Seconds to leave in after a second signal; a process that is still there then is ended."""

_log = structlog.get_logger(__name__)


@contextmanager
def stopping_on_signals(stop: Callable[[bool], None]) -> Iterator[None]:
    """Call ``stop(force)`` on this loop for each SIGTERM and SIGINT while the block runs.

    Handlers of the process and not of the loop, so that a step that blocks the loop, or a
    library that catches the exit, cannot keep the process after a second signal. Outside the
    main thread, which alone hears them, nothing is done. The block may end after its loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    told = 0
    last: threading.Timer | None = None

    def tell(number: int, frame: FrameType | None) -> None:
        nonlocal told, last
        told += 1
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop, told > 1)
        if told == 2:
            last = threading.Timer(FORCE_PATIENCE, _end_process, [number])
            last.daemon = True
            last.start()

    before = {number: signal.signal(number, tell) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if last is not None:
            last.cancel()


@contextmanager
def restoring_signals() -> Iterator[None]:
    """What these signals do is after the block what it was before, whoever changed it in it:
    asyncio has a handler of its own while a loop runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_process(number: int) -> None:
    _log.error("a step holds up the event loop: ending without a goodbye", signal=number)
    os._exit(128 + number)

"""Signals that reach a process which is leaving already."""

import signal
import threading

__all__ = ["SIGNALS", "ignore_signals"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Those that tell a process to leave."""


def ignore_signals() -> None:
    """This process has done what it is for, and is about to end: whoever tells it to, once more,
    would get a traceback or a bad exit status for it. Nothing, outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

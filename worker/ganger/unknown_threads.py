"""Threads that run in no step, as far as anybody can tell: a step may wait for them all the same.

A thread starts with no context, and pools share theirs, so which step has started one, or waits
for it, cannot be known. What such a thread waits for may need the slot of just that step.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from .background import loops_at_work
from .current_step import are_steps_under_way, is_step_known

__all__ = ["check_thread", "only_a_worker_here", "warn_of_thread"]

_log = structlog.get_logger(__name__)

_workers = 0
"""Workers that have this process to themselves."""
_warned: set[str] = set()
"""Calls of which it was said: once is enough."""

_INSTEAD = (
    "in a thread that a step starts, call context.spawn_workflow(…).sync_result(), or make this "
    "call with the step's context: pool.submit(contextvars.copy_context().run, function, …)"
)


@contextmanager
def only_a_worker_here() -> Iterator[None]:
    """While it is open this process is a worker and nothing else, where the main thread says so:
    threads that wait for runs are its steps'."""
    global _workers
    is_main = threading.current_thread() is threading.main_thread()
    _workers += is_main
    try:
        yield
    finally:
        _workers -= is_main


def check_thread(call: str, apart: str) -> None:
    """Refuse to wait for a run outside of any step in a process that is a worker: a step that
    waits for this thread would keep its slot from that run. Elsewhere, warn of it.

    Raises:
        RuntimeError: it is such a process; the text says what to write in place of ``call``, and
            that ``apart`` is a run that no step waits for.
    """
    if _workers and _is_unknown():
        raise RuntimeError(
            f"{call} in thread {threading.current_thread().name!r}, which no step of this worker "
            f"is known to run in: {_INSTEAD}. For a run that no step waits for: {apart}"
        )
    warn_of_thread(call)


def warn_of_thread(call: str) -> None:
    """Say, once for each ``call``, that it waits outside of any step while steps run here."""
    if call in _warned or not are_steps_under_way() or not _is_unknown():
        return
    _warned.add(call)
    _log.warning(
        "waiting for a run in a thread that no step is known to run in: a step that waits for "
        "this thread keeps its slot, and the run is not its child",
        call=call,
        thread=threading.current_thread().name,
        instead=_INSTEAD,
    )


def _is_unknown() -> bool:
    """Whether a step may have started this thread: none is known here, and it is neither the
    process's first nor one with a worker on its event loop."""
    if is_step_known() or threading.current_thread() is threading.main_thread():
        return False
    try:
        return asyncio.get_running_loop() not in loops_at_work
    except RuntimeError:
        return True

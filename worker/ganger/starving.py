"""What a worker does that gets no memory for its own work: it ends, and its exit status says why.

Going on would be worse: it would hold steps that it can tell nobody the end of.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["NO_MEMORY", "ending_without_memory"]

NO_MEMORY = 137
"""The exit status: that of a process which the system has killed for its memory."""


@contextmanager
def ending_without_memory() -> Iterator[None]:
    """End the process at a MemoryError that is not a step's own, in the block or on this loop."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            os._exit(NO_MEMORY)  # without a word: that takes memory
        loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    except MemoryError:
        os._exit(NO_MEMORY)
    finally:
        loop.set_exception_handler(before)

"""Work that may wait for a broker that is away, and must not keep a process that is to end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["done_unless"]

_CANCEL_AGAIN = 0.1
"""Seconds until work that was cancelled, and goes on, is cancelled again."""


async def done_unless(
    stop: asyncio.Event, work: Coroutine[Any, Any, None], patience: float = 0.0
) -> bool:
    """Do it, but once ``stop`` is set for no longer than ``patience`` seconds; whether it is
    done. What it raises is raised."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        done, _ = await asyncio.wait([doing], timeout=patience)
        if done:
            doing.result()
        return bool(done)
    finally:
        stopping.cancel()
        while not doing.done():  # a cancellation can be lost in a driver that is connecting
            doing.cancel()
            await asyncio.wait([doing], timeout=_CANCEL_AGAIN)
        await asyncio.gather(doing, stopping, return_exceptions=True)

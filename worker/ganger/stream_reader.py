"""What a run's steps say, as it arrives at the program that started the run."""

import asyncio
from collections import deque

from ganger_broker.messages import StreamItem

__all__ = ["StreamReader"]


class StreamReader:
    """Holds items until they are read, each once. It belongs to the client's event loop."""

    def __init__(self) -> None:
        self._items: deque[StreamItem] = deque()
        self._last: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def take(self, item: StreamItem) -> None:
        """An item has arrived. One that arrived before is passed over, as is one that comes
        after the end."""
        if self._ended or item.seq <= self._last.get(item.attempt, 0):
            return
        self._last[item.attempt] = item.seq
        self._items.append(item)
        self._changed.set()

    def end(self) -> None:
        """The run has ended: there will be no more."""
        self._ended = True
        self._changed.set()

    def next(self) -> StreamItem | None:
        """The next item that has arrived, if there is one; from any thread."""
        try:
            return self._items.popleft()
        except IndexError:
            return None

    async def wait(self) -> bool:
        """Until there is an item; False where there will be no more."""
        while not self._items and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        return bool(self._items)

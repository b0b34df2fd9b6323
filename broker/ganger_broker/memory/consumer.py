"""A consumer as the broker sees it: credit, what is unacknowledged, and the way to its loop."""

import asyncio
import threading
from collections.abc import Callable

from .queue import MemoryQueue, StoredMessage

__all__ = ["Batch", "LoopCaller", "MemoryConsumer"]

Batch = list[tuple[int, StoredMessage, bool]]
"""Delivery tag, message, whether it was delivered before."""


class LoopCaller:
    """Calls into one event loop from any thread, cheaply from its own."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        """For ``Timer``, and touched in this loop only."""
        self._thread = threading.get_ident()

    def call(self, callback: Callable[[], object]) -> bool:
        """Have it called in the loop's next turn; False when the loop is closed."""
        try:
            if threading.get_ident() == self._thread:
                self.loop.call_soon(callback)
            else:
                self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True


class MemoryConsumer:
    """Touched under the broker's lock only, but for ``wake`` which is the transport's."""

    def __init__(
        self,
        queue: str,
        caller: LoopCaller,
        wake: Callable[[], None],
        on_cancel: Callable[[], None],
        *,
        prefetch: int,
        no_ack: bool,
        priority: int = 0,
    ) -> None:
        """``wake`` is called in its loop when the inbox is no longer empty, ``on_cancel``
        when the broker has cancelled it."""
        self.queue_name = queue
        self.queue: MemoryQueue | None = None
        self.caller = caller
        self.no_ack = no_ack
        self.priority = priority
        self.on_cancel = on_cancel
        self._wake = wake
        self._prefetch = prefetch
        self._inbox: Batch = []
        self._unacked: dict[int, StoredMessage] = {}
        self._tags = 0

    @property
    def has_credit(self) -> bool:
        """Whether it may get one more message."""
        return self.no_ack or self._prefetch == 0 or len(self._unacked) < self._prefetch

    def deliver(self, stored: StoredMessage) -> bool:
        """Send it one message; False when its loop is gone."""
        if self.caller.loop.is_closed() or (not self._inbox and not self.caller.call(self._wake)):
            return False
        self._tags += 1
        self._inbox.append((self._tags, stored, stored.returns > 0))
        if not self.no_ack:
            self._unacked[self._tags] = stored
        return True

    def take_inbox(self) -> Batch:
        """What was sent to it since it last looked."""
        inbox, self._inbox = self._inbox, []
        return inbox

    def settle(self, tags: list[int]) -> list[StoredMessage]:
        """Forget these deliveries; those it really held."""
        held = [self._unacked.pop(tag, None) for tag in tags]
        return [stored for stored in held if stored is not None]

    def take_unseen(self) -> list[StoredMessage]:
        """What lies in the inbox still, as if it had never been sent."""
        inbox = self.take_inbox()
        for tag, _, _ in inbox:
            self._unacked.pop(tag, None)
        return [stored for _, stored, _ in inbox]

    def take_unacked(self) -> list[StoredMessage]:
        """All it holds."""
        unacked = list(self._unacked.values())
        self._unacked.clear()
        return unacked

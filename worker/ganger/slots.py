"""The slots of a worker: which attempts have one, and which ask for one, in turn."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["Slot", "Slots"]


class Slots:
    """So many attempts run at once; only one that is to stop may run beside them."""

    def __init__(self, number: int) -> None:
        self.free = number
        """Below 0 while more attempts have one than there are."""
        self.asking: dict[Slot, None] = {}

    def serve(self) -> None:
        """Give what is free to those that ask for one, in their turn."""
        while self.free > 0 and self.asking:
            next(iter(self.asking)).have()


class Slot:
    """What one attempt has of its worker's slots.

    It needs one from its beginning to its end, but not while it waits for a child of its own,
    in any of its branches. ``say`` is called each time that this changes, with a number that is
    odd when it waits, even when it needs a slot again: whether it has one yet is the worker's
    matter. ``is_to_stop``: whether the attempt is to end, and must not be kept from it.
    """

    def __init__(
        self, slots: Slots, say: Callable[[int], None], is_to_stop: Callable[[], bool]
    ) -> None:
        self.has = False
        self._slots = slots
        self._say = say
        self._is_to_stop = is_to_stop
        self._over = False
        self._waiting = 0  # branches that wait for a child
        self._words = 0
        self._changed = asyncio.Event()

    def ask(self) -> None:
        """It needs one; it has it at once where one is free, and else in its turn."""
        if not self.has:
            self._slots.asking[self] = None
            self._slots.serve()

    def have(self) -> None:
        """It has one from now on, though there may be none free."""
        self._slots.asking.pop(self, None)
        if not self.has:
            self.has = True
            self._slots.free -= 1
        self._changed.set()

    def give(self) -> None:
        """It needs none; what it had is for others."""
        self._slots.asking.pop(self, None)
        if self.has:
            self.has = False
            self._slots.free += 1
            self._slots.serve()
        self._changed.set()

    def end(self) -> None:
        """Its attempt has ended: it needs none any more, whatever the step has left behind."""
        self._over = True
        self.give()

    async def settled(self) -> None:
        """Wait until it has one, or needs none."""
        while self in self._slots.asking:
            self._changed.clear()
            await self._changed.wait()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """While it is open this branch of the attempt waits, and the slot is for others."""
        self._waiting += 1
        if self._waiting == 1 and not self._over:
            self.give()
            self._tell()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting and not self._over:
                self._tell()
                self.ask()
                await self._go_on()

    def _tell(self) -> None:
        self._words += 1
        self._say(self._words)

    async def _go_on(self) -> None:
        """Wait for the slot, or until another branch waits, and none is needed again.

        Whatever interrupts this branch, a time-out around it, say, is put off until then: it
        must not work on without a slot. One that is to stop waits for nobody: it runs beside
        what was given its slot, and nothing more is begun until both have ended.
        """
        interrupted: asyncio.CancelledError | None = None
        while self in self._slots.asking:
            if self._is_to_stop():
                self.have()
                break
            try:
                await self.settled()
            except asyncio.CancelledError as exc:
                interrupted = exc
        if interrupted is not None:
            raise interrupted

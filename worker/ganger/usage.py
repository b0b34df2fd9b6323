"""What this process uses of its machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Usage"]

_STATM = Path("/proc/self/statm")
_MB = 2**20


class Usage:
    """Memory now, and processor time since it was asked last.

    ``wall`` and ``cpu`` are clocks in seconds.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._wall, self._cpu = wall, cpu
        self._at, self._used = wall(), cpu()

    def memory_mb(self) -> float | None:
        """Resident, in MB of 2^20 bytes; None where the system does not say."""
        try:
            pages = int(_STATM.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return None
        return round(pages * os.sysconf("SC_PAGE_SIZE") / _MB, 1)

    def cpus(self) -> float | None:
        """How many cores it kept busy since this was asked last; None where no time has passed."""
        at, used = self._wall(), self._cpu()
        took, did = at - self._at, used - self._used
        self._at, self._used = at, used
        return round(did / took, 3) if took > 0 else None

"""Whether a process that aborted did so for want of memory, as native code does that gets none."""

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["NEAR", "length_of", "says_no_memory"]

NEAR = 0.85
"""Of its memory, from which on a process that aborts is taken for one that got no more."""
_LAST_WORDS = 8_192
"""Bytes of a log in which a process says why it aborts: it is the last that it does."""
_NO_MEMORY = re.compile(
    rb"bad_alloc|out of memory|memoryerror|memory allocation|"
    rb"(cannot|can't|could not|failed to|unable to) allocate",
    re.IGNORECASE,
)
"""What C++, Rust, Go, the C library and numeric ones say."""


def length_of(log: Path) -> int:
    """Bytes that it has; 0 where there is none."""
    with suppress(OSError):
        return log.stat().st_size
    return 0


def says_no_memory(log: Path, since: int) -> bool:
    """Whether the end of a log tells of it, beyond its first ``since`` bytes: those are of the
    process before. A log that has begun anew since has none of them."""
    length = length_of(log)
    begin = max(length - _LAST_WORDS, since if since <= length else 0)
    with suppress(OSError), log.open("rb") as file:
        file.seek(begin)
        return _NO_MEMORY.search(file.read()) is not None
    return False

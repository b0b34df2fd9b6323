"""What a check found, and what to do about it."""

from enum import StrEnum

import msgspec

__all__ = ["Finding", "Status"]


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not for ever or not as wished."""
    WRONG = "wrong"


class Finding(msgspec.Struct):
    """One line of ``ganger doctor``; ``to_do`` is empty where there is nothing to do."""

    check: str
    status: Status
    found: str
    to_do: str = ""

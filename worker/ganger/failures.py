"""What went wrong in a step, as the error its run carries."""

import traceback
from pathlib import Path
from types import TracebackType

from ganger_broker.durations import Duration, parse_duration
from ganger_broker.errors import InvalidInput
from ganger_broker.fields import MAX_SECONDS
from ganger_broker.labels import LabelValue
from ganger_broker.messages import FailureReason, RunError

__all__ = ["NonRetryable", "RetryAfter", "error_of", "timed_out"]

MAX_MESSAGE = 4_000
"""Characters of an exception's message that are kept, from its beginning."""
MAX_TYPE = 500
"""Characters of the name of its type that are kept."""
MAX_TRACEBACK = 16_000
"""Characters of a traceback that are kept, from its end: that is where it happened."""

_HERE = str(Path(__file__).parent)


class NonRetryable(Exception):
    """Raised by a step: trying again is of no use, whatever retries it has left."""


class RetryAfter(Exception):
    """Raised by a step: try again after this long, in place of its backoff.

    It counts against the step's retries; ``after`` is a duration such as ``"30s"``, seconds
    or a timedelta.
    """

    def __init__(self, after: Duration, message: str = "") -> None:
        """
        Raises:
            InvalidInput: it is no duration, or more than is taken: a moment is none, though
                some servers answer with one.
        """
        self.seconds = parse_duration(after, "RetryAfter")
        if self.seconds > MAX_SECONDS:
            raise InvalidInput(
                f"RetryAfter: {after!r} is over {MAX_SECONDS:,.0f} s; it is how long to wait, "
                "not until when"
            )
        super().__init__(message or f"to be tried again after {self.seconds:g} s")


def error_of(exc: BaseException, memory_mb: LabelValue | None = None) -> RunError:
    """The error of a step that raised. ``memory_mb``: what its worker may use, where it has a
    limit."""
    reason, message = FailureReason.STEP_FAILED, _message(exc)
    if isinstance(exc, MemoryError):
        reason = FailureReason.OUT_OF_MEMORY
        message = ": ".join(part for part in (_memory_text(memory_mb), message) if part)
    return RunError(
        reason,
        _encodable(message)[:MAX_MESSAGE],
        type=_encodable(type(exc).__qualname__)[:MAX_TYPE],
        traceback=_traceback(exc),
    )


def _memory_text(memory_mb: LabelValue | None) -> str:
    text = "there was no memory left for it"
    return text if memory_mb is None else f"{text} of the {memory_mb} MB of its worker"


def timed_out(seconds: float) -> RunError:
    """The error of a step that took longer than it may."""
    return RunError(FailureReason.TIMED_OUT, f"it did not end within its timeout of {seconds:g} s")


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return f"<{type(exc).__qualname__[:MAX_TYPE]} whose text cannot be had>"


def _traceback(exc: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(exc), exc, _own_frames(exc))
    except Exception:
        return ""
    text = _encodable("".join(lines))
    return text if len(text) <= MAX_TRACEBACK else "…" + text[-MAX_TRACEBACK:]


def _own_frames(exc: BaseException) -> TracebackType | None:
    """The traceback from the user's first frame on: what is above is ours, and noise."""
    own = exc.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename.startswith(_HERE):
        own = own.tb_next
    return own


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()

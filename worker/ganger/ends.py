"""How attempts end, as events: what a step returned or raised, in a form that is taken."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from ganger_broker.codec import encode_event
from ganger_broker.errors import InvalidInput, MalformedMessage
from ganger_broker.labels import LabelValue
from ganger_broker.messages import FailureReason, Outcome, RunError, StepFinished
from ganger_broker.to_worker import Assignment

from .context import UnfitInput
from .failures import NonRetryable, RetryAfter, error_of
from .typed import checked_output
from .workflow import BoundStep

__all__ = ["Ends"]

_log = structlog.get_logger(__name__)


class Ends:
    """The ends of one worker's attempts, packed. Whatever the step did, there is one.

    ``max_bytes`` bounds one event.
    """

    def __init__(
        self, worker_id: str, incarnation: str, *, max_bytes: int, clock: Callable[[], int]
    ) -> None:
        self._worker = worker_id
        self._incarnation = incarnation
        self._max_bytes = max_bytes
        self._now = clock

    def cancelled(self, assignment: Assignment, reason: str) -> bytes:
        """It was cancelled, for this reason."""
        error = RunError(FailureReason.CANCELLED, reason)
        return self._pack(assignment, Outcome.CANCELLED, error=error)

    def raised(
        self, assignment: Assignment, error: BaseException, memory_mb: LabelValue | None = None
    ) -> bytes:
        """The step raised. ``memory_mb``: what the worker may use, where it has a limit."""
        if isinstance(error, UnfitInput):
            failure = RunError(FailureReason.INVALID_INPUT, str(error))
            return self.failed(assignment, failure, retryable=False)
        retryable = not isinstance(error, NonRetryable)
        after = error.seconds if isinstance(error, RetryAfter) else None
        failure = error_of(error, memory_mb)
        return self.failed(assignment, failure, retryable=retryable, retry_after=after)

    def returned(self, assignment: Assignment, step: BoundStep | None, output: Any) -> bytes:
        """The step returned; it has failed if that can be no output."""
        place = f"what {assignment.workflow}:{assignment.step} returned: $"
        kind = step.returned.get(assignment.step) if step is not None else None
        try:
            output = checked_output(kind, output, place)
            packed = self._pack(assignment, Outcome.SUCCEEDED, output=output)
            if len(packed) > self._max_bytes:
                raise InvalidInput(
                    f"{place}: is {len(packed)} bytes packed, at most {self._max_bytes} are "
                    "taken (GANGER_MAX_MESSAGE_BYTES); keep large data elsewhere and return "
                    "where it is"
                )
        except (InvalidInput, RecursionError) as exc:
            failure = error_of(exc)
            failure.traceback = None  # it is all ours
            return self.failed(assignment, failure, retryable=False)
        except Exception as exc:  # a serializer or a validator of the step's own
            return self.failed(assignment, error_of(exc), retryable=False)
        return packed

    def failed(self, assignment: Assignment, failure: RunError, **fields: Any) -> bytes:
        """It failed. ``fields`` are those of ``StepFinished``; one that cannot be sent, as the
        step has made it up, is left out, and the failure says so."""
        # as text: what renders exception objects may show the step's variables, and secrets
        # with them, and takes long over large ones
        trace = {"stack": failure.traceback} if failure.traceback else {}
        with suppress(Exception):  # a log that cannot be written must not cost the step's end
            _log.warning("step failed", reason=failure.reason.value, error=failure.message, **trace)
        try:
            return self._pack(assignment, Outcome.FAILED, error=failure, **fields)
        except MalformedMessage as exc:
            _log.error("a step's end cannot be told as it is", reason=str(exc))
            fields.pop("retry_after", None)
            told = RunError(failure.reason, f"{failure.message} ({exc})", type=failure.type)
            return self._pack(assignment, Outcome.FAILED, error=told, **fields)

    def _pack(
        self,
        assignment: Assignment,
        outcome: Outcome,
        *,
        output: Any = None,
        error: RunError | None = None,
        **fields: Any,
    ) -> bytes:
        event = StepFinished(
            self._worker,
            self._incarnation,
            assignment.attempt,
            outcome,
            output,
            error,
            at=self._now(),
            **fields,
        )
        return encode_event(event)

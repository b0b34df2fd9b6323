"""How RabbitMQ is tried again: for ever, less and less often, never in step with others."""

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.wait import wait_exponential, wait_random

from ganger_broker.errors import TransportClosed

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "retry_for_ever"]

log = structlog.get_logger(__name__)

FIRST_WAIT = 0.1
"""Seconds to the second attempt, doubled for each further one."""
LONGEST_WAIT = 5.0
"""Seconds between attempts at most, jitter aside: how late a broker's return may be noticed."""
JITTER = 0.5
"""Seconds at most added by chance, so that a fleet does not come back in one instant."""


def retry_for_ever(
    what: str,
    *,
    on: tuple[type[Exception], ...] = (Exception,),
    unless: type[Exception] = TransportClosed,
    **context: object,
) -> AsyncRetrying:
    """A retry policy for the exceptions of ``on`` but not ``unless`` nor ``TransportClosed``.

    It logs a line before each further attempt.
    """

    def worth_it(failure: BaseException) -> bool:
        return isinstance(failure, on) and not isinstance(failure, (unless, TransportClosed))

    def say(state: RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        log.warning(
            f"{what} failed, trying again",
            attempt=state.attempt_number,
            wait=round(state.upcoming_sleep, 2),
            error=str(failure) or type(failure).__name__,
            **context,
        )

    return AsyncRetrying(
        retry=retry_if_exception(worth_it),
        wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT) + wait_random(0, JITTER),
        before_sleep=say,
        reraise=True,
    )

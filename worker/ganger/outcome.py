"""What a run that has ended comes to, for who waited for it."""

from typing import Any

from ganger_broker.errors import RunCancelled, RunFailed
from ganger_broker.messages import RunResult, RunStatus

__all__ = ["output_of"]


def output_of(run_id: str, workflow: str, result: RunResult) -> dict[str, Any]:
    """What each step of a run that has ended returned; raised where it did not succeed."""
    if result.status is RunStatus.SUCCEEDED:
        return result.output
    kind = RunCancelled if result.status is RunStatus.CANCELLED else RunFailed
    text = f"run {run_id} of {workflow} {result.status.value}"
    error = result.error
    if error is None:
        raise kind(text, result)
    where = f" in step {error.step}" if error.step else ""
    attempt = f" (attempt {error.attempt})" if error.attempt else ""
    what = ": ".join(part for part in (error.type, error.message) if part)
    raised = kind(f"{text}{where}{attempt}: {what} [{error.reason.value}]", result)
    if error.traceback:
        raised.add_note(error.traceback)
    raise raised

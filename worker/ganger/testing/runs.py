"""What became of a run, as a test asks for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ganger.outcome import output_of
from ganger_broker.errors import GangerError, InvalidInput
from ganger_broker.messages import RunError, RunResult, RunStatus

if TYPE_CHECKING:
    from .fleet import Fleet

__all__ = ["NotEnded", "Run", "Step"]


class NotEnded(GangerError):
    """A run has not ended, and its output was asked for; the text explains its steps."""


@dataclass(frozen=True)
class Step:
    """One step of a run as it is at one moment.

    ``status``: waiting, pending, assigned, running, backoff, succeeded, failed or cancelled.
    ``worker``: the id of the one that has it, or had it last. ``workers``: of all that it was
    given to, in order: one for each attempt. ``failures``: attempts that failed.
    """

    name: str
    status: str
    worker: str | None
    workers: tuple[str, ...]
    failures: int
    output: Any
    error: RunError | None

    @property
    def attempts(self) -> int:
        """How often it was given to a worker."""
        return len(self.workers)


class Run:
    """A run on a ``Fleet``. What it tells is so at this moment of the fleet's time."""

    def __init__(self, fleet: "Fleet", run_id: str, workflow: str) -> None:
        self.id = run_id
        self.workflow = workflow
        self._fleet = fleet

    def __repr__(self) -> str:
        found = self._read()
        error = _error(found.get("error"))
        why = "" if error is None else f", error={error.message!r}"
        return f"Run(id={self.id!r}, workflow={self.workflow!r}, status={found['status']!r}{why})"

    @property
    def status(self) -> RunStatus:
        """``"running"``, ``"succeeded"``, ``"failed"`` or ``"cancelled"``."""
        return RunStatus(self._read()["status"])

    @property
    def ended(self) -> bool:
        """Whether it has ended, however."""
        return self.status is not RunStatus.RUNNING

    @property
    def output(self) -> dict[str, Any]:
        """What each step returned, by its name.

        Raises:
            RunFailed: it failed; the text names step, attempt and exception.
            RunCancelled: it was cancelled, by somebody or by its schedule time-out.
            NotEnded: it has not ended; the text says what it waits for.
        """
        found = self._read()
        if found["status"] == RunStatus.RUNNING:
            raise NotEnded(f"run {self.id} has not ended\n{self.explain()}")
        result = RunResult(
            self.workflow,
            self.id,
            RunStatus(found["status"]),
            found.get("output") or {},
            _error(found.get("error")),
        )
        return output_of(self.id, self.workflow, result)

    @property
    def error(self) -> RunError | None:
        """Why it did not succeed; None where it did, or has not ended."""
        return _error(self._read().get("error"))

    @property
    def steps(self) -> dict[str, Step]:
        """Its steps by name."""
        found = self._read()
        return {
            name: Step(
                name,
                fields["status"],
                fields.get("worker"),
                tuple(found["placed"][name]),
                fields.get("failures", 0),
                fields.get("output"),
                _error(fields.get("error")),
            )
            for name, fields in found["steps"].items()
        }

    def step(self, name: str) -> Step:
        """One of its steps.

        Raises:
            InvalidInput: it has no such step.
        """
        steps = self.steps
        if name not in steps:
            known = ", ".join(steps)
            raise InvalidInput(f"step: {self.workflow} has no step {name!r}; there are {known}")
        return steps[name]

    def explain(self, step: str | None = None) -> str:
        """Why a step waits, or what became of it: what ``ganger explain`` prints.

        ``step``: by default all steps of the run that have not ended, or where it has ended
        all of them.

        Raises:
            InvalidInput: it has no such step.
        """
        if step is not None:
            names = [self.step(step).name]
        else:
            steps = self.steps.values()
            left = [step.name for step in steps if step.status not in _ENDED]
            names = left or [step.name for step in steps]
        return "\n".join(self._fleet._explain(f"{self.id}/{name}") for name in names)

    def cancel(self, reason: str = "cancelled on request") -> None:
        """Cancel it, as ``app.admin.cancel`` does."""
        self._fleet._cancel(self.id, reason)

    def _read(self) -> dict[str, Any]:
        return self._fleet._read(self.id)


_ENDED = ("succeeded", "failed", "cancelled")


def _error(fields: dict[str, Any] | None) -> RunError | None:
    return None if fields is None else msgspec.convert(fields, RunError)

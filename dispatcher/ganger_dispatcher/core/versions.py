"""Which definitions of a workflow live workers have: one and the same for one version.

A run keeps the definition that it began with, and while workers roll from one to another it keeps
to those that have it: what a step does, needs and returns is in their code.
"""

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.messages import WorkerRegistered
from ganger_dispatcher.placement import Placement

from .digest import digest
from .records import Worker, WorkerState

__all__ = ["Versions", "actions_of", "as_defined", "take_in", "versions_of"]


def as_defined(action: str, which: str) -> str:
    """The action as one definition, by its digest, has it. No worker registers it by this name."""
    return f"{action}@{which}"


def actions_of(worker: Worker) -> list[str]:
    """The actions that a worker is matched by: those it has registered, and as it defines them."""
    own = [
        as_defined(action, worker.workflows[name][1])
        for action in worker.actions
        if (name := action.partition(":")[0]) in worker.workflows
    ]
    return [*worker.actions, *own]


def take_in(placement: Placement, worker: Worker) -> None:
    """Have the placement know a worker as it was stored."""
    placement.join(
        worker.id,
        worker.labels,
        actions_of(worker),
        worker.slots,
        worker.used,
        is_open=worker.is_open,
    )
    if worker.state is WorkerState.PAUSED:
        placement.pause(worker.id)


def versions_of(event: WorkerRegistered) -> dict[str, tuple[str, str]]:
    """Name → (version, digest) of the workflows that a worker registers."""
    return {flow.name: (flow.version, digest(flow)) for flow in event.workflows}


class Versions:
    """Who has which definition, of all workers that neither drain nor are paused."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str], dict[str, set[str]]] = {}
        self._of: dict[str, dict[str, set[str]]] = {}  # workflow → digest → workers

    def add(self, worker: Worker) -> set[str]:
        """It has registered. The workflows of which there are several definitions since."""
        if worker.state in (WorkerState.DRAINING, WorkerState.PAUSED):
            return set()
        before = {name for name in worker.workflows if self.several(name)}
        for name, (version, which) in worker.workflows.items():
            has = self._workers.setdefault((name, version), {})
            has.setdefault(which, set()).add(worker.id)
            self._of.setdefault(name, {}).setdefault(which, set()).add(worker.id)
        return {name for name in worker.workflows if self.several(name)} - before

    def several(self, name: str) -> bool:
        """Whether live workers have different definitions of a workflow."""
        return len(self._of.get(name, ())) > 1

    def has(self, name: str, which: str) -> bool:
        """Whether a live worker has this definition of a workflow."""
        return which in self._of.get(name, ())

    def drop(self, worker: Worker) -> None:
        """It takes no more of them; one that was dropped before may be dropped again."""
        for name, (version, which) in worker.workflows.items():
            has = self._workers.get((name, version), {})
            those = has.get(which, set())
            those.discard(worker.id)
            if not those:
                has.pop(which, None)
            if not has:
                self._workers.pop((name, version), None)
            those = self._of.get(name, {}).get(which, set())
            those.discard(worker.id)
            if not those:
                self._of.get(name, {}).pop(which, None)

    def among(self, worker: Worker, name: str) -> bool:
        """Whether the worker is one that has the workflow and takes its steps."""
        _, which = worker.workflows.get(name, ("", ""))
        return worker.id in self._of.get(name, {}).get(which, ())

    def clash(self, worker: Worker) -> bool:
        """Whether another has a different definition under the same name and version."""
        return any(
            self._workers.get((name, version), {}).keys() - {which}
            for name, (version, which) in worker.workflows.items()
        )

    def conflict(self, event: WorkerRegistered) -> str | None:
        """Why this worker is not to come: another has a different definition under the same
        name and version, and the steps of a run would mean this here and that there."""
        for flow in event.workflows:
            has = self._workers.get((flow.name, flow.version), {})
            mine = digest(flow)
            for which, workers in has.items():
                others = workers - {event.worker}
                if which != mine and others:
                    return _told_apart(flow, min(others))
        return None


def _told_apart(flow: WorkflowDefinition, other: str) -> str:
    return (
        f"workflow {flow.name!r}, version {flow.version!r}: worker {other} has registered a "
        f"different definition of it; give the new one a version of its own, "
        f"@app.workflow(version=…), or let the old workers leave first"
    )

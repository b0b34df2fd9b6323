"""Which definitions of a workflow live workers have: one and the same for one version."""

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.messages import WorkerRegistered

from .digest import digest
from .records import Worker, WorkerState

__all__ = ["Versions", "versions_of"]


def versions_of(event: WorkerRegistered) -> dict[str, tuple[str, str]]:
    """Name → (version, digest) of the workflows that a worker registers."""
    return {flow.name: (flow.version, digest(flow)) for flow in event.workflows}


class Versions:
    """Who has which definition, of all workers that are not draining."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str], dict[str, set[str]]] = {}

    def add(self, worker: Worker) -> None:
        """It has registered."""
        if worker.state is not WorkerState.DRAINING:
            for name, (version, which) in worker.workflows.items():
                has = self._workers.setdefault((name, version), {})
                has.setdefault(which, set()).add(worker.id)

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

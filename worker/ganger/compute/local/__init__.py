"""Replicas as processes of this machine, kept by a supervisor that outlives its terminal."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from ganger.compute.adapter import DeployFailed
from ganger.compute.deploying import plan_of
from ganger.compute.planning import Plan, Replica
from ganger.compute.store import DeploymentStore, open_store
from ganger_broker.deployments import Deployment, ReplicaRecord, ReplicaState
from ganger_broker.errors import InvalidSetting
from ganger_broker.settings import Settings, environment_name

from .processes import find

__all__ = ["Local"]

T = TypeVar("T")

LOOK = 0.1
"""Seconds between looks at how far it is, where somebody waits for it."""
START_PATIENCE = 60.0
"""Seconds that replicas have to register in."""
SUPERVISOR_PATIENCE = 30.0
SILENT = 10_000
"""Milliseconds after which a supervisor on another machine counts as gone."""

_SAID = ("broker_url", "redis_url", "prefix", "drain_grace", "log_level", "log_format")
"""Settings that the supervisor and the replicas are told, as they may have been flags."""


class Local:
    """The port, for this machine."""

    options: ClassVar[Mapping[str, str]] = {
        "state_dir": "where logs are kept; default: ~/.local/state/ganger, or below XDG_STATE_HOME",
    }

    def __init__(self, settings: Settings, options: Mapping[str, str]) -> None:
        if settings.embedded:
            raise InvalidSetting(
                f"{environment_name('broker_url')}: {settings.broker_url} is a broker inside one "
                "process, and replicas are processes of their own; give an amqp:// URL"
            )
        self._settings = settings
        given = options.get("state_dir")
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self._state = Path(given).absolute() if given else Path(home) / "ganger"

    def logs(self, deployment: Deployment) -> Path:
        """The folder of a deployment's logs."""
        return self._state / self._settings.prefix / deployment.name

    # ── the port ──────────────────────────────────────────────────────────────────────

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        """Nothing is written or sent: replicas are started by the supervisor."""
        return {}

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        """The replicas that the supervisor keeps; without one, those of their processes that are
        still there."""
        records = self._ask(lambda store: store.replicas(deployment.name))
        supervisor = self._ask(lambda store: store.supervisor(deployment.name))
        kept = [r for r in records.values() if r.state is not ReplicaState.STOPPING]
        here = supervisor is not None and supervisor.host == socket.gethostname()
        if supervisor is not None and here and find(supervisor.pid, supervisor.began) is None:
            kept = [record for record in kept if find(record.pid, record.began) is not None]
        return [Replica(record.pool, record.number, record.region) for record in kept]

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        """Have a supervisor make it so, and wait until all replicas have registered."""
        yield from self._supervised(deployment)
        said: dict[str, tuple[str, int]] = {}
        until = time.monotonic() + START_PATIENCE
        while True:
            records = self._ask(lambda store: store.replicas(deployment.name))
            # asked anew: it may follow its load, or somebody else has scaled it
            now = self._ask(lambda store: store.deployment(deployment.name)) or deployment
            wanted = {replica.worker_id(now.name) for replica in plan_of(now).replicas}
            yield from _news(records, said)
            running = {w for w, r in records.items() if r.state is ReplicaState.RUNNING}
            if running == wanted and records.keys() == wanted:
                return
            late = time.monotonic() > until
            for worker, record in records.items():
                failing = record.state is ReplicaState.BACKOFF and record.restarts > 2
                if worker in wanted and (failing or late) and worker not in running:
                    raise DeployFailed(_why(record))
            if late and not wanted <= running:
                raise DeployFailed(
                    f"its supervisor does not start replicas; see {self._log_of(deployment)}"
                )
            time.sleep(LOOK)

    def remove(self, deployment: Deployment) -> Iterator[str]:
        """Wait until the supervisor has drained and ended all replicas."""
        yield from self._supervised(deployment)
        said: dict[str, tuple[str, int]] = {}
        while True:
            records = self._ask(lambda store: store.replicas(deployment.name))
            supervisor = self._ask(lambda store: store.supervisor(deployment.name))
            yield from _news(records, said)
            gone = supervisor is None or find(supervisor.pid, supervisor.began) is None
            if not records and gone:  # it ends when all is down
                return
            time.sleep(LOOK)

    # ── the supervisor ────────────────────────────────────────────────────────────────

    def _supervised(self, deployment: Deployment) -> Iterator[str]:
        """Start a supervisor where there is none."""
        record = self._ask(lambda store: store.supervisor(deployment.name))
        if record is not None and record.host != socket.gethostname():
            if time.time() * 1000 - record.seen_at < SILENT:
                raise DeployFailed(
                    f"deployment {deployment.name!r} is kept on {record.host}; take it down "
                    "there, or give this one another name (--deployment)"
                )
        elif record is not None and find(record.pid, record.began) is not None:
            return
        process = self._start_supervisor(deployment)
        log = self._log_of(deployment)
        yield f"supervisor started, pid {process.pid}; its log: {log}"
        until = time.monotonic() + SUPERVISOR_PATIENCE
        while record is None or find(record.pid, record.began) is None:
            if process.poll() == 0:
                return  # somebody else has just started one, or there was nothing left to do
            if process.poll() or time.monotonic() > until:
                raise DeployFailed(f"its supervisor does not come up; its log: {log}")
            time.sleep(LOOK)
            record = self._ask(lambda store: store.supervisor(deployment.name))

    def _start_supervisor(self, deployment: Deployment) -> "subprocess.Popen[bytes]":
        folder = self.logs(deployment)
        folder.mkdir(parents=True, exist_ok=True)
        said = {name: getattr(self._settings, name) for name in _SAID}
        environment = {environment_name(name): str(value) for name, value in said.items()}
        command = [sys.executable, "-m", "ganger.compute.local", deployment.name, str(folder)]
        with self._log_of(deployment).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command line
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it survives the terminal
            )

    def _log_of(self, deployment: Deployment) -> Path:
        return self.logs(deployment) / "supervisor.log"

    def _ask(self, question: Callable[[DeploymentStore], Awaitable[T]]) -> T:
        async def asking() -> T:
            store = open_store(self._settings)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(asking())


def _news(records: Mapping[str, ReplicaRecord], said: dict[str, tuple[str, int]]) -> Iterator[str]:
    """A line for each replica that is in another state than was said."""
    for worker, record in sorted(records.items()):
        state = (record.state.value, record.restarts)
        if said.get(worker) != state:
            said[worker] = state
            ended = f": {record.ended}" if record.state is ReplicaState.BACKOFF else ""
            yield f"{worker}  {record.region}  {record.state}{ended}"
    for worker in sorted(said.keys() - records.keys()):
        del said[worker]
        yield f"{worker}  ended"


def _why(record: ReplicaRecord) -> str:
    how = record.ended or "it has not registered with the dispatcher; is one running?"
    return f"replica {record.worker} does not come up: {how}; its log: {record.log}"

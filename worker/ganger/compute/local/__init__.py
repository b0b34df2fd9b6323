"""Replicas as processes of this machine, kept by a supervisor that outlives its terminal."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from ganger.compute.adapter import DeployFailed, Overtaken, check_leaving
from ganger.compute.deploying import plan_of
from ganger.compute.planning import Plan, Replica
from ganger.compute.store import DeploymentStore, open_store, reading
from ganger_broker.deployments import Deployment, ReplicaRecord, ReplicaState
from ganger_broker.errors import InvalidInput, InvalidSetting
from ganger_broker.settings import Settings, environment_name

from .processes import find
from .replica import KILL_AFTER

__all__ = ["Local"]

T = TypeVar("T")

LOOK = 0.1
"""Seconds between looks at how far it is, where somebody waits for it."""
START_PATIENCE = 60.0
"""Seconds that replicas have to register in."""
SUPERVISOR_PATIENCE = 30.0
END_PATIENCE = 20.0
"""Seconds beyond what their supervisor gives replicas to end in."""
SUPERVISORS_MOST = 3
"""How many supervisors one ``down`` starts, where they die."""
SILENT = 10_000
"""Milliseconds after which a supervisor on another machine counts as gone."""

_GOING = (ReplicaState.DRAINING, ReplicaState.STOPPING)
_SAID = ("broker_url", "redis_url", "prefix", "drain_grace", "log_level", "log_format")
"""Settings that the supervisor and the replicas are told, as they may have been flags."""


class Local:
    """The port, for this machine."""

    options: ClassVar[Mapping[str, str]] = {
        "state_dir": "where logs are kept; default: ~/.local/state/ganger, or below XDG_STATE_HOME",
    }

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if settings.embedded:
            raise InvalidSetting(
                f"{environment_name('broker_url')}: {settings.broker_url} is a broker inside one "
                "process, and replicas are processes of their own; give an amqp:// URL"
            )
        self._settings = settings
        self._clock, self._sleep = clock, sleep
        given = options.get("state_dir")
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self._state = Path(given).absolute() if given else Path(home) / "ganger"

    def logs(self, deployment: Deployment) -> Path:
        """The folder of a deployment's logs."""
        return self._state / self._settings.prefix / deployment.name

    def prepare(self, deployment: Deployment) -> None:
        """Make the folder of its logs.

        Raises:
            InvalidInput: it cannot be made, or not be written to.
        """
        folder = self.logs(deployment)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._log_of(deployment).open("ab").close()
        except OSError as exc:
            raise InvalidInput(
                f"state_dir: logs cannot be kept in {folder}: {exc.strerror}; give another folder "
                "with --set state_dir=… or XDG_STATE_HOME"
            ) from exc

    # ── the port ──────────────────────────────────────────────────────────────────────

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        """Nothing is written or sent: replicas are started by the supervisor."""
        return {}

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        """The replicas that the supervisor keeps; without one, those of their processes that are
        still there."""
        records = self._ask(lambda store: store.replicas(deployment.name))
        supervisor = self._ask(lambda store: store.supervisor(deployment.name))
        kept = [r for r in records.values() if r.state not in _GOING]
        here = supervisor is not None and supervisor.host == socket.gethostname()
        if supervisor is not None and here and find(supervisor.pid, supervisor.began) is None:
            kept = [record for record in kept if find(record.pid, record.began) is not None]
        return [Replica(record.pool, record.number, record.region) for record in kept]

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        """Have a supervisor make it so, and wait until all replicas have registered."""
        before = self._ask(lambda store: store.replicas(deployment.name))
        yield from self._supervised(deployment)
        said: dict[str, tuple[str, int]] = {}
        until = self._clock() + START_PATIENCE
        while True:
            records = self._ask(lambda store: store.replicas(deployment.name))
            # asked anew: it may follow its load, or somebody else has scaled it
            now = self._ask(lambda store: store.deployment(deployment.name)) or deployment
            if now.leaving:
                raise Overtaken(f"{now.name} is being taken down meanwhile, by somebody else")
            wanted = {replica.worker_id(now.name) for replica in plan_of(now).replicas}
            yield from _news(_since(before, records), said)
            running = {w for w, r in records.items() if r.state is ReplicaState.RUNNING}
            left = {w for w, r in records.items() if r.state is not ReplicaState.DRAINING}
            if running == left == wanted:
                return
            if any(w in wanted and r.state is ReplicaState.STOPPING for w, r in records.items()):
                until = self._clock() + START_PATIENCE  # it comes when it has ended
            late = self._clock() > until
            for worker, record in records.items():
                ended = record.restarts - (before[worker].restarts if worker in before else 0)
                failing = record.state is ReplicaState.BACKOFF and ended > 2
                if worker in wanted and (failing or late) and worker not in running:
                    raise DeployFailed(_why(record, ended=ended > 0))
            if late and not wanted <= running:
                raise DeployFailed(
                    f"its supervisor does not start replicas; see {self._log_of(deployment)}"
                )
            self._sleep(LOOK)

    def remove(self, deployment: Deployment) -> Iterator[str]:
        """Wait until the supervisor has drained and ended all replicas; where it dies meanwhile,
        another does."""
        yield from self._supervised(deployment)
        said: dict[str, tuple[str, int]] = {}
        started, patience = 1, self._time_to_end(deployment)
        until = self._clock() + patience
        while True:
            check_leaving(self._ask(lambda store: store.deployment(deployment.name)))
            is_kept = self._has_supervisor(deployment)
            records = self._ask(lambda store: store.replicas(deployment.name))
            yield from _news(records, said)
            if not is_kept and not records:  # it ends when all is down
                return
            if not is_kept:
                if started == SUPERVISORS_MOST:
                    raise DeployFailed(
                        f"its supervisor ends before its replicas do; see "
                        f"{self._log_of(deployment)}"
                    )
                started, until = started + 1, self._clock() + patience
                yield from self._supervised(deployment)
            if self._clock() > until:
                raise DeployFailed(
                    f"{', '.join(sorted(records)) or 'its supervisor'}: still there after "
                    f"{patience:.0f} s; see {self._log_of(deployment)}, and take it down again"
                )
            self._sleep(LOOK)

    def _has_supervisor(self, deployment: Deployment) -> bool:
        record = self._ask(lambda store: store.supervisor(deployment.name))
        return record is not None and find(record.pid, record.began) is not None

    def _time_to_end(self, deployment: Deployment) -> float:
        """Seconds in which a supervisor has ended all replicas, those too that do not drain. They
        may have been started with a longer grace than this command has."""
        records = self._ask(lambda store: store.replicas(deployment.name))
        running = [find(record.pid, record.began) for record in records.values()]
        told = [process.grace() for process in running if process is not None]
        return max([self._settings.drain_grace, *told]) + KILL_AFTER + END_PATIENCE

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
        until = self._clock() + SUPERVISOR_PATIENCE
        while record is None or find(record.pid, record.began) is None:
            if process.poll() == 0:
                return  # somebody else has just started one, or there was nothing left to do
            if process.poll() or self._clock() > until:
                raise DeployFailed(f"its supervisor does not come up; its log: {log}")
            self._sleep(LOOK)
            record = self._ask(lambda store: store.supervisor(deployment.name))

    def _start_supervisor(self, deployment: Deployment) -> "subprocess.Popen[bytes]":
        try:
            self.prepare(deployment)
        except InvalidInput:
            if not deployment.leaving:
                raise
            self._state = _somewhere()  # taking it down needs no more of a folder than that
            self.prepare(deployment)
        said = {name: getattr(self._settings, name) for name in _SAID}
        environment = {environment_name(name): str(value) for name, value in said.items()}
        command = [sys.executable, "-m", "ganger.compute.local", deployment.name]
        command += [str(self.logs(deployment))]
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
                with reading(self._settings):
                    return await question(store)
            finally:
                await store.close()

        return asyncio.run(asking())


def _somewhere() -> Path:
    """A folder that can be written to.

    Raises:
        DeployFailed: there is none.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="ganger-"))
    except OSError as exc:
        raise DeployFailed(f"there is no folder for a supervisor's log: {exc}") from exc


def _since(
    before: Mapping[str, ReplicaRecord], records: Mapping[str, ReplicaRecord]
) -> dict[str, ReplicaRecord]:
    """The records but for those of replicas that still rest from what failed them before."""
    resting = ReplicaState.BACKOFF
    return {
        worker: record
        for worker, record in records.items()
        if record.state is not resting or record != before.get(worker)
    }


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


def _why(record: ReplicaRecord, *, ended: bool) -> str:
    """Why it does not come up. ``ended``: it has done so since that was asked for."""
    how = "it has not registered with the dispatcher; is one running?"
    if ended and record.ended:
        how = record.ended
    return f"replica {record.worker} does not come up: {how}; its log: {record.log}"

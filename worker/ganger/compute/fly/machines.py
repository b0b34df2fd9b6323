"""What a replica is as a Fly machine: what is asked for, and how it is known again."""

from collections.abc import Iterable, Mapping
from hashlib import blake2s
from typing import Any

import msgspec

from ganger.compute.adapter import DeployFailed
from ganger.compute.configs import Compute
from ganger.compute.container import arguments, handed_on, seconds_to_stop
from ganger.compute.planning import Plan, Replica
from ganger_broker.deployments import Deployment
from ganger_broker.settings import Settings

__all__ = [
    "AT_REST",
    "DEPLOYMENT",
    "Machine",
    "machine_name",
    "requests_of",
    "sort_out",
]

DEPLOYMENT = "ganger_deployment"
"""Key of the metadata that says whose machine it is; the other keys say which one."""
_POOL, _REPLICA, _ASKED = "ganger_pool", "ganger_replica", "ganger_asked"

_GONE = frozenset({"destroying", "destroyed", "launch_failed"})
"""States of machines that are none any more."""
AT_REST = frozenset({"created", "stopped", "suspended", "failed"})
"""States of machines in which nothing runs until somebody starts them."""

_LONGEST_NAME = 63
_MEMORY_STEP = 256
"""MB: what Fly sells memory in."""


class _Config(msgspec.Struct, frozen=True):
    metadata: dict[str, str] | None = None
    guest: dict[str, Any] | None = None


class Machine(msgspec.Struct, frozen=True):
    """A machine as Fly describes it. ``instance_id`` is that of its newest version."""

    id: str
    name: str
    state: str
    region: str
    instance_id: str = ""
    config: _Config | None = None
    incomplete_config: _Config | None = None
    """In place of ``config`` while Fly cannot reach the host."""

    @property
    def _config(self) -> _Config:
        return self.config or self.incomplete_config or _Config()

    @property
    def metadata(self) -> dict[str, str]:
        """What we wrote on it, and what others did."""
        return self._config.metadata or {}

    @property
    def replica(self) -> Replica | None:
        """The replica that it says it is."""
        number = self.metadata.get(_REPLICA, "")
        if not (number.isascii() and number.isdigit()):
            return None
        return Replica(self.metadata.get(_POOL, ""), int(number), self.region)

    def is_as(self, request: Mapping[str, Any]) -> bool:
        """Whether it was made or last updated by such a request.

        Fly normalises what it stores, so that what was asked for is compared by its digest;
        the size, which somebody may have changed by hand, as it is.
        """
        config = request["config"]
        guest = self._config.guest or {}
        return self.metadata.get(_ASKED) == config["metadata"][_ASKED] and all(
            guest.get(key) == value for key, value in config["guest"].items()
        )


def machine_name(deployment: str, replica: Replica) -> str:
    """Its name: unique in the Fly app, so that Fly refuses to make it a second time."""
    name = f"{deployment}-{replica.pool}-{replica.number}"
    if len(name) <= _LONGEST_NAME:
        return name
    return (
        f"{deployment}-{blake2s(replica.pool.encode(), digest_size=4).hexdigest()}-{replica.number}"
    )


def requests_of(
    deployment: Deployment, plan: Plan, settings: Settings, image: str
) -> dict[Replica, dict[str, Any]]:
    """The body of the request that makes each replica's machine.

    Raises:
        DeployFailed: Fly has no machine of such a size.
    """
    environment = handed_on(settings)
    requests = {}
    for pool in plan.pools:
        guest = _guest(pool.pool.compute)
        for replica in pool.replicas:
            config = {
                "image": image,
                "guest": guest,
                "env": environment,
                "init": {"entrypoint": ["ganger"], "cmd": _command(deployment, replica)},
                "restart": {"policy": "always"},
                "stop_config": {
                    "signal": "SIGTERM",
                    "timeout": seconds_to_stop(settings) * 10**9,  # nanoseconds
                },
            }
            requests[replica] = {
                "name": machine_name(deployment.name, replica),
                "region": replica.region,
                "config": config | {"metadata": _metadata(deployment, replica, config)},
            }
    return requests


def _guest(compute: Compute) -> dict[str, Any]:
    memory = compute.memory_mb
    if memory % _MEMORY_STEP:
        low = memory - memory % _MEMORY_STEP
        raise DeployFailed(
            f"memory_mb: {memory:,}: Fly has machines of multiples of {_MEMORY_STEP} MB, such as "
            f"{low + _MEMORY_STEP:,}"
        )
    return {"cpu_kind": compute.cpu_kind.value, "cpus": compute.cpus, "memory_mb": memory}


def _command(deployment: Deployment, replica: Replica) -> list[str]:
    worker = ["--id", replica.worker_id(deployment.name)]
    return [*arguments(deployment, replica.pool, replica.region), *worker]


def _metadata(
    deployment: Deployment, replica: Replica, config: Mapping[str, Any]
) -> dict[str, str]:
    asked = blake2s(msgspec.json.encode(config, order="sorted"), digest_size=16)
    return {
        DEPLOYMENT: deployment.name,
        _POOL: replica.pool,
        _REPLICA: str(replica.number),
        _ASKED: asked.hexdigest(),
    }


def sort_out(
    deployment: str, machines: Iterable[Machine]
) -> tuple[dict[Replica, Machine], list[Machine]]:
    """The deployment's machines by the replicas that they are, and those that are none.

    None are copies (``fly machine clone`` copies the metadata too): their workers would have
    the id of another's. And what is being destroyed is not there any more.
    """
    replicas: dict[Replica, Machine] = {}
    strays = []
    for machine in machines:
        if machine.state in _GONE or machine.metadata.get(DEPLOYMENT) != deployment:
            continue
        replica = machine.replica
        if replica is not None and machine.name == machine_name(deployment, replica):
            replicas[replica] = machine
        else:
            strays.append(machine)
    return replicas, strays

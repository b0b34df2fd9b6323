"""``--on compose``: a compose file of a plan, for the containers of one machine."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from ganger_broker.deployments import Deployment
from ganger_broker.errors import InvalidInput
from ganger_broker.pool_labels import CPU_KIND, CPUS, MEMORY_MB, POOL, REGION
from ganger_broker.settings import Settings

from .adapter import DeployFailed, check_not_scaled
from .container import (
    BROKER_URL,
    PROGRAM,
    arguments,
    environment,
    is_well,
    seconds_to_stop,
)
from .counted import counted
from .names import short_name
from .options import IMAGE, Option, read_options, told
from .planning import Plan, PoolPlan, Replica
from .programs import Program
from .yaml_text import yaml_text

__all__ = ["Compose"]

_OPTIONS = {
    "image": Option(
        "the image that has ganger and your app", IMAGE, "an image, such as app:1.2", None
    ),
    "project": Option(
        "what compose calls it; without, ganger-<deployment>",
        r"(?!ganger$)[a-z0-9][a-z0-9_-]{0,62}",
        "lower case letters, digits, _ and -, and not ganger, which is that of the servers",
    ),
    "network": Option(
        "a network that is there, on which RabbitMQ is",
        r"[A-Za-z0-9][A-Za-z0-9_.-]*",
        "the name of a network",
    ),
}

_DOCKER = Program(
    "docker", "without --apply the compose file is printed: take it where docker compose is"
)
PATIENCE = 20.0
"""Seconds that docker has to say what runs."""
START = 60
"""Seconds that a worker may be unwell in after its start."""


class Compose:
    """A service a pool and region. All regions are this machine: they are labels only."""

    options: ClassVar[Mapping[str, str]] = told(_OPTIONS)

    def __init__(self, settings: Settings, options: Mapping[str, str]) -> None:
        given = read_options(_OPTIONS, options)
        self._settings = settings
        self._image, self._network = given["image"], given["network"]
        self._given_project = given["project"]

    def render(self, deployment: Deployment, plan: Plan) -> dict[str, str]:
        """The compose file."""
        check_not_scaled(deployment)
        return {"compose.yaml": yaml_text([self._file(deployment, plan)])}

    def running(self, deployment: Deployment, plan: Plan) -> list[Replica] | None:
        """The containers that run; None where docker does not answer."""
        project = f"label=com.docker.compose.project={self._project(deployment)}"
        places = f'{{{{.Label "{POOL}"}}}} {{{{.Label "{REGION}"}}}}'
        try:
            text = _DOCKER.ask("ps", "--filter", project, "--format", places, timeout=PATIENCE)
        except DeployFailed:
            return None
        pairs = (line.split() for line in text.splitlines())
        return counted(plan, Counter((pair[0], pair[1]) for pair in pairs if len(pair) == 2))

    def apply(self, deployment: Deployment, plan: Plan) -> Iterator[str]:
        """Have compose start, change and end containers until they are those of the file."""
        self._check_broker()
        [text] = self.render(deployment, plan).values()
        if not plan.replicas:
            yield from self.remove(deployment)
            return
        self._check_compose()
        yield f"docker compose -p {self._project(deployment)} up, {len(plan.replicas)} containers"
        yield from self._compose(
            deployment,
            *("-f", "-", "up", "--detach", "--remove-orphans", "--timeout", self._seconds),
            given=text,
        )

    def remove(self, deployment: Deployment) -> Iterator[str]:
        """Have compose end all containers of the project; they drain before."""
        self._check_compose()
        yield f"its workers have {self._seconds} s to drain and end"
        yield from self._compose(deployment, "down", "--remove-orphans", "--timeout", self._seconds)

    @property
    def _seconds(self) -> str:
        return str(seconds_to_stop(self._settings))

    def _project(self, deployment: Deployment) -> str:
        """Never that of the servers: compose removes what a project's file lacks."""
        return self._given_project or f"ganger-{deployment.name}"

    # ── the file ──────────────────────────────────────────────────────────────────────────

    def _file(self, deployment: Deployment, plan: Plan) -> dict[str, Any]:
        services = {
            short_name(planned.pool.name, region): self._service(
                deployment, planned, region, replicas
            )
            for planned in plan.pools
            for region, replicas in planned.per_region.items()
            if replicas
        }
        file: dict[str, Any] = {"name": self._project(deployment), "services": services}
        if self._network:
            file["networks"] = {"default": {"name": self._network, "external": True}}
        return file

    def _service(
        self, deployment: Deployment, planned: PoolPlan, region: str, replicas: int
    ) -> dict[str, Any]:
        pool, compute = planned.pool.name, planned.pool.compute
        limits = {"cpus": str(compute.cpus), "memory": f"{compute.memory_mb}M"}
        url = f"${{{BROKER_URL}:?the URL of RabbitMQ as containers reach it}}"
        return {
            "image": self._image,
            "entrypoint": [PROGRAM],
            "command": arguments(deployment, pool, region),
            "environment": {BROKER_URL: url, **environment(self._settings)},
            "labels": {
                "ganger.deployment": deployment.name,
                POOL: pool,
                REGION: region,
                CPU_KIND: compute.cpu_kind.value,
                CPUS: str(compute.cpus),
                MEMORY_MB: str(compute.memory_mb),
            },
            "deploy": {"replicas": replicas, "resources": {"limits": limits}},
            "init": True,
            "restart": "unless-stopped",
            "stop_grace_period": f"{self._seconds}s",
            "healthcheck": self._health(),
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
        }

    def _health(self) -> dict[str, Any]:
        # Compose puts variables in where it sees a single $.
        test = is_well(self._settings).replace("$", "$$")
        return {
            "test": ["CMD", "sh", "-c", test],
            "interval": "5s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{START}s",
        }

    # ── docker ────────────────────────────────────────────────────────────────────────────

    def _check_compose(self) -> None:
        try:
            _DOCKER.ask("compose", "version", timeout=PATIENCE)
        except DeployFailed as exc:
            raise DeployFailed(
                f"there is no docker compose here ({exc}); install it, or take the file where it "
                "is: without --apply it is printed"
            ) from exc

    def _compose(self, deployment: Deployment, *arguments: str, given: str = "") -> Iterator[str]:
        url = {BROKER_URL: self._settings.broker_url}
        project = ("-p", self._project(deployment))
        yield from _DOCKER.lines("compose", *project, *arguments, given=given, environment=url)

    def _check_broker(self) -> None:
        """A URL that only works outside of containers would have them try it for ever."""
        host = urlsplit(self._settings.broker_url).hostname
        if self._settings.embedded or host in {"localhost", "127.0.0.1", "::1"}:
            raise InvalidInput(
                f"broker_url: in a container {host or 'memory://'} is the container itself; give "
                f"{BROKER_URL} as containers reach it, such as amqp://…@rabbitmq:5672/ with "
                "--set network=… where it is a service of that network"
            )

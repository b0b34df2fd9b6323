"""Settings: flag, then environment (``GANGER_*``), then default. A bad one is named."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .durations import parse_duration
from .errors import InvalidSetting
from .keys import Keys
from .topology import QueueType, Topology

__all__ = ["Settings"]

Duration = Annotated[float, BeforeValidator(lambda given: parse_duration(given, "value"))]

MEMORY_URL = "memory://"


class Settings(BaseSettings):
    """Everything that can be set, each as ``GANGER_<NAME IN UPPER CASE>``.

    Durations are written ``250ms``, ``90s``, ``5m``, ``1h30m``, or as seconds.
    """

    model_config = SettingsConfigDict(env_prefix="GANGER_", frozen=True, extra="forbid")

    broker_url: str = Field(
        "amqp://guest:guest@127.0.0.1:5672/",
        pattern=r"^(amqps?|memory)://",
        description="RabbitMQ, as amqp://user:password@host:port/vhost; memory:// is embedded",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(rediss?|unix|memory)://",
        description="Redis, as redis://host:port/db; memory:// is embedded",
    )
    prefix: str = Field(
        "ganger",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="first word of every exchange, queue and Redis key",
    )
    queue_type: QueueType = Field("quorum", description="of the shared queues")
    max_message_bytes: int = Field(4 * 2**20, ge=1024, description="largest body taken")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else JSON"
    )

    heartbeat_interval: Duration = Field(2.0, description="between a worker's heartbeats")
    worker_timeout: Duration = Field(10.0, description="of silence until a worker is lost")
    pickup_deadline: Duration = Field(10.0, description="for a worker to pick an assignment up")
    worker_queue_expires: Duration = Field(300.0, description="a worker's queue outlives it by")
    drain_grace: Duration = Field(30.0, description="for running steps after SIGTERM")

    lease: Duration = Field(5.0, description="until a standby takes over from a silent leader")
    hold: Duration = Field(60.0, description="a trigger of an unregistered workflow is held for")
    retention: Duration = Field(86400.0, description="a finished run is kept for")
    batch: int = Field(500, ge=1, le=10_000, description="most messages in one commit")
    feed_length: int = Field(10_000, ge=0, description="entries the feed is capped at")

    @classmethod
    def load(cls, **flags: Any) -> "Settings":
        """Settings from flags (those that are not None), environment and defaults.

        Raises:
            InvalidSetting: one is bad; the text names each, as its environment variable.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as exc:
            raise InvalidSetting("; ".join(map(_named, exc.errors()))) from exc

    @property
    def embedded(self) -> bool:
        """Whether the transport lives in this process."""
        return self.broker_url.startswith(MEMORY_URL)

    def topology(self) -> Topology:
        """The exchanges and queues of this deployment."""
        return Topology(
            self.prefix, self.queue_type, self.pickup_deadline, self.worker_queue_expires
        )

    def keys(self) -> Keys:
        """The Redis keys of this deployment."""
        return Keys(self.prefix)


def _named(error: Any) -> str:
    name = "GANGER_" + "_".join(map(str, error["loc"])).upper()
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}".replace("value: ", "", 1)
    return f"{name}: {error['input']!r}: {error['msg']}"

"""Settings: flag, then environment (``GANGER_*``), then default. A bad one is named."""

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from .durations import parse_duration
from .errors import InvalidSetting
from .keys import Keys
from .topology import QueueType, Topology
from .urls import BROKER_FORM, REDIS_FORM, check_broker_url, check_redis_url, without_password

__all__ = ["MEMORY_URL", "Settings", "environment_name", "flag_name", "misspelt"]

Duration = Annotated[float, BeforeValidator(lambda given: parse_duration(given, "value"))]

MEMORY_URL = "memory://"

_RIGHT = {
    "broker_url": BROKER_FORM,
    "redis_url": REDIS_FORM,
    "prefix": "must be 1 to 64 letters, digits, - and _",
    "queue_type": "must be quorum or classic",
    "max_message_bytes": "must be a whole number of at least 1024",
    "log_level": "must be debug, info, warning or error",
    "log_format": "must be auto, console or json",
    "batch": "must be a whole number from 1 to 10000",
    "feed_length": "must be a whole number of at least 0",
    "metrics_port": "must be a port: a whole number from 0 to 65535",
    "scale_up": "must be a number above 0 and at most 100",
    "scale_down": "must be a number of at least 0",
    "scale_least": "must be a whole number from 0 to 100000",
    "scale_most": "must be a whole number from 1 to 100000",
}
"""What would be right, in words; of durations ``parse_duration`` says it."""


def environment_name(setting: str) -> str:
    """The environment variable of a setting."""
    return f"GANGER_{setting.upper()}"


def flag_name(setting: str) -> str:
    """The flag of a setting on the command line."""
    return f"--{setting.replace('_', '-')}"


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Environment variables that are no setting but nearly one: name → what may be meant.

    Others that begin with ``GANGER_`` are passed over: Kubernetes makes some for each service.
    """
    known = [environment_name(setting) for setting in Settings.model_fields]
    found = {}
    for name in sorted(names):
        upper = name.upper()
        if upper.startswith("GANGER_") and upper not in known:
            for near in get_close_matches(upper, known, n=1, cutoff=0.85):
                found[name] = near
    return found


class Settings(BaseSettings):
    """Everything that can be set, each as ``GANGER_<NAME IN UPPER CASE>``.

    Durations are written ``250ms``, ``90s``, ``5m``, ``1h30m``, or as seconds.
    """

    model_config = SettingsConfigDict(env_prefix="GANGER_", frozen=True, extra="forbid")

    broker_url: Annotated[str, AfterValidator(check_broker_url)] = Field(
        "amqp://guest:guest@127.0.0.1:5672/",
        description="RabbitMQ, as amqp://user:password@host:port/vhost; memory:// is embedded",
    )
    redis_url: Annotated[str, AfterValidator(check_redis_url)] = Field(
        "redis://127.0.0.1:6379/0",
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
    worker_timeout: Duration = Field(
        10.0, validate_default=True, description="of silence until a worker is lost"
    )
    pickup_deadline: Duration = Field(10.0, description="for a worker to pick an assignment up")
    worker_queue_expires: Duration = Field(300.0, description="a worker's queue outlives it by")
    drain_grace: Duration = Field(30.0, description="for running steps after SIGTERM")

    lease: Duration = Field(5.0, description="until a standby takes over from a silent leader")
    hold: Duration = Field(60.0, description="a trigger of an unregistered workflow is held for")
    priority_ageing: Duration = Field(60.0, description="of waiting that are worth one priority")
    retention: Duration = Field(86400.0, description="a finished run is kept for")
    batch: int = Field(500, ge=1, le=10_000, description="most messages in one commit")
    feed_length: int = Field(10_000, ge=0, description="entries the feed is capped at")
    health_file: Path | None = Field(
        None,
        description="touched whenever the broker has confirmed a worker's heartbeat, or a "
        "dispatcher's lease was looked at; old means unwell",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="where a dispatcher serves metrics for Prometheus"
    )

    scale_window: Duration = Field(
        60.0, description="a pool has to have been quiet for, before it wants fewer replicas"
    )
    scale_up: float = Field(
        0.8, gt=0, le=100, description="a pool wants more replicas above this load of its slots"
    )
    scale_down: float = Field(
        0.5, ge=0, validate_default=True, description="and fewer when it stays below this one"
    )
    scale_least: int = Field(0, ge=0, le=100_000, description="replicas that any pool wants")
    scale_most: int = Field(
        1000, ge=1, le=100_000, validate_default=True, description="replicas that a pool may want"
    )

    @field_validator("worker_timeout")
    @classmethod
    def _timeout_bears_with_one_heartbeat_lost(
        cls, timeout: float, others: ValidationInfo
    ) -> float:
        interval = others.data.get("heartbeat_interval", 0.0)
        if timeout < 2 * interval:
            name = environment_name("heartbeat_interval")
            raise ValueError(f"{timeout:g} s must be at least twice {name}, {interval:g} s")
        return timeout

    @field_validator("scale_down")
    @classmethod
    def _down_is_below_up(cls, down: float, others: ValidationInfo) -> float:
        if down >= others.data.get("scale_up", math.inf):
            raise ValueError(
                f"must be below {environment_name('scale_up')}, {others.data['scale_up']:g}"
            )
        return down

    @field_validator("scale_most")
    @classmethod
    def _most_is_not_below_least(cls, most: int, others: ValidationInfo) -> int:
        least = others.data.get("scale_least", 0)
        if most < least:
            raise ValueError(f"must not be below {environment_name('scale_least')}, {least}")
        return most

    @classmethod
    def load(cls, name_of: Callable[[str], str] = str, /, **given: Any) -> "Settings":
        """Settings from what is given (and not None), environment and defaults.

        ``name_of``: what the caller calls a setting that it gives, such as ``flag_name``.

        Raises:
            InvalidSetting: one is bad; the text names each, as it was given.
        """
        given = {name: value for name, value in given.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as exc:
            texts = []
            for error in exc.errors():
                setting = "_".join(map(str, error["loc"]))
                name = name_of(setting) if setting in given else environment_name(setting)
                texts.append(f"{name}: {_wrong(setting, error)}")
            raise InvalidSetting("; ".join(texts)) from exc

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


def _wrong(setting: str, error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no such setting; there are {', '.join(Settings.model_fields)}"
    given = error["input"]
    shown = repr(without_password(given) if isinstance(given, str) else given)
    if error["type"] != "value_error":
        return f"{shown} {_RIGHT.get(setting, error['msg'])}"
    said = str(error["ctx"]["error"])
    if setting in _RIGHT:
        return f"{shown} {said}"
    return said.removeprefix("value: ")

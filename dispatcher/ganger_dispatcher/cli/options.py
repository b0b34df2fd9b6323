"""Options that several verbs take, and the settings they make."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from ganger_broker.errors import InvalidSetting
from ganger_broker.settings import MEMORY_URL, Settings, environment_name, flag_name
from ganger_dispatcher.store import RedisStore, open_redis

__all__ = ["AsJson", "BrokerUrl", "Prefix", "RedisUrl", "ask", "named", "settings_for_reading"]

T = TypeVar("T")

BrokerUrl = Annotated[
    str | None,
    typer.Option(
        "--broker-url",
        metavar="URL",
        help="RabbitMQ [GANGER_BROKER_URL; default: amqp://guest:guest@127.0.0.1:5672/]",
    ),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="Redis [GANGER_REDIS_URL; default: redis://127.0.0.1:6379/0]",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="WORD",
        help="First word of all queues and keys [GANGER_PREFIX; default: ganger]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def settings_for_reading(redis_url: str | None, prefix: str | None) -> Settings:
    """Settings of a verb that reads Redis, and nothing else.

    Raises:
        InvalidSetting: what it would read is inside another process, or another fleet's.
    """
    settings = Settings.load(flag_name, redis_url=redis_url, prefix=prefix)
    if settings.redis_url.startswith(MEMORY_URL):
        raise InvalidSetting(
            f"{named('redis_url', redis_url)}: {settings.redis_url} is a Redis inside one "
            "process, which cannot be read from another; give a redis:// URL"
        )
    if settings.embedded and redis_url is None:
        raise InvalidSetting(
            f"GANGER_BROKER_URL: {settings.broker_url} has a Redis of its own inside the same "
            "process, which cannot be read from here; give --redis-url to read another fleet's"
        )
    return settings


def named(setting: str, given: object) -> str:
    """The name of a setting, as it was given."""
    return environment_name(setting) if given is None else flag_name(setting)


def ask(settings: Settings, question: Callable[[RedisStore], Awaitable[T]]) -> T:
    """The store's answer, on a connection of its own."""

    async def asking() -> T:
        store = RedisStore(open_redis(settings.redis_url), settings.keys())
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(asking())

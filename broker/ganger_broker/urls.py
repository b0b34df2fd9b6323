"""URLs of servers: what cannot be right is refused when it is given, not tried for ever."""

import re
from urllib.parse import SplitResult, parse_qs, urlsplit

__all__ = ["BROKER_FORM", "REDIS_FORM", "check_broker_url", "check_redis_url", "without_password"]

BROKER_FORM = "must be amqp://user:password@host:port/vhost, amqps://… or memory://"
REDIS_FORM = "must be redis://user:password@host:port/db, rediss://…, unix://… or memory://"


def check_broker_url(url: str) -> str:
    """Return ``url`` if it can be a broker's.

    Raises:
        ValueError: it cannot; the text says what would be right.
    """
    if url.startswith("memory://"):
        return url
    parts = _split(url, ("amqp", "amqps"), BROKER_FORM)
    if not parts.hostname:
        raise ValueError(f"{BROKER_FORM}: it names no host")
    _check_number(parts, "heartbeat", "seconds")
    return url


def check_redis_url(url: str) -> str:
    """Return ``url`` if it can be a Redis's.

    Raises:
        ValueError: it cannot; the text says what would be right.
    """
    if url.startswith("memory://"):
        return url
    parts = _split(url, ("redis", "rediss", "unix"), REDIS_FORM)
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/\d+/?", parts.path):
        raise ValueError(
            f"{REDIS_FORM}: after the / comes the number of a database, not {parts.path[1:]!r}"
        )
    _check_number(parts, "db", "the number of a database")
    return url


def without_password(url: str) -> str:
    """The same URL, fit to be shown."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def _split(url: str, schemes: tuple[str, ...], form: str) -> SplitResult:
    if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(form)
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ValueError(f"{form}: {exc}") from exc
    if not _has_right_port(parts):
        raise ValueError(f"{form}: its port must be a number from 1 to 65535")
    return parts


def _has_right_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _check_number(parts: SplitResult, option: str, what: str) -> None:
    for value in parse_qs(parts.query).get(option, []):
        if not value.isdecimal():
            raise ValueError(f"?{option}= must be {what}, not {value!r}")

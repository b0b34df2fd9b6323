"""What a message says of its deaths, as RabbitMQ writes it: ``x-death`` and ``x-first-death-*``."""

from typing import Any

from .queue import StoredMessage

__all__ = ["headers_of_the_dead", "is_cycle"]


def headers_of_the_dead(stored: StoredMessage, queue: str, reason: str) -> dict[str, Any]:
    """Its headers with this death on record, the latest death first."""
    headers = dict(stored.headers)
    deaths = [dict(death) for death in headers.get("x-death", ())]
    same = next((d for d in deaths if d["queue"] == queue and d["reason"] == reason), None)
    if same is None:
        same = {
            "queue": queue,
            "reason": reason,
            "count": 0,
            "exchange": stored.exchange,
            "routing-keys": [stored.routing_key],
        }
    else:
        deaths.remove(same)
    same["count"] += 1
    headers["x-death"] = [same, *deaths]
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-exchange", stored.exchange)
    return headers


def is_cycle(headers: dict[str, Any], queue: str) -> bool:
    """Whether a dead message is back in a queue it died in with nobody having rejected it;
    RabbitMQ drops those, or they would go round for ever."""
    deaths = headers.get("x-death", ())
    return any(death["queue"] == queue for death in deaths) and not any(
        death["reason"] == "rejected" for death in deaths
    )

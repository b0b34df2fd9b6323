"""Patterns and formats of texts, as pydantic reads them: its models are what inputs are for.

A pattern is matched by pydantic's own engine, Rust's, whose time goes with the length of the
text; Python's ``re`` may take for ever over a few letters. What is no pattern for that engine
(look-around, say) is not matched here.
"""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import cache, lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AnyUrl,
    IPvAnyAddress,
    IPvAnyInterface,
    IPvAnyNetwork,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import SchemaError

__all__ = ["matcher", "unfit_for"]

_REMEMBERED = 1024

_FORMATS: dict[str, Any] = {
    "date": date,
    "date-time": datetime,
    "duration": timedelta,
    "ipv4": IPv4Address,
    "ipv4interface": IPv4Interface,
    "ipv4network": IPv4Network,
    "ipv6": IPv6Address,
    "ipv6interface": IPv6Interface,
    "ipv6network": IPv6Network,
    "ipvanyaddress": IPvAnyAddress,
    "ipvanyinterface": IPvAnyInterface,
    "ipvanynetwork": IPvAnyNetwork,
    "number": float,
    "time": time,
    "truth value": bool,
    "uri": AnyUrl,
    "uuid": UUID,
    "whole number": int,
    **{f"uuid{version}": UUID for version in range(1, 9)},
}
"""Formats that are looked at, and what pydantic makes of a text of each. Those with a number or a
truth value are Ganger's own: a model that is not strict takes these as texts."""

_LONGEST = 10_000
"""Characters of a text that is looked at for its format."""


@lru_cache(_REMEMBERED)
def matcher(pattern: str) -> Callable[[str], bool] | None:
    """Whether a text has the pattern in it; None where this engine cannot read the pattern."""
    try:
        kind = TypeAdapter[str](Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError:
        return None

    def matches(text: str) -> bool:
        try:
            kind.validate_python(text)
        except ValidationError:
            return False
        return True

    return matches


def unfit_for(name: str, text: str) -> str | None:
    """Why a text is not of this format; None where it is, or where nothing is known of it."""
    if name == "email":  # all that is the same of every rule for them
        return None if "@" in text[1:-1] else "must have an @ between two parts"
    kind = _of_format(name)
    if kind is None or len(text) > _LONGEST:
        return None
    try:
        kind.validate_python(text)
    except ValidationError as exc:
        return exc.errors(include_url=False, include_input=False)[0]["msg"]
    return None


@cache
def _of_format(name: str) -> TypeAdapter[Any] | None:
    kind = _FORMATS.get(name)
    return None if kind is None else TypeAdapter(kind)

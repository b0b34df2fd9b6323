"""Limits as users declare them, checked where they are given: rate limits and concurrency."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ganger_broker.definitions import (
    Concurrency,
    ConcurrencyStrategy,
    RateLimit,
    WorkflowDefinition,
    check_keys,
    check_rates,
)
from ganger_broker.durations import Duration, parse_duration
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.expressions import check_expression
from ganger_broker.fields import MAX_CONCURRENCY, MAX_UNITS

__all__ = ["checked_concurrency", "checked_units", "limits_of", "make_rate_limit"]

_WORDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_DAY = _WORDS["day"]


def make_rate_limit(key: str, limit: int, per: Duration) -> RateLimit:
    """A rate limit.

    Raises:
        InvalidInput: something about it is wrong; the text names it.
    """
    place = f"rate limit {key!r}"
    if not isinstance(key, str) or not 1 <= len(key) <= 128:
        raise InvalidInput(f"{place}: the key must be a text of 1 to 128 characters")
    if not _is_count(limit):
        raise InvalidInput(f"{place}: limit: {limit!r} must be a whole number from 1")
    word = _WORDS.get(per) if isinstance(per, str) else None
    seconds = parse_duration(per, f"{place}: per") if word is None else word
    if not 1 <= seconds <= _DAY:
        raise InvalidInput(f"{place}: per: {per!r} must be from a second to a day")
    return RateLimit(key, limit, seconds)


def checked_units(given: object, place: str) -> dict[str, int]:
    """What a step takes of each rate limit.

    Raises:
        InvalidWorkflow: it is no map of keys to units.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidWorkflow(f"{place}: {given!r} must be a map of a limit's key to units of it")
    for key, units in given.items():
        if not isinstance(key, str) or not _is_count(units):
            raise InvalidWorkflow(f"{place}.{key}: {units!r} must be a whole number from 1")
    return dict(given)


def checked_concurrency(
    given: Concurrency | Sequence[Concurrency] | None, place: str
) -> list[Concurrency]:
    """The concurrency limits of a workflow.

    Raises:
        InvalidWorkflow: one of them is none, or has something wrong, or two have one key.
    """
    rules: Any = [] if given is None else [given] if isinstance(given, Concurrency) else given
    if not isinstance(rules, Sequence) or not all(isinstance(rule, Concurrency) for rule in rules):
        raise InvalidWorkflow(f"{place}: {given!r} must be a Concurrency(…), or a list of them")
    if len(rules) > MAX_CONCURRENCY:
        raise InvalidWorkflow(f"{place}: at most {MAX_CONCURRENCY} limits, these are {len(rules)}")
    checked = [_checked(rule, f"{place}[{at}]") for at, rule in enumerate(rules)]
    try:
        check_keys(checked, place)
    except InvalidInput as exc:
        raise InvalidWorkflow(str(exc)) from exc
    return checked


def _checked(rule: Concurrency, place: str) -> Concurrency:
    try:
        strategy = ConcurrencyStrategy(str(rule.strategy).lower())
    except ValueError as exc:
        choices = ", ".join(ConcurrencyStrategy)
        raise InvalidWorkflow(
            f"{place}.strategy: {rule.strategy!r} must be one of {choices}"
        ) from exc
    try:
        fields = {"key": rule.key, "limit": rule.limit, "strategy": strategy}
        checked = msgspec.convert(fields, Concurrency)
        if checked.key is not None:
            check_expression(checked.key, f"{place}.key")
    except msgspec.ValidationError as exc:
        message, _, field = str(exc).partition(" - at `$")
        raise InvalidWorkflow(f"{place}{field.rstrip('`')}: {message}") from exc
    except InvalidInput as exc:
        raise InvalidWorkflow(str(exc)) from exc
    return checked


def limits_of(
    workflows: Iterable[WorkflowDefinition], declared: Mapping[str, RateLimit]
) -> list[RateLimit]:
    """The rate limits that the steps of these workflows name.

    Raises:
        InvalidInput: one of them is not declared, or is less than a step takes.
    """
    named: dict[str, RateLimit] = {}
    for workflow in workflows:
        for step in workflow.every_step():
            place = f"workflow {workflow.name!r}: step {step.name!r}: rate_limits"
            check_rates(step, declared, place)
            named |= {key: declared[key] for key in step.rate_limits}
    return list(named.values())


def _is_count(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MAX_UNITS

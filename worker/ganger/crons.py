"""Crons as users declare them, checked where they are given."""

from collections.abc import Iterable
from typing import Any

import msgspec

from ganger_broker.crons import Cron, check_cron
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.fields import MAX_CRONS
from ganger_broker.labels import conditions_to_desired, parse_desired
from ganger_broker.plain_values import plain

from .step import in_order

__all__ = ["checked_crons"]


def checked_crons(given: Any, place: str) -> list[Cron]:
    """The crons of a workflow; a text is one in UTC.

    Raises:
        InvalidWorkflow: one of them is wrong; the text names it.
        InvalidLabel: a desired label of one is wrong.
    """
    if isinstance(given, str | Cron) or not isinstance(given, Iterable):
        raise InvalidWorkflow(f"{place}: {given!r} must be a list of cron expressions or Cron(…)")
    crons = in_order(given)
    if len(crons) > MAX_CRONS:
        raise InvalidWorkflow(f"{place}: at most {MAX_CRONS}, these are {len(crons)}")
    checked = [_checked(cron, f"{place}[{at}]") for at, cron in enumerate(crons)]
    written = [msgspec.json.encode(cron) for cron in checked]  # 1 and True are equal in Python
    for at, cron in enumerate(checked):
        if written[at] in written[:at]:
            raise InvalidWorkflow(f"{place}[{at}]: {cron.expression!r} is there twice")
    return checked


def _checked(given: Any, place: str) -> Cron:
    cron = Cron(given) if isinstance(given, str) else given
    if not isinstance(cron, Cron):
        raise InvalidWorkflow(f"{place}: {given!r} must be a cron expression or Cron(…)")
    desired = parse_desired(cron.desired_worker_labels, f"{place}.desired_worker_labels")
    written = conditions_to_desired(condition for key in desired.values() for condition in key)
    try:
        fields = {
            **{field: getattr(cron, field) for field in cron.__struct_fields__},
            "input": plain(cron.input, f"{place}.input"),
            "metadata": plain(cron.metadata, f"{place}.metadata"),
            "desired_worker_labels": written,
        }
        checked = msgspec.convert(fields, Cron)
        check_cron(checked, place)
    except msgspec.ValidationError as exc:
        message, _, field = str(exc).partition(" - at `$")
        raise InvalidWorkflow(f"{place}{field.rstrip('`')}: {message}") from exc
    except InvalidInput as exc:
        raise InvalidWorkflow(str(exc)) from exc
    return checked

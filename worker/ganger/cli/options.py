"""Options that several verbs take, and how their values are read."""

import math
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from ganger_broker.errors import InvalidInput, InvalidLabel
from ganger_broker.json_faults import json_fault
from ganger_broker.labels import LabelValue, check_key, check_value
from ganger_broker.quoting import quoted
from ganger_broker.repeated_keys import repeated_key

__all__ = ["BrokerUrl", "Prefix", "read_labels", "read_object"]

BrokerUrl = Annotated[
    str | None,
    typer.Option(
        "--broker-url",
        metavar="URL",
        help="RabbitMQ [GANGER_BROKER_URL; default: amqp://guest:guest@127.0.0.1:5672/]",
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


def read_labels(given: Iterable[str]) -> dict[str, LabelValue]:
    """Labels from ``key=value``: a JSON number or JSON string is that, all else is a string.

    Raises:
        InvalidLabel: one is not written so, or cannot be a label; the text names it.
    """
    labels: dict[str, LabelValue] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidLabel(f"--label: {text!r} must be KEY=VALUE")
        if _is_bytes(text):
            raise InvalidLabel(f"--label: {text!r} is not valid Unicode text")
        check_key(key, "--label")
        if key in labels:
            raise InvalidLabel(f"--label: {key!r} is given twice")
        place = f"--label {key}"
        labels[key] = check_value(_label_value(value, place), place)
    return labels


def _label_value(text: str, place: str) -> Any:
    _check_finite(text, place)
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    is_label = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if is_label else text


def _check_finite(text: str, place: str) -> None:
    try:
        finite = math.isfinite(float(text))
    except ValueError:
        return
    if not finite:
        raise InvalidLabel(
            f"{place}: {text} is no number that a label can be; in quotes it is a string"
        )


def _is_bytes(text: str) -> bool:
    """Whether the command line held bytes there that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def read_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object that was given to an option.

    Raises:
        InvalidInput: it is not one.
    """
    if _is_bytes(text):
        raise InvalidInput(f"{option}: {quoted(text)} is not valid Unicode text")
    try:
        value = msgspec.json.decode(text)
        twice = repeated_key(text)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"{option}: {text!r} is not JSON: {json_fault(text, exc)}") from exc
    except RecursionError as exc:
        raise InvalidInput(f"{option}: is nested too deeply") from exc
    if not isinstance(value, dict):
        raise InvalidInput(f'{option}: must be a JSON object such as {{"key": 1}}, not {text}')
    if twice is not None:
        raise InvalidInput(f"{option}: {twice.removeprefix('.')}: given twice in one object")
    return value

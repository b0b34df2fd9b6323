"""What steps say with their annotations that they return: pydantic models, alone or in others."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args, get_type_hints

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from ganger_broker.errors import InvalidInput
from ganger_broker.plain_values import plain

__all__ = ["Returned", "checked_output", "read_again", "returned_by"]

Returned = TypeAdapter[Any]


def returned_by(function: Callable[..., Any]) -> Returned | None:
    """What a step says it returns; None where there is no model in it."""
    written_out = getattr(function, "__wrapped__", function)
    try:
        annotation: Any = get_type_hints(written_out).get("return")
        return TypeAdapter(annotation) if _has_model(annotation) else None
    except Exception:  # annotations may name what is there for type checkers only
        return None


def _has_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_has_model(part) for part in get_args(annotation))


def read_again(kind: Returned, value: Any) -> Any:
    """What was stored or sent, as objects again. It is read as JSON is: there the strictest model
    takes a date as text."""
    return kind.validate_json(msgspec.json.encode(value))


def checked_output(returned: Returned | None, output: Any, place: str) -> Any:
    """What a step returned, as it is stored and sent, if it is what its annotation says.

    Raises:
        InvalidInput: it is not, or has no JSON form, or one that no object can be made of again;
            the text names ``place``, the field and what would be right.
    """
    if returned is None:
        return plain(output, place)
    fitting = _checked(returned.validate_python, output, place, "as its annotation says")
    stored = plain(fitting, place)
    when = "where it is read again from what its model dumps"
    _checked(partial(read_again, returned), stored, place, when)
    return stored


def _checked(read: Callable[[Any], Any], value: Any, place: str, when: str) -> Any:
    try:
        return read(value)
    except ValidationError as exc:
        wrong = "; ".join(
            ".".join([place, *map(str, error["loc"])]) + f": {error['msg']}"
            for error in exc.errors(include_url=False)
        )
        raise InvalidInput(f"{wrong} ({when})") from exc

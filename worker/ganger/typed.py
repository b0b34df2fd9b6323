"""What steps say with their annotations that they return: pydantic models, alone or in others."""

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from ganger_broker.errors import InvalidInput

__all__ = ["Returned", "checked_output", "returned_by"]

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


def checked_output(returned: Returned | None, output: Any, place: str) -> Any:
    """What a step returned, if it is what its annotation says.

    Raises:
        InvalidInput: it is not; the text names ``place``, the field and what would be right.
    """
    if returned is None:
        return output
    try:
        return returned.validate_python(output)
    except ValidationError as exc:
        wrong = "; ".join(
            ".".join([place, *map(str, error["loc"])]) + f": {error['msg']}"
            for error in exc.errors(include_url=False)
        )
        raise InvalidInput(f"{wrong} (as its annotation says)") from exc

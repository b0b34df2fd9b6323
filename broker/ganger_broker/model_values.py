"""Pydantic models as values from which the same models can be read again.

What ``model_dump`` gives by itself is for people to read: fields by their names where the model
is read by aliases, computed fields that it does not take, and stars in place of secrets.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidInput

__all__ = ["dumped", "is_model"]


def is_model(value: object) -> bool:
    """Whether it is an object of a pydantic model."""
    return hasattr(type(value), "model_dump")


def dumped(model: Any, place: str) -> Any:
    """What ``model_validate`` of its class takes, of types that JSON has.

    Raises:
        InvalidInput: a secret is in it, which a dump does not tell; the text names the field.
    """
    return _readable(model, model.model_dump(mode="json", round_trip=True), place)


def _readable(value: Any, dump: Any, place: str) -> Any:
    """The dump of a value with its fields under the names they are read by."""
    if hasattr(value, "get_secret_value"):
        return _told(value, dump, place)
    fields = getattr(type(value), "__pydantic_fields__", None)
    if fields is not None:
        return _fields(value, dump, fields, place)
    if isinstance(value, Mapping) and isinstance(dump, dict) and len(value) == len(dump):
        parts = zip(value.values(), dump.items(), strict=True)
        return {key: _readable(part, said, f"{place}.{key}") for part, (key, said) in parts}
    if isinstance(dump, list) and isinstance(value, Iterable) and not isinstance(value, str):
        return _elements(value, dump, place)
    return dump


def _fields(value: Any, dump: Any, fields: Mapping[str, Any], place: str) -> Any:
    if getattr(type(value), "__pydantic_root_model__", False):
        return _readable(value.root, dump, place)
    if not isinstance(dump, dict):
        return dump  # a serializer of its own made something else of it
    found = {}
    for name, said in dump.items():
        key = _read_by(type(value), fields[name]) if name in fields else None
        part = getattr(value, name, None)
        found[key or name] = _readable(part, said, f"{place}.{name}")
    return found


def _elements(value: Iterable[Any], dump: list[Any], place: str) -> list[Any]:
    parts = list(value) if isinstance(value, list | tuple | set | frozenset) else []
    if len(parts) != len(dump):
        return dump
    return [
        _readable(part, said, f"{place}[{at}]")
        for at, (part, said) in enumerate(zip(parts, dump, strict=True))
    ]


def _read_by(kind: type[Any], field: Any) -> str | None:
    """The alias that the model reads the field by; None where it is its name."""
    config = getattr(kind, "model_config", {})
    alias = field.validation_alias
    if config.get("validate_by_alias") is False:
        return None
    choices = getattr(alias, "choices", [alias])
    return next((choice for choice in choices if isinstance(choice, str)), None)


def _told(secret: Any, dump: Any, place: str) -> Any:
    """The dump of a secret, if its field has a serializer that tells it."""
    is_stars = isinstance(dump, str) and dump != "" and not dump.strip("*")
    if is_stars and dump != secret.get_secret_value():
        raise InvalidInput(
            f"{place}: is a secret ({type(secret).__name__}), which is sent as stars; send where "
            "to find it, or give the field a serializer that tells it"
        )
    return dump

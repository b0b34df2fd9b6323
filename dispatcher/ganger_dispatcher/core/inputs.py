"""Inputs of runs, held against the schema of their workflow before anything runs.

Anybody may send a trigger, and the dispatcher reads it for everybody: so a look at one is
bounded, whatever the schema and the input are. What it does not get to, and what only Python
can tell, the worker looks at before it runs a step.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import create
from referencing import Registry
from referencing.exceptions import Unresolvable

from .effort import Check, Effort, TooMuch, bounded, spend
from .texts import matcher, unfit_for

__all__ = ["InputSchema", "schema_problem"]

_MOST_SAID = 1_000
"""Characters of what is said of an input; it may be told at length."""

_MOST_ERRORS = 50
"""Errors of an input, of which the one is told that says most."""

Errors = Iterator[ValidationError]


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why this is no JSON Schema; None where it is one.

    Whether a ``pattern`` can be read is no matter of it: languages differ in that.
    """
    try:
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(()))
    except SchemaError as exc:
        return str(exc.message)
    return None


class InputSchema:
    """The schema of a workflow's input, JSON Schema 2020-12. It fetches nothing it refers to."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _Bounded(schema, registry=Registry())

    def problem(self, given: Mapping[str, Any]) -> str | None:
        """What is wrong with an input, the field first; None where it fits, or where nothing is
        found in the time that one input is worth."""
        found: list[ValidationError] = []
        try:
            with Effort():
                found.extend(islice(self._validator.iter_errors(given), _MOST_ERRORS))
        except TooMuch:
            pass
        except (Unresolvable, RecursionError) as exc:
            return f"$.input: its workflow's input_schema cannot be followed: {exc}"
        error = best_match(iter(found))
        if error is None:
            return None
        at = error.absolute_path  # of a branch of anyOf the other one begins at the branch
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
        said = f"$.input{path}: {error.message}"
        return said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]}…"


# ── what takes its time in the library, or means what Python's expressions mean ───────


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Errors:
    if isinstance(instance, str) and _matches(pattern, instance) is False:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _format(_: Any, name: str, instance: Any, __: Any) -> Errors:
    if isinstance(instance, str):
        spend(len(instance) // 10)
        wrong = unfit_for(name, instance)
        if wrong is not None:
            yield ValidationError(f"{instance!r} is not a {name!r}: {wrong}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Errors:
    for pattern, subschema in patterns.items() if isinstance(instance, dict) else ():
        for key, value in instance.items():
            if _matches(pattern, key):
                yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Errors:
    extras = list(_extras(instance, schema)) if isinstance(instance, dict) else []
    if isinstance(rule, Mapping):
        for key in extras:
            yield from validator.descend(instance[key], rule, path=key)
    elif not rule and extras:
        names = ", ".join(repr(key) for key in extras)
        yield ValidationError(f"no such properties: {names}")


def _extras(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterable[str]:
    """Keys that the schema does not speak of, for all that is known."""
    own, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key in instance:
        if key not in own and all(_matches(pattern, key) is False for pattern in patterns):
            yield key


def _matches(pattern: str, text: str) -> bool | None:
    """Whether the pattern is found in the text; None where it cannot be told here."""
    spend(1 + len(text) // 2)
    matches = matcher(pattern)
    return None if matches is None else matches(text)


def _unique_items(_: Any, unique: bool, instance: Any, __: Any) -> Errors:
    if unique and isinstance(instance, list):
        seen = set()
        for item in instance:
            key = _identity(item)
            if key in seen:
                yield ValidationError(f"has non-unique elements, such as {item!r}")
                return
            seen.add(key)


def _identity(value: Any) -> Any:
    """Equal for values that JSON Schema takes for equal: 1 and 1.0 are, 1 and true are not."""
    spend(1)
    if isinstance(value, dict):
        return dict, frozenset((key, _identity(item)) for key, item in value.items())
    if isinstance(value, list):
        return list, tuple(_identity(item) for item in value)
    return (bool, value) if isinstance(value, bool) else value


def _tagged(check: Check) -> Check:
    """Of a union whose branches one property tells apart only the branch that it names is looked
    at. Held against all, the nearest to fit may be another one, of which a right field is wrong."""

    def looking(validator: Any, branches: Any, instance: Any, schema: Any) -> Errors:
        told_by = schema.get("discriminator") or {}
        name, mapping = told_by.get("propertyName"), told_by.get("mapping") or {}
        if not mapping or not isinstance(instance, dict):
            yield from check(validator, branches, instance, schema) or ()
            return
        tag = instance.get(name)
        if isinstance(tag, str) and tag in mapping:
            yield from validator.descend(instance, {"$ref": mapping[tag]})
        elif any(check(validator, branches, instance, schema) or ()):
            choices = ", ".join(map(repr, mapping))
            if name in instance:
                yield ValidationError(f"{tag!r} is not one of {choices}", path=[name])
            else:
                yield ValidationError(f"{name!r} is a required property")

    return looking


_CHECKS = {
    **Draft202012Validator.VALIDATORS,
    "pattern": _pattern,
    "format": _format,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "anyOf": _tagged(Draft202012Validator.VALIDATORS["anyOf"]),
    "oneOf": _tagged(Draft202012Validator.VALIDATORS["oneOf"]),
}
# their search for what others have looked at is not bounded; pydantic never writes them
del _CHECKS["unevaluatedItems"], _CHECKS["unevaluatedProperties"]

_Bounded = create(
    meta_schema=Draft202012Validator.META_SCHEMA,
    validators={name: bounded(check, name) for name, check in _CHECKS.items()},
    type_checker=Draft202012Validator.TYPE_CHECKER,
    id_of=Draft202012Validator.ID_OF,
)

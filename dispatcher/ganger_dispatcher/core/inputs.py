"""Inputs of runs, held against the schema of their workflow before anything runs."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

__all__ = ["InputSchema", "schema_problem"]


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Why this is no JSON Schema; None where it is one."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        return str(exc.message)
    return None


class InputSchema:
    """The schema of a workflow's input, JSON Schema 2020-12. It fetches nothing it refers to."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = Draft202012Validator(schema, registry=Registry())

    def problem(self, given: Mapping[str, Any]) -> str | None:
        """What is wrong with an input, the field first; None where it fits."""
        try:
            error = best_match(self._validator.iter_errors(given))
        except (Unresolvable, RecursionError) as exc:
            return f"$.input: its workflow's input_schema cannot be followed: {exc}"
        if error is None:
            return None
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path)
        return f"$.input{path}: {error.message}"

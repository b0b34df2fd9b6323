"""What calls take, checked before anything is started or declared: where one takes what another one
does, its mistakes are told in its own name."""

from collections.abc import Iterable, Mapping
from typing import Any

from ganger_broker.errors import InvalidInput
from ganger_broker.plain_values import plain
from ganger_broker.quoting import quoted

__all__ = [
    "CHILD_FIELDS",
    "RUN_FIELDS",
    "check_fields",
    "check_key",
    "check_sticky",
    "check_timeout",
    "checked_inputs",
]

RUN_FIELDS = (
    *("run_id", "metadata", "priority", "desired_worker_labels"),
    *("parent", "sticky_to", "stream"),
)
"""What ``admin.run_workflow`` takes, beside workflow and input."""
CHILD_FIELDS = ("key", "sticky", "metadata", "priority", "desired_worker_labels")
"""What ``spawn_workflow`` takes, beside workflow and input."""


def check_fields(call: str, fields: Mapping[str, object], known: Iterable[str]) -> None:
    """See that the call takes them all.

    Raises:
        TypeError: it does not take one; as Python says it of its own.
    """
    names = list(dict.fromkeys(known))
    for field in fields:
        if field not in names:
            is_of_child = field in CHILD_FIELDS and "run_id" in names
            only = ", which is for a step's children" if is_of_child else ""
            raise TypeError(
                f"{call}() got an unexpected keyword argument {field!r}{only}; "
                f"it takes {', '.join(names)}"
            )


def check_key(key: object) -> None:
    """See that it can tell a step's child from the others.

    Raises:
        InvalidInput: it cannot.
    """
    if key is not None and not (isinstance(key, str) and key):
        raise InvalidInput(f"key: {quoted(key)} must be a text that is not empty")


def check_sticky(sticky: object) -> None:
    """See that it says whether a child stays on its parent's worker.

    Raises:
        InvalidInput: it does not; a strategy, say.
    """
    if not isinstance(sticky, bool):
        raise InvalidInput(
            f"sticky: {quoted(sticky)} must be True or False: how strictly the child stays, its "
            "workflow says, SOFT where that says nothing"
        )


def checked_inputs(inputs: object) -> list[dict[str, Any]]:
    """The inputs of several runs, in plain values.

    Raises:
        InvalidInput: they are no list, or one is no input; the text says which.
    """
    if isinstance(inputs, Mapping | str | bytes) or not isinstance(inputs, Iterable):
        raise InvalidInput(f"inputs: {quoted(inputs)} must be a list of inputs, one for each run")
    return [_checked_input(each, f"inputs[{number}]") for number, each in enumerate(inputs)]


def _checked_input(given: object, place: str) -> dict[str, Any]:
    found = plain({} if given is None else given, place)
    if not isinstance(found, dict):
        raise InvalidInput(f"{place}: {quoted(given)} must be a map with strings as keys")
    return found


def check_timeout(timeout: object) -> None:
    """See that it is a time to wait for a result.

    Raises:
        InvalidInput: it is not.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise InvalidInput(
            f"timeout: {timeout!r} must be a number of seconds above 0, or None to wait for as "
            "long as it takes"
        )

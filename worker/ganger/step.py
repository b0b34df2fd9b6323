"""Steps as users declare them, checked where they are declared."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar, Unpack

from ganger_broker.definitions import FromInput, StepDefinition
from ganger_broker.durations import Duration, parse_duration
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.expressions import check_expression, check_sets_labels
from ganger_broker.fields import MAX_RETRIES, MAX_SECONDS, NAME_PATTERN
from ganger_broker.labels import LabelValue, conditions_to_desired, parse_desired
from ganger_broker.quoting import quoted

from .arguments import check_fields
from .compute.configs import Compute
from .compute.pools import checked_compute
from .flow_control import checked_units

__all__ = [
    "FUNCTIONS",
    "STEPS_WRITTEN",
    "STEP_FIELDS",
    "STEP_MARK",
    "F",
    "Step",
    "StepOptions",
    "check_name",
    "check_parentheses",
    "declare_step",
    "from_input",
    "in_order",
    "mark_step",
    "seconds_of",
    "step_definition",
    "step_name_of",
    "written",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_TIMEOUT = 60.0
DEFAULT_BACKOFF_MAX = 300.0
DEFAULT_JITTER = 0.1

STEP_MARK = "__ganger_step__"
"""The attribute of a method that says that it is a step, and which."""
STEPS_WRITTEN = "__ganger_steps_written__"
"""The attribute of a class that has all steps that were written in its body, as they came."""


@dataclass(frozen=True)
class Step:
    """What ``step(...)`` leaves on a method; its workflow may fill in what is None."""

    name: str
    on_failure: bool
    parents: tuple[str, ...]
    timeout: float
    schedule_timeout: float | None
    retries: int
    backoff_factor: float | None
    backoff_max_seconds: float
    jitter: float
    desired: dict[str, Any]
    sets_labels: dict[str, LabelValue | FromInput]
    rate_limits: dict[str, int]
    compute: Compute | None
    given: tuple["Step", ...] = field(default=(), compare=False)
    """Its parents that were given as functions."""


class StepOptions(TypedDict, total=False):
    """The options of a step; see ``Ganger.step``."""

    timeout: Duration
    retries: int
    backoff_factor: float | None
    backoff_max_seconds: float
    jitter: float
    schedule_timeout: Duration | None
    desired_worker_labels: Mapping[str, Any] | None
    sets_labels: Mapping[str, LabelValue | FromInput] | None
    rate_limits: Mapping[str, int] | None
    compute: Compute | None


STEP_FIELDS = tuple(StepOptions.__annotations__)


@dataclass(frozen=True)
class Style:
    """A way to write steps: what it is called where a mistake is told, and what a step takes."""

    noun: str
    decorator: str
    for_failures: str
    decorated: str
    takes: tuple[str, str]


METHODS = Style(
    "step",
    "app.step",
    "app.on_failure_step",
    "a method of a workflow class",
    ("self", "context"),
)
FUNCTIONS = Style(
    "task",
    "wf.task",
    "wf.on_failure_task",
    "a function of (input, context)",
    ("input", "context"),
)


def declare_step(
    name: str | None,
    *,
    parents: Iterable[str | Callable[..., Any]] = (),
    on_failure: bool = False,
    style: Style = METHODS,
    **options: Unpack[StepOptions],
) -> Callable[[F], F]:
    """The decorator that makes a method, or a function, a step; see ``Ganger.step``."""
    decorator = style.for_failures if on_failure else style.decorator
    check_parentheses(name, decorator)

    def decorate(function: F) -> F:
        if not inspect.isfunction(function):
            word = decorator.rpartition(".")[2]
            raise InvalidWorkflow(f"{word}: decorates {style.decorated}, not {function!r}")
        given = function.__name__.lower() if name is None else name
        place = f"{style.noun} {quoted(given)}"
        check_name(given, place)
        takes = STEP_FIELDS if on_failure else ("parents", *STEP_FIELDS)
        check_fields(f"{place}: {decorator}", options, takes)
        _check_function(function, place, style.takes)
        before = _parents(parents, place)
        if on_failure and before:
            raise InvalidWorkflow(
                f"{place}: parents: the step for failures has none, it runs when all others ended"
            )
        step = _step(place, given, on_failure, before, **options)
        setattr(function, STEP_MARK, step)
        _class_body(function).setdefault(STEPS_WRITTEN, []).append(step)
        return function

    return decorate


def _class_body(function: Callable[..., Any]) -> dict[str, Any]:
    """What the class that is being written has so far; of a function that is no method, nothing.

    A second method of one name takes the first one's place in it before anybody sees the class.
    """
    owner = function.__qualname__.rpartition(".")[0]
    frame = inspect.currentframe() if owner else None
    while frame is not None:
        if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # else it is a function's
            body = frame.f_locals
            if body.get("__qualname__") == owner and body.get("__module__") == function.__module__:
                return body
        frame = frame.f_back
    return {}


def _step(
    place: str,
    name: str,
    on_failure: bool,
    parents: Mapping[str, "Step | None"],
    *,
    timeout: Duration = DEFAULT_TIMEOUT,
    retries: int = 0,
    backoff_factor: float | None = None,
    backoff_max_seconds: float = DEFAULT_BACKOFF_MAX,
    jitter: float = DEFAULT_JITTER,
    schedule_timeout: Duration | None = None,
    desired_worker_labels: Mapping[str, Any] | None = None,
    sets_labels: Mapping[str, LabelValue | FromInput] | None = None,
    rate_limits: Mapping[str, int] | None = None,
    compute: Compute | None = None,
) -> Step:
    """The options of a step, checked, with their defaults."""
    waits, factor = schedule_timeout, backoff_factor
    return Step(
        name,
        on_failure,
        tuple(parents),
        seconds_of(timeout, f"{place}: timeout"),
        None if waits is None else seconds_of(waits, f"{place}: schedule_timeout"),
        _retries(retries, place),
        None if factor is None else _number(factor, f"{place}: backoff_factor", 1, MAX_SECONDS),
        seconds_of(backoff_max_seconds, f"{place}: backoff_max_seconds"),
        _number(jitter, f"{place}: jitter", 0, 1),
        written(desired_worker_labels, f"{place}: desired_worker_labels"),
        _sets_labels(sets_labels, f"{place}: sets_labels"),
        checked_units(rate_limits, f"{place}: rate_limits"),
        checked_compute(compute, place),
        tuple(step for step in parents.values() if step is not None),
    )


def in_order(given: Iterable[T], key: Callable[[T], str] = str) -> list[T]:
    """As it was written; a set, which each process has in an order of its own, by this key."""
    return sorted(given, key=key) if isinstance(given, Set) else list(given)


def mark_step(method: F, like: Callable[..., Any]) -> F:
    """Make a method the step that ``like`` was declared as."""
    setattr(method, STEP_MARK, getattr(like, STEP_MARK))
    return method


def step_name_of(step: object) -> str | None:
    """The name of a decorated step; None where it is none."""
    found = getattr(step, STEP_MARK, None)
    return found.name if isinstance(found, Step) else None


def written(desired: Mapping[str, Any] | None, place: str) -> dict[str, Any]:
    """Desired labels, checked, in the written-out form that messages carry.

    Raises:
        InvalidLabel: something in them is wrong; the text names the place.
    """
    parsed = parse_desired({} if desired is None else desired, place)
    return conditions_to_desired(condition for key in parsed.values() for condition in key)


def from_input(expression: str) -> FromInput:
    """A value that is taken from a run's input: a JMESPath expression on it, ``"model.name"``.

    Raises:
        InvalidInput: it is no such expression.
    """
    return FromInput(check_expression(expression, "from_input"))


def step_definition(step: Step, schedule_timeout: float, pool: str | None) -> StepDefinition:
    """The step as it is registered; its workflow\'s schedule time-out where it has none."""
    own = step.schedule_timeout
    return StepDefinition(
        step.name,
        list(step.parents),
        step.timeout,
        schedule_timeout if own is None else own,
        step.retries,
        step.backoff_factor,
        step.backoff_max_seconds,
        step.jitter,
        step.desired,
        step.sets_labels,
        step.rate_limits,
        pool,
    )


def check_parentheses(name: object, decorator: str) -> None:
    """Refuse a decorator, ``app.step``, that was written without its parentheses."""
    if callable(name):
        word = decorator.rpartition(".")[2]
        raise InvalidWorkflow(f"{word}: write @{decorator}() with its parentheses, above {name!r}")


def check_name(name: object, place: str) -> None:
    """Refuse what can be no name."""
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise InvalidWorkflow(
            f"{place}: the name must be lower case letters, digits, and _ . - after the "
            "first, at most 128 of them"
        )


def _check_function(function: Callable[..., Any], place: str, takes: tuple[str, str]) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidWorkflow(f"{place}: is a generator; return the output instead of yielding")
    try:
        inspect.signature(function).bind(*takes)
    except TypeError as exc:
        raise InvalidWorkflow(f"{place}: must take ({', '.join(takes)}): {exc}") from exc


def _parents(parents: Iterable[str | Callable[..., Any]], place: str) -> dict[str, "Step | None"]:
    """By their names; those that were given as functions with the steps that these are."""
    if isinstance(parents, str) or not isinstance(parents, Iterable):
        raise InvalidWorkflow(f"{place}: parents: {quoted(parents)} must be a list of steps")
    found: dict[str, Step | None] = {}
    for parent in in_order(parents, key=lambda each: step_name_of(each) or str(each)):
        step = None if isinstance(parent, str) else getattr(parent, STEP_MARK, None)
        name = parent if isinstance(parent, str) else step_name_of(parent)
        if name is None:
            raise InvalidWorkflow(
                f"{place}: parents: {quoted(parent)} is neither a step nor its name"
            )
        if name in found:
            raise InvalidWorkflow(f"{place}: parents: {name!r} is given twice")
        found[name] = step
    return found


def _sets_labels(given: object, place: str) -> dict[str, LabelValue | FromInput]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidWorkflow(
            f"{place}: {quoted(given)} must be a map of a label's key to its value"
        )
    check_sets_labels(given, place)
    return dict(given)


def _retries(retries: object, place: str) -> int:
    if isinstance(retries, int) and not isinstance(retries, bool) and 0 <= retries <= MAX_RETRIES:
        return retries
    raise InvalidWorkflow(
        f"{place}: retries: {quoted(retries)} must be a whole number from 0 to {MAX_RETRIES:,}"
    )


def _number(given: object, place: str, least: float, most: float) -> float:
    if isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most:
        return float(given)
    raise InvalidWorkflow(f"{place}: {quoted(given)} must be a number from {least:g} to {most:g}")


def seconds_of(given: Duration, place: str) -> float:
    """A duration in seconds."""
    try:
        seconds = parse_duration(given, place)
    except InvalidInput as exc:
        raise InvalidWorkflow(str(exc)) from exc
    if seconds > MAX_SECONDS:
        raise InvalidWorkflow(
            f"{place}: {quoted(given)} is over {MAX_SECONDS:,.0f} s, which is the most"
        )
    return seconds

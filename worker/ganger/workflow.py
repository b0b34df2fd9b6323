"""Workflows and steps as users declare them, checked where they are declared."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypedDict, TypeVar, get_type_hints

from ganger_broker.crons import Cron
from ganger_broker.definitions import (
    Concurrency,
    FromInput,
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
    action_of,
)
from ganger_broker.durations import Duration, parse_duration
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.expressions import check_expression, check_sets_labels
from ganger_broker.fields import MAX_RETRIES, MAX_SECONDS, MAX_STEPS, MAX_VERSION, NAME_PATTERN
from ganger_broker.labels import LabelValue, conditions_to_desired, parse_desired

from .crons import checked_crons
from .flow_control import checked_concurrency, checked_units

__all__ = [
    "BoundStep",
    "Declaration",
    "Duration",
    "StepOptions",
    "bind",
    "check_parentheses",
    "declaration_of",
    "declare_step",
    "declare_workflow",
    "from_input",
    "mark_step",
    "step_name_of",
    "workflow_name_of",
    "written",
]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
E = TypeVar("E", bound=StrEnum)

DEFAULT_TIMEOUT = 60.0
DEFAULT_SCHEDULE_TIMEOUT = 300.0
DEFAULT_BACKOFF_MAX = 300.0
DEFAULT_JITTER = 0.1

_STEP = "__ganger_step__"
_WORKFLOW = "__ganger_workflow__"


@dataclass(frozen=True)
class _Step:
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


@dataclass(frozen=True)
class Declaration:
    """What ``workflow(...)`` leaves on a class: its definition, each step's method, and the
    pydantic model of its input."""

    definition: WorkflowDefinition
    methods: Mapping[str, str]
    input_validator: type[Any] | None = None


@dataclass(frozen=True)
class BoundStep:
    """A step of one workflow object, ready to be called with its context.

    ``input_model`` and ``parent_models``: pydantic models of the run's input, and of what
    parents return by their names, where there are any.
    """

    call: Callable[[Any], Any]
    is_async: bool
    input_model: type[Any] | None = None
    parent_models: Mapping[str, type[Any]] = field(default_factory=dict)


def declare_step(
    name: str | None,
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
    parents: Iterable[str | Callable[..., Any]] = (),
    on_failure: bool = False,
    takes: tuple[str, str] = ("self", "context"),
) -> Callable[[F], F]:
    """The decorator that makes a method a step; see ``Ganger.step``."""
    check_parentheses(name, "on_failure_step" if on_failure else "step")

    def decorate(function: F) -> F:
        if not inspect.isfunction(function):
            raise InvalidWorkflow(f"step: decorates a method of a workflow class, not {function!r}")
        given = function.__name__.lower() if name is None else name
        place = f"step {given!r}"
        _check_name(given, place)
        _check_function(function, place, takes)
        step = _Step(
            given,
            on_failure,
            _parents(parents, place),
            _seconds(timeout, f"{place}: timeout"),
            None
            if schedule_timeout is None
            else _seconds(schedule_timeout, f"{place}: schedule_timeout"),
            _retries(retries, place),
            None
            if backoff_factor is None
            else _number(backoff_factor, f"{place}: backoff_factor", 1, MAX_SECONDS),
            _seconds(backoff_max_seconds, f"{place}: backoff_max_seconds"),
            _number(jitter, f"{place}: jitter", 0, 1),
            written(desired_worker_labels, f"{place}: desired_worker_labels"),
            _sets_labels(sets_labels, f"{place}: sets_labels"),
            checked_units(rate_limits, f"{place}: rate_limits"),
        )
        setattr(function, _STEP, step)
        return function

    return decorate


def declare_workflow(
    name: str | None,
    *,
    on_events: Sequence[str],
    schedule_timeout: Duration,
    version: str,
    sticky: StickyStrategy | str | None,
    sticky_on_loss: StickyOnLoss | str,
    input_validator: type[Any] | None = None,
    concurrency: Concurrency | Sequence[Concurrency] | None = None,
    on_crons: Sequence[str | Cron] = (),
) -> Callable[[C], C]:
    """The decorator that makes a class a workflow; see ``Ganger.workflow``."""
    check_parentheses(name, "workflow")

    def decorate(cls: C) -> C:
        if not isinstance(cls, type):
            raise InvalidWorkflow(f"workflow: decorates a class, not {cls!r}")
        given = cls.__name__.lower() if name is None else name
        place = f"workflow {given!r}"
        _check_name(given, place)
        _check_events(on_events, place)
        _check_version(version, place)
        default = _seconds(schedule_timeout, f"{place}: schedule_timeout")
        steps = _steps_of(cls, place)
        own = [step for _, step in steps if not step.on_failure]
        _check_dag(own, place)
        definition = WorkflowDefinition(
            given,
            [_definition(step, default) for step in own],
            version,
            on_events=list(on_events),
            on_crons=checked_crons(on_crons, f"{place}: on_crons"),
            on_failure=_on_failure([step for _, step in steps], default, place),
            sticky=None if sticky is None else _choice(StickyStrategy, sticky, f"{place}: sticky"),
            sticky_on_loss=_choice(StickyOnLoss, sticky_on_loss, f"{place}: sticky_on_loss"),
            input_schema=_schema_of(input_validator, place),
            concurrency=checked_concurrency(concurrency, f"{place}: concurrency"),
        )
        methods = {step.name: method for method, step in steps}
        setattr(cls, _WORKFLOW, Declaration(definition, methods, input_validator))
        return cls

    return decorate


def declaration_of(workflow: object) -> Declaration:
    """The declaration of a workflow class, or of an object of one.

    Raises:
        InvalidWorkflow: it is neither.
    """
    found = getattr(workflow, _WORKFLOW, None)
    if not isinstance(found, Declaration):
        raise InvalidWorkflow(
            f"{workflow!r} is not a workflow: decorate its class with @app.workflow()"
        )
    return found


def workflow_name_of(workflow: str | object) -> str:
    """The name of a workflow that is given by its name, or as what was declared.

    Raises:
        InvalidWorkflow: it is neither.
    """
    return workflow if isinstance(workflow, str) else declaration_of(workflow).definition.name


def mark_step(method: F, like: Callable[..., Any]) -> F:
    """Make a method the step that ``like`` was declared as."""
    setattr(method, _STEP, getattr(like, _STEP))
    return method


def step_name_of(step: object) -> str | None:
    """The name of a decorated step; None where it is none."""
    found = getattr(step, _STEP, None)
    return found.name if isinstance(found, _Step) else None


def bind(workflow: object) -> dict[str, BoundStep]:
    """The steps of a workflow object, by action."""
    declaration = declaration_of(workflow)
    calls = {step: getattr(workflow, method) for step, method in declaration.methods.items()}
    models = {step: _model_returned(call) for step, call in calls.items()}
    returned = {step: model for step, model in models.items() if model is not None}
    return {
        action_of(declaration.definition.name, step): BoundStep(
            call, inspect.iscoroutinefunction(call), declaration.input_validator, returned
        )
        for step, call in calls.items()
    }


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


# ── checks ────────────────────────────────────────────────────────────────────────────


def _steps_of(cls: type, place: str) -> list[tuple[str, _Step]]:
    """(method, step) of the class and its bases, bases first, in the order they are written."""
    found: dict[str, _Step] = {}
    for base in reversed(cls.__mro__):
        for method, value in vars(base).items():
            if hasattr(getattr(value, "__func__", None), _STEP):
                raise InvalidWorkflow(f"{place}: {method}: a step is a plain method, with self")
            step = getattr(value, _STEP, None)
            if isinstance(step, _Step):
                found[method] = step
            else:
                found.pop(method, None)  # overridden by something that is no step
    if len(found) > MAX_STEPS:
        raise InvalidWorkflow(f"{place}: has {len(found)} steps, at most {MAX_STEPS} are taken")
    return list(found.items())


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_validate")


def _schema_of(model: object, place: str) -> dict[str, Any] | None:
    if model is None:
        return None
    if not isinstance(model, type) or not hasattr(model, "model_json_schema"):
        raise InvalidWorkflow(f"{place}: input_validator: {model!r} must be a pydantic model class")
    schema: dict[str, Any] = model.model_json_schema()
    return schema


def _model_returned(function: Callable[..., Any]) -> type[Any] | None:
    """The pydantic model that a step says it returns."""
    written_out = getattr(function, "__wrapped__", function)
    try:
        returned = get_type_hints(written_out).get("return")
    except Exception:  # annotations may name what is there for type checkers only
        return None
    return returned if _is_model(returned) else None


def _check_events(on_events: object, place: str) -> None:
    is_list = isinstance(on_events, Iterable) and not isinstance(on_events, str)
    if not is_list or not all(isinstance(e, str) and e for e in on_events):  # type: ignore[attr-defined]
        raise InvalidWorkflow(f"{place}: on_events: {on_events!r} must be a list of names")


def _check_version(version: object, place: str) -> None:
    if not isinstance(version, str) or len(version) > MAX_VERSION:
        raise InvalidWorkflow(
            f"{place}: version: {version!r} must be a string of at most {MAX_VERSION} characters"
        )


def _choice(kind: type[E], given: object, place: str) -> E:
    try:
        return kind(str(given).lower())
    except ValueError as exc:
        choices = " or ".join(repr(choice.value) for choice in kind)
        raise InvalidWorkflow(f"{place}: {given!r} must be {choices}") from exc


def _check_dag(steps: Sequence[_Step], place: str) -> None:
    if not steps:
        raise InvalidWorkflow(f"{place}: has no steps; decorate a method with @app.step()")
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise InvalidWorkflow(f"{place}: has two steps named {name!r}")
    for step in steps:
        for parent in step.parents:
            if parent not in names:
                raise InvalidWorkflow(
                    f"{place}: step {step.name!r}: parents: there is no step {parent!r}; "
                    f"there are {', '.join(names)}"
                )
    try:
        TopologicalSorter({step.name: step.parents for step in steps}).prepare()
    except CycleError as exc:
        cycle = " → ".join(exc.args[1])
        raise InvalidWorkflow(f"{place}: the parents make a cycle: {cycle}") from exc


def _on_failure(
    steps: Sequence[_Step], schedule_timeout: float, place: str
) -> StepDefinition | None:
    found = [step for step in steps if step.on_failure]
    if len(found) > 1:
        names = " and ".join(repr(step.name) for step in found)
        raise InvalidWorkflow(f"{place}: has more than one on_failure_step: {names}")
    for step in found:
        if any(step.name == other.name for other in steps if other is not step):
            raise InvalidWorkflow(f"{place}: has two steps named {step.name!r}")
    return _definition(found[0], schedule_timeout) if found else None


def _definition(step: _Step, schedule_timeout: float) -> StepDefinition:
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
    )


def check_parentheses(name: object, decorator: str) -> None:
    """Refuse a decorator that was written without its parentheses."""
    if callable(name):
        raise InvalidWorkflow(
            f"{decorator}: write @app.{decorator}() with its parentheses, above {name!r}"
        )


def _check_name(name: object, place: str) -> None:
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


def _parents(parents: Iterable[str | Callable[..., Any]], place: str) -> tuple[str, ...]:
    if isinstance(parents, str):
        raise InvalidWorkflow(f"{place}: parents: {parents!r} must be a list of steps")
    names = []
    for parent in parents:
        name = parent if isinstance(parent, str) else step_name_of(parent)
        if name is None:
            raise InvalidWorkflow(f"{place}: parents: {parent!r} is neither a step nor its name")
        if name not in names:
            names.append(name)
    return tuple(names)


def _sets_labels(given: object, place: str) -> dict[str, LabelValue | FromInput]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidWorkflow(f"{place}: {given!r} must be a map of a label's key to its value")
    check_sets_labels(given, place)
    return dict(given)


def _retries(retries: object, place: str) -> int:
    if isinstance(retries, int) and not isinstance(retries, bool) and 0 <= retries <= MAX_RETRIES:
        return retries
    raise InvalidWorkflow(
        f"{place}: retries: {retries!r} must be a whole number from 0 to {MAX_RETRIES:,}"
    )


def _number(given: object, place: str, least: float, most: float) -> float:
    if isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most:
        return float(given)
    raise InvalidWorkflow(f"{place}: {given!r} must be a number from {least:g} to {most:g}")


def _seconds(given: Duration, place: str) -> float:
    try:
        seconds = parse_duration(given, place)
    except InvalidInput as exc:
        raise InvalidWorkflow(str(exc)) from exc
    if seconds > MAX_SECONDS:
        raise InvalidWorkflow(f"{place}: {given!r} is over {MAX_SECONDS:,.0f} s, which is the most")
    return seconds

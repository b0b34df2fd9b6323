"""Workflows as users declare them, checked where they are declared."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from ganger_broker.crons import Cron
from ganger_broker.definitions import (
    Concurrency,
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
    action_of,
)
from ganger_broker.durations import Duration
from ganger_broker.errors import InvalidInput, InvalidWorkflow
from ganger_broker.event_keys import check_event_pattern
from ganger_broker.fields import MAX_STEPS, MAX_VERSION
from ganger_broker.quoting import quoted

from .compute.configs import Compute
from .compute.pools import Pools, checked_compute
from .crons import checked_crons
from .flow_control import checked_concurrency
from .input_schema import input_schema
from .step import (
    STEP_MARK,
    STEPS_WRITTEN,
    Step,
    check_name,
    check_parentheses,
    in_order,
    seconds_of,
    step_definition,
)
from .typed import Returned, returned_by

__all__ = [
    "BoundStep",
    "Declaration",
    "Duration",
    "bind",
    "declaration_of",
    "declare_workflow",
    "workflow_name_of",
]

C = TypeVar("C", bound=type)
E = TypeVar("E", bound=StrEnum)

DEFAULT_SCHEDULE_TIMEOUT = 300.0

_WORKFLOW = "__ganger_workflow__"


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

    ``input_model``: the pydantic model of the run's input. ``returned``: what the workflow's
    steps return by their names, where they say that it is a model, or has models in it.
    ``on_failure``: it runs when another has failed for good.
    """

    call: Callable[[Any], Any]
    is_async: bool
    input_model: type[Any] | None = None
    returned: Mapping[str, Returned] = field(default_factory=dict)
    on_failure: bool = False


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
    compute: Compute | None = None,
    pools: Pools,
) -> Callable[[C], C]:
    """The decorator that makes a class a workflow; see ``Ganger.workflow``. ``pools`` names
    those of its steps."""
    check_parentheses(name, "app.workflow")

    def decorate(cls: C) -> C:
        if not isinstance(cls, type):
            raise InvalidWorkflow(f"workflow: decorates a class, not {cls!r}")
        given = cls.__name__.lower() if name is None else name
        place = f"workflow {quoted(given)}"
        check_name(given, place)
        _check_events(on_events, place)
        _check_version(version, place)
        default = seconds_of(schedule_timeout, f"{place}: schedule_timeout")
        steps = _steps_of(cls, place)
        own = [step for _, step in steps if not step.on_failure]
        failing = [step for _, step in steps if step.on_failure]
        _check_dag(own, failing, place)
        _check_own(cls, own, place)
        checked_compute(compute, place)

        def defined(step: Step) -> StepDefinition:
            machine = step.compute or compute
            pool = None if machine is None else pools.name_of(machine)
            return step_definition(step, default, pool)

        failure = _failure_step(failing, own, place)
        definition = WorkflowDefinition(
            given,
            [defined(step) for step in own],
            version,
            on_events=in_order(on_events),
            on_crons=checked_crons(on_crons, f"{place}: on_crons"),
            on_failure=None if failure is None else defined(failure),
            sticky=None if sticky is None else _choice(StickyStrategy, sticky, f"{place}: sticky"),
            sticky_on_loss=_choice(StickyOnLoss, sticky_on_loss, f"{place}: sticky_on_loss"),
            input_schema=_schema_of(input_validator, place),
            concurrency=checked_concurrency(concurrency, f"{place}: concurrency"),
        )
        _check_sticky(definition, place)
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


def bind(workflow: object) -> dict[str, BoundStep]:
    """The steps of a workflow object, by action."""
    declaration = declaration_of(workflow)
    calls = {step: getattr(workflow, method) for step, method in declaration.methods.items()}
    said = {step: returned_by(call) for step, call in calls.items()}
    returned = {step: kind for step, kind in said.items() if kind is not None}
    failure = declaration.definition.on_failure
    return {
        action_of(declaration.definition.name, step): BoundStep(
            call,
            inspect.iscoroutinefunction(call),
            declaration.input_validator,
            returned,
            failure is not None and step == failure.name,
        )
        for step, call in calls.items()
    }


# ── checks ────────────────────────────────────────────────────────────────────────────


def _steps_of(cls: type, place: str) -> list[tuple[str, Step]]:
    """(method, step) of the class and its bases, bases first, in the order they are written."""
    found: dict[str, Step] = {}
    for base in reversed(cls.__mro__):
        for method, value in vars(base).items():
            if hasattr(getattr(value, "__func__", None), STEP_MARK):
                raise InvalidWorkflow(f"{place}: {method}: a step is a plain method, with self")
            step = getattr(value, STEP_MARK, None)
            if isinstance(step, Step):
                found[method] = step
            else:
                found.pop(method, None)  # overridden by something that is no step
        _check_written(base, place)
    if len(found) > MAX_STEPS:
        raise InvalidWorkflow(f"{place}: has {len(found)} steps, at most {MAX_STEPS} are taken")
    return list(found.items())


def _check_written(cls: type, place: str) -> None:
    """Every step of a class body is still there: a subclass may override one, its own class not."""
    left = [getattr(each, STEP_MARK, None) for each in vars(cls).values()]
    for step in vars(cls).get(STEPS_WRITTEN, ()):
        if not any(step is each for each in left):
            raise InvalidWorkflow(
                f"{place}: the step {step.name!r} is not in its class {cls.__qualname__} any more: "
                "something else took its place: another method of that name, an assignment below, "
                "or a decorator above that keeps none of its attributes (functools.wraps does)"
            )


def _schema_of(model: object, place: str) -> dict[str, Any] | None:
    if model is None:
        return None
    if not isinstance(model, type) or not hasattr(model, "__pydantic_core_schema__"):
        raise InvalidWorkflow(
            f"{place}: input_validator: {quoted(model)} must be a pydantic model class"
        )
    return input_schema(model)


def _check_events(on_events: Any, place: str) -> None:
    is_list = isinstance(on_events, Iterable) and not isinstance(on_events, str)
    if not is_list or not all(isinstance(e, str) and e for e in on_events):
        raise InvalidWorkflow(f"{place}: on_events: {quoted(on_events)} must be a list of names")
    for number, pattern in enumerate(on_events):
        try:
            check_event_pattern(pattern, f"{place}: on_events[{number}]")
        except InvalidInput as exc:
            raise InvalidWorkflow(str(exc)) from exc


def _check_version(version: object, place: str) -> None:
    if not isinstance(version, str) or len(version) > MAX_VERSION:
        raise InvalidWorkflow(
            f"{place}: version: {quoted(version)} must be a string of at most {MAX_VERSION} "
            "characters"
        )


def _choice(kind: type[E], given: object, place: str) -> E:
    try:
        return kind(str(given).lower())
    except ValueError as exc:
        choices = " or ".join(repr(choice.value) for choice in kind)
        raise InvalidWorkflow(f"{place}: {quoted(given)} must be {choices}") from exc


def _check_dag(steps: Sequence[Step], failing: Sequence[Step], place: str) -> None:
    if not steps:
        raise InvalidWorkflow(f"{place}: has no steps; decorate a method with @app.step()")
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise InvalidWorkflow(f"{place}: has two steps named {name!r}")
    for step in steps:
        for parent in step.parents:
            if parent in names:
                continue
            why = f"there is no step {parent!r}; there are {', '.join(names)}"
            if any(parent == each.name for each in failing):
                why = f"{parent!r} runs when a step has failed, and is nobody's parent"
            raise InvalidWorkflow(f"{place}: step {step.name!r}: parents: {why}")
    try:
        TopologicalSorter({step.name: step.parents for step in steps}).prepare()
    except CycleError as exc:
        cycle = " → ".join(exc.args[1])
        raise InvalidWorkflow(f"{place}: the parents make a cycle: {cycle}") from exc


def _check_own(cls: type, steps: Sequence[Step], place: str) -> None:
    """A parent that is given as a function is a step of this class, or one of its bases', which
    it may have overridden: another workflow's would only share its name."""
    written = [
        getattr(each, STEP_MARK, None) for base in cls.__mro__ for each in vars(base).values()
    ]
    for step in steps:
        for parent in step.given:
            if not any(own is parent for own in written):
                raise InvalidWorkflow(
                    f"{place}: step {step.name!r}: parents: the step {parent.name!r} that is given "
                    "is not one of this workflow"
                )


def _check_sticky(definition: WorkflowDefinition, place: str) -> None:
    """A run that stays on one worker cannot have steps in two pools; no other is pinned anew."""
    hard = definition.sticky is StickyStrategy.HARD
    if definition.sticky_on_loss is StickyOnLoss.REPIN and not hard:
        raise InvalidWorkflow(f"{place}: sticky_on_loss: 'repin' is for sticky=HARD")
    pools = dict.fromkeys(step.pool for step in definition.every_step())
    if hard and len(pools) > 1:
        names = " and ".join(pool or "no pool" for pool in pools)
        raise InvalidWorkflow(
            f"{place}: sticky: with HARD all steps of a run stay on one worker, but these are in "
            f"{names}; give them one compute, or say SOFT"
        )


def _failure_step(found: Sequence[Step], others: Sequence[Step], place: str) -> Step | None:
    if len(found) > 1:
        names = " and ".join(repr(step.name) for step in found)
        raise InvalidWorkflow(f"{place}: has more than one on_failure_step: {names}")
    for step in found:
        if any(step.name == other.name for other in others):
            raise InvalidWorkflow(f"{place}: has two steps named {step.name!r}")
    return found[0] if found else None

"""What registers with a worker: definitions of workflows, and rate limits."""

from collections.abc import Iterable

from ganger_broker.crons import check_cron
from ganger_broker.definitions import WorkflowDefinition, check_keys, check_rates
from ganger_broker.errors import InvalidInput
from ganger_broker.expressions import check_expression, check_sets_labels
from ganger_broker.messages import WorkerRegistered

from .concurrency import limits_changed
from .effects import StoreRate, StoreWorkflow
from .inputs import InputSchema, schema_problem
from .placing import place_patient_anew, room
from .rates import Rate
from .records import RateUse, Worker
from .schedules import follow_crons
from .state import State
from .workflow import Workflow

__all__ = [
    "anticipate",
    "bad_definition",
    "choose_newest",
    "has_lost_some",
    "register_limits",
    "register_workflows",
]


def bad_definition(state: State, event: WorkerRegistered) -> str | None:
    """Why a worker is not to come with these definitions."""
    limits = {key: rate.limit for key, rate in state.rates.items()}
    limits |= {limit.key: limit for limit in event.rate_limits}
    for flow in event.workflows:
        place = f"workflow {flow.name!r}"
        schema = flow.input_schema
        problem = schema_problem(schema) if schema is not None else None
        if problem is not None:
            return f"{place}: input_schema: is no JSON Schema: {problem}"
        try:
            for number, cron in enumerate(flow.on_crons):
                check_cron(cron, f"{place}: on_crons[{number}]")
                unfit = schema and InputSchema(schema).problem(cron.input)
                if unfit:
                    return f"{place}: on_crons[{number}]: {unfit}"
            check_keys(flow.concurrency, f"{place}: concurrency")
            for number, rule in enumerate(flow.concurrency):
                if rule.key is not None:
                    check_expression(rule.key, f"{place}: concurrency[{number}].key")
            for step in flow.every_step():
                check_sets_labels(step.sets_labels, f"{place}: step {step.name!r}: sets_labels")
                check_rates(step, limits, f"{place}: step {step.name!r}: rate_limits")
        except InvalidInput as exc:
            return str(exc)
    return None


def register_workflows(state: State, event: WorkerRegistered) -> list[str]:
    """Keep the definitions that nobody has registered before; the names of workflows that were
    not known."""
    fresh = []
    for definition in event.workflows:
        name, workflow = definition.name, Workflow(definition)
        came = state.came.setdefault(name, {})
        known = state.workflows.get(name)
        if known is None or not event.draining:
            came.setdefault(workflow.digest, workflow)
        if known is None:
            fresh.append(name)
            _begin_with(state, workflow)
        elif definition.on_crons and known.digest == workflow.digest:
            follow_crons(state, definition)  # one may have been deleted while nobody was there
    return fresh


def has_lost_some(state: State, worker: Worker) -> bool:
    """Whether nobody knows a definition any more that the worker has: keys were deleted, or it was
    paused when it came with it, and another leads since. Told to, it registers again."""
    workflows = worker.workflows.items()
    return any(which not in state.came.get(name, {}) for name, (_, which) in workflows)


def choose_newest(state: State, names: Iterable[str]) -> set[str]:
    """New runs begin with the definition that came last, of those that live workers have: one
    that somebody starts again has come before. While there is no such worker it is the last
    choice. The names of those of which it is another one now.
    """
    changed = set()
    for name in names:
        came = state.came.get(name, {})
        live = [which for which in came if state.versions.has(name, which)]
        if live and live[-1] != state.workflows[name].digest:
            _begin_with(state, came[live[-1]])
            changed.add(name)
    return changed


def _begin_with(state: State, workflow: Workflow) -> None:
    """It is the definition of new runs, of its events and its crons."""
    definition = workflow.definition
    state.workflows[definition.name] = workflow
    anticipate(state, definition)
    limits_changed(state, definition.name)
    state.emit(StoreWorkflow(definition, tuple(state.came[definition.name])))
    follow_crons(state, definition)


def anticipate(state: State, definition: WorkflowDefinition) -> None:
    """Preferences count the labels that its steps set from the moment they are assigned."""
    keys = {key for step in definition.every_step() for key in step.sets_labels}
    if keys and state.placement.anticipate(keys):
        place_patient_anew(state)


def register_limits(state: State, event: WorkerRegistered) -> None:
    """Keep rate limits that are new or changed; there may be more room now."""
    for limit in event.rate_limits:
        rate = state.rates.get(limit.key)
        if rate is None or (rate.limit != limit and not event.again):
            used = rate.used if rate is not None else {}
            waiting = rate.waiting if rate is not None else []
            state.rates[limit.key] = Rate(limit, used)
            state.rates[limit.key].waiting = waiting
            state.emit(StoreRate(RateUse(limit, dict(used))))
            room(state, limit.key)

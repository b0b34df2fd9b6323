"""What registers with a worker: definitions of workflows, and rate limits."""

from ganger_broker.crons import check_cron
from ganger_broker.definitions import WorkflowDefinition, check_rates
from ganger_broker.errors import InvalidInput
from ganger_broker.expressions import check_expression, check_sets_labels
from ganger_broker.messages import RegisterAgain, WorkerRegistered

from .concurrency import limits_changed
from .effects import StoreRate, StoreWorkflow, Tell
from .inputs import InputSchema, schema_problem
from .placing import place_patient_anew, room
from .rates import Rate
from .records import RateUse, Worker
from .schedules import follow_crons
from .state import State
from .workflow import Workflow

__all__ = ["anticipate", "bad_definition", "register_limits", "register_workflows", "retire"]


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
    """Keep definitions that are new or changed; the names that were not known before."""
    fresh = []
    for definition in event.workflows:
        known = state.workflows.get(definition.name)
        if known is None:
            fresh.append(definition.name)
        workflow = Workflow(definition)
        old_news = known is not None and _is_old_news(state, event, known, workflow)
        if known is None or (known.definition != definition and not old_news):
            state.workflows[definition.name] = workflow
            state.retired.discard(workflow.digest)
            state.seen.add(workflow.digest)
            anticipate(state, definition)
            limits_changed(state, definition.name)
            state.emit(StoreWorkflow(definition))
            follow_crons(state, definition)
        elif definition.on_crons and known.definition == definition:
            follow_crons(state, definition)  # one may have been deleted while nobody was there
    return fresh


def _is_old_news(
    state: State, event: WorkerRegistered, known: Workflow, workflow: Workflow
) -> bool:
    """Whether a definition was the newest before and is not again. A worker that has it may just
    have been started again; it is a step back when the last one of the newest has gone."""
    if workflow.digest not in state.seen or known.digest in state.retired:
        return False
    return event.again or state.versions.has(known.definition.name, known.digest)


def retire(state: State, worker: Worker) -> None:
    """It made way: where it was the last of the newest definition, others say what theirs is."""
    for name, (_, which) in worker.workflows.items():
        known = state.workflows.get(name)
        if known is None or known.digest != which or state.versions.has(name, which):
            continue
        others = [other for other in state.workers.values() if state.versions.among(other, name)]
        if others:
            state.retired.add(which)
        for other in others:
            state.emit(Tell(other.id, RegisterAgain()))


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

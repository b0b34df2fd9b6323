"""What a batch of facts lacks before the core can handle it: results of runs that have ended."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.messages import RunResult, WorkerRegistered

from .core.core import Fact
from .core.events import triggers_of
from .core.facts import EventPushed, ScheduleRequested, TriggerReceived
from .core.schedules import one_off_schedules, tick_run_id
from .core.state import State
from .inbox import Received

__all__ = ["look_up_ended"]

Facts = dict[Received, list[Fact]]
Ended = Callable[[list[str]], Awaitable[dict[str, RunResult]]]
"""Asks the store for the results of those of these runs that have ended."""


async def look_up_ended(facts: Facts, state: State, ended: Ended) -> list[str]:
    """Give what asks for runs the results of those that have ended: the core knows only those
    that are live.

    Returns the ids of runs that were not looked up, as their triggers are new; the commit
    sees whether that is so.
    """
    await _look_up_ticks(facts, ended)
    definitions = _waiting_for_events(facts, state)
    asking: list[tuple[list[Fact], TriggerReceived | EventPushed, list[str]]] = []
    new: list[str] = []
    for received, those in facts.items():
        for fact in those:
            if isinstance(fact, EventPushed):
                run_ids = [each.run_id for each in triggers_of(fact, definitions)]
            elif not isinstance(fact, TriggerReceived) or fact.run_id in state.runs:
                continue
            elif received.delivery.new and fact.trigger.parent is None:
                new.append(fact.run_id)
                continue
            else:
                run_ids = [fact.run_id, _parent_run(fact)]
            asking.append((those, fact, [each for each in run_ids if each not in state.runs]))
    run_ids = sorted({run_id for *_, run_ids in asking for run_id in run_ids if run_id})
    found = await ended(run_ids) if run_ids else {}
    for those, fact, run_ids in asking:
        known = {run_id: found[run_id] for run_id in run_ids if run_id in found}
        if known:
            those[those.index(fact)] = _told(fact, known)
    return new


def _told(
    fact: TriggerReceived | EventPushed, known: dict[str, RunResult]
) -> TriggerReceived | EventPushed:
    if isinstance(fact, EventPushed):
        return replace(fact, ended=known)
    return replace(fact, ended=known.get(fact.run_id), parent_ended=known.get(_parent_run(fact)))


def _waiting_for_events(facts: Facts, state: State) -> list[WorkflowDefinition]:
    """Definitions that an event may start a run of, when its turn comes: of what workflows that
    is, the core says, which has handled the registrations before it by then."""
    every = [fact for those in facts.values() for fact in those]
    if not any(isinstance(fact, EventPushed) for fact in every):
        return []
    found = [workflow.definition for workflow in state.workflows.values()]
    for fact in every:
        if isinstance(fact, WorkerRegistered):
            found += fact.workflows
    return [definition for definition in found if definition.on_events]


async def _look_up_ticks(facts: Facts, ended: Ended) -> None:
    """The same for runs at given times: a request that comes again starts nothing anew."""
    for those in facts.values():
        for at, fact in enumerate(those):
            if isinstance(fact, ScheduleRequested):
                wanted = one_off_schedules(fact.request, fact.schedule_id)
                run_ids = [tick_run_id(each) for each in wanted]
                those[at] = replace(fact, ended=frozenset(await ended(run_ids)))


def _parent_run(fact: TriggerReceived) -> str:
    return (fact.trigger.parent or "").partition("/")[0]

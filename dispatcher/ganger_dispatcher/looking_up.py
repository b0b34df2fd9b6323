"""What a batch of facts lacks before the core can handle it: triggers of events, ended runs."""

from collections.abc import Awaitable, Callable, Container, Iterable

from msgspec.structs import replace

from ganger_broker.messages import RunResult

from .core.core import Fact
from .core.events import expanded
from .core.facts import EventPushed, ScheduleRequested, TriggerReceived
from .core.schedules import one_off_schedules, tick_run_id
from .core.workflow import Workflow
from .inbox import Received

__all__ = ["expand_events", "look_up_ended"]

Facts = dict[Received, list[Fact]]
Ended = Callable[[list[str]], Awaitable[dict[str, RunResult]]]
"""Asks the store for the results of those of these runs that have ended."""


def expand_events(facts: Facts, workflows: Iterable[Workflow]) -> None:
    """Put the triggers that an event stands for behind it."""
    workflows = list(workflows)
    for those in facts.values():
        if any(isinstance(fact, EventPushed) for fact in those):
            those[:] = [
                each
                for fact in those
                for each in (expanded(fact, workflows) if isinstance(fact, EventPushed) else [fact])
            ]


async def look_up_ended(facts: Facts, live: Container[str], ended: Ended) -> list[str]:
    """Give triggers of runs that have ended their results: the core knows only those that ``live``.

    Returns the ids of runs that were not looked up, as their triggers are new; the commit
    sees whether that is so.
    """
    await _look_up_ticks(facts, ended)
    asked: list[tuple[list[Fact], TriggerReceived]] = []
    new: list[str] = []
    for received, those in facts.items():
        for fact in those:
            if isinstance(fact, TriggerReceived) and fact.run_id not in live:
                if received.delivery.new and fact.trigger.parent is None:
                    new.append(fact.run_id)
                else:
                    asked.append((those, fact))
    if not asked:
        return new
    run_ids = [fact.run_id for _, fact in asked]
    parents = {_parent_run(fact) for _, fact in asked}
    run_ids += sorted(parent for parent in parents if parent and parent not in live)
    found = await ended(run_ids)
    for those, fact in asked:
        own, parent = found.get(fact.run_id), found.get(_parent_run(fact))
        if own or parent:
            those[those.index(fact)] = replace(fact, ended=own, parent_ended=parent)
    return new


async def _look_up_ticks(facts: Facts, ended: Ended) -> None:
    """The same for runs at given times: a request that comes again starts nothing anew."""
    for those in facts.values():
        for at, fact in enumerate(those):
            if isinstance(fact, ScheduleRequested):
                wanted = one_off_schedules(fact.request, fact.schedule_id)
                run_ids = [tick_run_id(each.schedule_id, each.next_at) for each in wanted]
                those[at] = replace(fact, ended=frozenset(await ended(run_ids)))


def _parent_run(fact: TriggerReceived) -> str:
    return (fact.trigger.parent or "").partition("/")[0]

"""Events that start runs: one event, a run of each workflow that waits for it."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import blake2s

from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.messages import Trigger

from .effects import Count, Note
from .facts import EventPushed, TriggerReceived
from .state import State
from .triggers import received

__all__ = ["pushed", "triggers_of"]


def triggers_of(
    fact: EventPushed, definitions: Iterable[WorkflowDefinition]
) -> list[TriggerReceived]:
    """A trigger for each workflow with a pattern that the event's key matches.

    Patterns are those of a shell: ``*`` is anything, ``?`` one character, ``[ab]`` one of
    these. A run's id comes from the event's, so an event that comes twice starts nothing anew.
    """
    event = fact.event
    found: list[TriggerReceived] = []
    for definition in definitions:
        if any(fnmatchcase(fact.key, pattern) for pattern in definition.on_events):
            words = f"{fact.event_id}/{definition.name}".encode()
            run_id = blake2s(words, digest_size=16).hexdigest()
            trigger = Trigger(
                definition.name,
                event.payload,
                run_id,
                {**event.metadata, "event": fact.key},
                event.priority,
                event.desired_worker_labels,
            )
            found.append(TriggerReceived(trigger, run_id, fact.reply, fact.ended.get(run_id)))
    return found


def pushed(state: State, fact: EventPushed) -> None:
    """Start what waits for the event now, also by a registration that came just before it."""
    found = triggers_of(fact, (workflow.definition for workflow in state.workflows.values()))
    runs = tuple(sorted(trigger.run_id for trigger in found))
    state.emit(Count("events_pushed"), Note("event", {"key": fact.key, "runs": runs}))
    if not found:
        state.emit(Count("events_unmatched"))
    for trigger in found:
        received(state, trigger)

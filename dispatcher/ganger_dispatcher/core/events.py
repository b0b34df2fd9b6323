"""Events that start runs: one event, a run of each workflow that waits for it."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import blake2s

from msgspec.structs import replace

from ganger_broker.messages import Trigger

from .effects import Count, Note
from .facts import EventPushed, TriggerReceived
from .state import State
from .workflow import Workflow

__all__ = ["expanded", "pushed"]


def expanded(
    fact: EventPushed, workflows: Iterable[Workflow]
) -> list[EventPushed | TriggerReceived]:
    """The event itself, and a trigger for each workflow with a pattern that its key matches.

    Patterns are those of a shell: ``*`` is anything, ``?`` one character, ``[ab]`` one of
    these. A run's id comes from the event's, so an event that comes twice starts nothing anew.
    """
    event = fact.event
    found: list[TriggerReceived] = []
    for workflow in workflows:
        definition = workflow.definition
        if any(fnmatchcase(fact.key, pattern) for pattern in definition.on_events):
            words = f"{fact.event_id}/{definition.name}".encode()
            run_id = blake2s(words, digest_size=16).hexdigest()
            trigger = Trigger(
                definition.name,
                event.payload,
                run_id,
                {"event": fact.key, **event.metadata},
                event.priority,
                event.desired_worker_labels,
            )
            found.append(TriggerReceived(trigger, run_id, fact.reply))
    started = tuple(sorted(trigger.run_id for trigger in found))
    return [replace(fact, triggers=started), *found]


def pushed(state: State, fact: EventPushed) -> None:
    """Note the event; its triggers are facts of their own."""
    state.emit(Count("events_pushed"), Note("event", {"key": fact.key, "runs": fact.triggers}))
    if not fact.triggers:
        state.emit(Count("events_unmatched"))

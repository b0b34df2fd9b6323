"""Messages that cannot be taken: they are kept, with the reason."""

import msgspec
from msgspec.structs import replace

from ganger_broker.messages import Trigger
from ganger_broker.quoting import shortened

from .effects import Bury, Count, Note
from .records import ReplyAddress
from .state import State

__all__ = ["bury", "bury_trigger"]


def bury(state: State, letter: Bury) -> None:
    """Dead-letter a message, and count it."""
    letter = replace(letter, detail=shortened(letter.detail))
    state.emit(
        letter,
        Count("messages_dead"),
        Count(f"messages_dead:{letter.reason}"),
        Note(
            "dead",
            {"reason": letter.reason, "detail": letter.detail, "routing_key": letter.routing_key},
        ),
    )


def bury_trigger(
    state: State, trigger: Trigger, reply: tuple[ReplyAddress, ...], reason: str, detail: str
) -> None:
    """Dead-letter a trigger that was understood, and has no run or one that could not begin."""
    key = f"trigger.{trigger.workflow}"
    body = msgspec.json.encode(trigger)
    first = reply[0] if reply else None
    bury(state, Bury(body, "application/json", key, reason, detail, keep=True, reply=first))

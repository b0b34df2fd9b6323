"""Lines that steps log, kept with their run; each once, however often it is delivered."""

from msgspec.structs import replace

from ganger_broker.messages import StepLogged

from .effects import AppendLog
from .records import KeptLine, split_attempt
from .state import State

__all__ = ["logged"]


def logged(state: State, event: StepLogged) -> None:
    """Keep the lines that are new, while the run has not ended.

    Those of the attempt before the current one count too: its worker was lost, or slow to
    stop, and what it said may tell why.
    """
    parts = split_attempt(event.attempt)
    run = state.runs.get(parts[0]) if parts else None
    step = run.steps.get(parts[1]) if run and parts else None
    if run is None or step is None or parts is None:
        return
    _, name, number = parts
    if not step.attempt - 1 <= number <= step.attempt:
        return
    known = run.header.logged or {}
    ours = f"{name}/{number}"
    last = known.get(ours, 0)
    fresh = [line for line in event.lines if line.seq > last]
    if not fresh:
        return
    newest = {
        each: seq
        for each, seq in known.items()
        if each.rpartition("/")[0] != name or int(each.rpartition("/")[2]) >= step.attempt - 1
    }
    newest[ours] = max(line.seq for line in fresh)
    run.header = replace(run.header, logged=newest)
    lines = tuple(
        KeptLine(line.at, event.attempt, line.seq, line.level, line.message) for line in fresh
    )
    state.emit(AppendLog(run.id, newest, lines))

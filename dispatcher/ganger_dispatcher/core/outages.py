"""While nobody could be heard: no silence counts, and what waits for workers loses no time.

A dispatcher that takes over, that stood still, or whose broker was away has a picture of the
fleet that is as old as the last word it heard. Steps that wait would be ended for want of a worker
that has been idle since, and triggers for want of one that has registered.
"""

from msgspec.structs import replace

from .effects import AddPending, Hold, StoreStep
from .records import Held, StepRun
from .state import State

__all__ = ["all_are_heard", "hold_longer", "nobody_was_heard", "without"]


def nobody_was_heard(state: State, since: int) -> None:
    """From ``since`` until now, ms: all workers have fresh deadlines, and what they were given too,
    and till each of them there is has spoken, or is lost, it goes on to be no time for what waits.
    """
    state.heard_anew = state.now
    for worker in state.workers.values():
        worker.heartbeat_at = state.now
    state.unheard.update(state.workers)
    state.deaf_since = min(since, state.waiting_now)


def all_are_heard(state: State) -> None:
    """Time goes on for what waits."""
    since, state.deaf_since = state.waiting_now, None
    for step_run in (*state.placement.backlog.in_turn(), *state.limited):
        run_id, _, name = step_run.partition("/")
        run = state.runs[run_id]
        step = run.steps[name] = without(run.steps[name], since, state.now)
        deadline = step.deadline or state.now
        state.wake(deadline, "pending", step_run)
        state.emit(StoreStep(run_id, name, step), AddPending(step_run, deadline))
    for held in list(state.held.values()):
        hold_longer(state, held, since)
    for timer in state.stand_still:
        state.wake(max(timer.due, state.now), timer.kind, timer.name)
    state.stand_still.clear()


def without(step: StepRun, since: int, now: int) -> StepRun:
    """A pending step for which the time from ``since`` to ``now`` was none. From the moment on at
    which a rate limit held it back it loses none anyway."""
    lost = (step.limited_since or now) - max(since, step.pending_since or 0)
    if lost <= 0:
        return step
    deadline, patient_since = (step.deadline or now) + lost, (step.waits_since or now) + lost
    return replace(step, deadline=deadline, patient_since=patient_since)


def hold_longer(state: State, held: Held, since: int) -> None:
    """A trigger that is held waits for as much longer as was lost since then."""
    lost = state.now - max(since, held.until - state.policy.hold)
    if lost > 0:
        held = replace(held, until=held.until + lost)
        state.emit(Hold(held))
    state.held[held.run_id] = held
    state.wake(held.until, "held", held.run_id)

"""Runs by the clock: crons of workflows, and runs at times that programs ask for.

The next tick of a schedule is stored in the commit that creates the run of the last one, and a
run's id comes from its schedule and its tick: whoever leads, and whatever comes twice, a tick
has one run.
"""

from datetime import UTC, datetime
from hashlib import blake2s

from msgspec.json import encode
from msgspec.structs import replace

from ganger_broker.crons import Cron, MissedTicks, next_tick
from ganger_broker.definitions import WorkflowDefinition
from ganger_broker.messages import Trigger
from ganger_broker.schedules import ScheduleInfo, ScheduleList, ScheduleRuns

from .dead_letters import bury
from .effects import Answer, Bury, Count, DropSchedule, Note, StoreSchedule
from .facts import ScheduleRequested, SchedulesAsked, TriggerReceived, UnscheduleRequested
from .records import ReplyAddress, Schedule
from .state import State
from .triggers import received

__all__ = [
    "asked",
    "due",
    "follow_crons",
    "one_off_schedules",
    "requested",
    "tick_run_id",
    "unschedule_requested",
    "watch",
]

_LATE = 60_000
"""Milliseconds until a tick counts as missed: a change of leaders takes less."""
_AT_ONCE = 100
"""Ticks that are caught up with before others have their turn."""


def tick_run_id(schedule: Schedule) -> str:
    """The id of the run of its next tick.

    What a program asks for is known by that, the workflow and the time: which of how many times it
    is may be another when it is asked for again, and the id another workflow's once it has run.
    """
    words = f"{schedule.asked_as or schedule.schedule_id}/{schedule.next_at}"
    if schedule.asked_as:
        words += f"/{schedule.workflow}"
    if schedule.same_before:
        words += f"/{schedule.same_before}"
    return blake2s(words.encode(), digest_size=16).hexdigest()


def one_off_schedules(request: ScheduleRuns, schedule_id: str) -> list[Schedule]:
    """The schedules that a program asks for, one for each time."""
    times = [round(at.timestamp() * 1000) for at in request.at]
    several = len(times) > 1
    return [
        Schedule(
            schedule_id=f"{schedule_id}-{number}" if several else schedule_id,
            workflow=request.workflow,
            next_at=at,
            input=request.input,
            metadata=request.metadata,
            priority=request.priority,
            desired_worker_labels=request.desired_worker_labels,
            asked_as=schedule_id,
            same_before=times[: number - 1].count(at),
        )
        for number, at in enumerate(times, 1)
    ]


def requested(state: State, fact: ScheduleRequested) -> None:
    """A program wants runs at some times; those that have run already are let be."""
    made = one_off_schedules(fact.request, fact.schedule_id)
    problem = _problem(state, fact, made)
    if problem is not None:
        key, body = f"schedule.{fact.request.workflow}", encode(fact.request)
        kind = "application/json"
        bury(state, Bury(body, kind, key, "invalid_schedule", problem, keep=True, reply=fact.reply))
        _answer(state, fact.reply, [], problem)
        return
    for known in list(state.schedules.values()):
        if known.asked_as == fact.schedule_id:
            _drop(state, known)  # other times are wanted now
    for schedule in made:
        run_id = tick_run_id(schedule)
        there = (fact.ended, state.ended, state.runs, state.held)
        if not any(run_id in runs for runs in there):
            _keep(state, schedule)
    _answer(state, fact.reply, made)


def _problem(state: State, fact: ScheduleRequested, made: list[Schedule]) -> str | None:
    """Why there can be no such schedules."""
    for schedule in made:
        known = state.schedules.get(schedule.schedule_id)
        if known is not None and known.cron is not None:
            return f"{known.schedule_id!r} is the schedule of a cron"
        if known is not None and known.asked_as != fact.schedule_id:
            return f"{known.schedule_id!r} was asked for as {known.asked_as!r}"
    for known in state.schedules.values():
        if known.asked_as == fact.schedule_id and known.workflow != fact.request.workflow:
            return f"{fact.schedule_id!r} is a schedule of workflow {known.workflow!r}"
    workflow = state.workflows.get(fact.request.workflow)
    if workflow is None or workflow.input is None:
        return None
    return workflow.input.problem(fact.request.input)


def unschedule_requested(state: State, fact: UnscheduleRequested) -> None:
    """A program wants a schedule gone, or all that were asked for under one id."""
    found = [each for each in state.schedules.values() if each.asked_as == fact.schedule_id]
    known = state.schedules.get(fact.schedule_id)
    if known is not None and known not in found:
        found.append(known)
    if not found:
        _answer(state, fact.reply, [], f"there is no schedule {fact.schedule_id!r}")
    elif known is not None and known.cron and _is_registered(state, known.workflow):
        text = f"{fact.schedule_id!r} belongs to workflow {known.workflow!r}, as on_crons says"
        _answer(state, fact.reply, [], text)
    else:
        for schedule in found:
            _drop(state, schedule)
        _answer(state, fact.reply, found)


def _is_registered(state: State, workflow: str) -> bool:
    return any(workflow in worker.workflows for worker in state.workers.values())


def asked(state: State, fact: SchedulesAsked) -> None:
    """A program wants to know of all schedules."""
    _answer(state, fact.reply, sorted(state.schedules.values(), key=lambda s: s.next_at))


def _answer(
    state: State, reply: ReplyAddress | None, found: list[Schedule], error: str | None = None
) -> None:
    if reply is not None:
        state.emit(Answer(reply, ScheduleList([_info(schedule) for schedule in found], error)))


def _info(schedule: Schedule) -> ScheduleInfo:
    cron = schedule.cron
    return ScheduleInfo(
        schedule.schedule_id,
        schedule.workflow,
        schedule.next_at,
        schedule.last_at,
        cron.expression if cron else None,
        cron.timezone if cron else None,
        cron.missed if cron else None,
    )


# ── crons ─────────────────────────────────────────────────────────────────────────────


def follow_crons(state: State, definition: WorkflowDefinition) -> None:
    """The newest definition of a workflow says which crons it has."""
    wanted = {_cron_id(definition.name, cron): cron for cron in definition.on_crons}
    for schedule in list(state.schedules.values()):
        is_its = schedule.workflow == definition.name and schedule.cron is not None
        if is_its and schedule.schedule_id not in wanted:
            _drop(state, schedule)
    for schedule_id, cron in wanted.items():
        known = state.schedules.get(schedule_id)
        next_at = next_tick(cron, state.now)
        if (known is None or known.cron is None) and next_at is not None:
            _keep(state, Schedule(schedule_id, definition.name, next_at, cron=cron))


def _cron_id(workflow: str, cron: Cron) -> str:
    words = workflow.encode() + b"/" + encode(cron, order="sorted")
    return f"{workflow[:100]}-{blake2s(words, digest_size=6).hexdigest()}"


# ── ticks ─────────────────────────────────────────────────────────────────────────────


def watch(state: State, schedule: Schedule) -> None:
    """Look at a schedule at its next tick."""
    state.schedules[schedule.schedule_id] = schedule
    due_at = max(schedule.next_at, state.now + 1)  # one that is left has its turn after others
    state.wake(due_at, "schedule", schedule.schedule_id)


def due(state: State, schedule_id: str) -> None:
    """Ticks have come: each has its run, and the next one is waited for."""
    schedule = state.schedules.get(schedule_id)
    if schedule is None or schedule.next_at > state.now:
        return
    following: Schedule | None = schedule
    for _ in range(_AT_ONCE):
        if following is None or following.next_at > state.now:
            break
        following = _ticked(state, following)
    if following is None:
        _drop(state, schedule)
    else:
        _keep(state, following)


def _ticked(state: State, schedule: Schedule) -> Schedule | None:
    """One tick has its run, or was missed; what is waited for next."""
    cron = schedule.cron
    if cron is None:
        _run(state, schedule)
        return None
    after = schedule.next_at
    if after < state.now - _LATE and cron.missed is MissedTicks.SKIP:
        state.emit(
            Count("ticks_missed"),
            Note("tick_missed", {"schedule": schedule.schedule_id, "at": after}),
        )
        after = state.now - _LATE
    else:
        _run(state, schedule)
        schedule = replace(schedule, last_at=after)
    next_at = next_tick(cron, after)
    return None if next_at is None else replace(schedule, next_at=next_at)


def _run(state: State, schedule: Schedule) -> None:
    at, of = schedule.next_at, schedule.cron or schedule
    scheduled_for = datetime.fromtimestamp(at / 1000, UTC).isoformat()
    run_id = tick_run_id(schedule)
    trigger = Trigger(
        schedule.workflow,
        of.input,
        run_id,
        {**of.metadata, "schedule": schedule.schedule_id, "scheduled_for": scheduled_for},
        of.priority,
        of.desired_worker_labels,
    )
    state.emit(Count("ticks"), Note("tick", {"schedule": schedule.schedule_id, "run": run_id}))
    received(state, TriggerReceived(trigger, run_id))


def _keep(state: State, schedule: Schedule) -> None:
    watch(state, schedule)
    state.emit(StoreSchedule(schedule))


def _drop(state: State, schedule: Schedule) -> None:
    del state.schedules[schedule.schedule_id]
    state.emit(DropSchedule(schedule.schedule_id))

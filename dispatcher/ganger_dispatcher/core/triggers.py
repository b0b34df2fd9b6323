"""What programs ask for: runs, and cancellations."""

from msgspec.structs import replace

from ganger_broker.definitions import StickyStrategy
from ganger_broker.messages import FailureReason, RunError, RunResult, RunStatus, Trigger
from ganger_broker.schedules import ScheduleList
from ganger_broker.to_worker import Refused

from .concurrency import enter
from .dead_letters import bury, bury_trigger
from .effects import (
    Answer,
    Bury,
    Count,
    EndRun,
    Hold,
    Note,
    Reply,
    StoreRun,
    StoreStep,
    Tell,
    Unhold,
)
from .facts import CancelRequested, MessageDropped, MessageRefused, TriggerReceived
from .progress import cancel_run, waiting
from .records import Held, ReplyAddress, Run, RunHeader
from .state import State
from .states import StepStatus
from .workflow import Workflow

__all__ = [
    "cancel_orphans",
    "cancel_requested",
    "dropped",
    "hold_is_over",
    "is_held_too_long",
    "join_family",
    "received",
    "refused",
    "workflow_registered",
]


def received(state: State, fact: TriggerReceived) -> None:
    """A valid trigger: a new run, or one that is there already."""
    reply = (fact.reply,) if fact.reply else ()
    other = _workflow_of(state, fact)
    if other not in (None, fact.trigger.workflow):
        text = f"$.run_id: {fact.run_id!r} is a run of workflow {other!r}; give each run its own"
        _refuse(state, fact.run_id, fact.trigger, reply, "invalid_trigger", text)
        return
    ended = fact.ended or state.ended.get(fact.run_id)
    if ended is not None:
        state.emit(*(Reply(address, ended) for address in reply))
    elif fact.run_id in state.runs:
        _also_reply(state, state.runs[fact.run_id], reply)
    elif fact.run_id not in state.held and fact.trigger.workflow in state.workflows:
        workflow = _begins_with(state, fact.trigger)
        _begin(state, workflow, fact.run_id, fact.trigger, reply)
    else:
        _hold(state, fact.run_id, fact.trigger, reply)
    if ended is None:
        join_family(state, fact.run_id, fact.trigger.parent, fact.parent_ended)


def _workflow_of(state: State, fact: TriggerReceived) -> str | None:
    """Of what workflow the run of this id is, if there is one."""
    ended = fact.ended or state.ended.get(fact.run_id)
    if ended is not None:
        return ended.workflow
    if fact.run_id in state.runs:
        return state.runs[fact.run_id].header.workflow
    held = state.held.get(fact.run_id)
    return None if held is None else held.trigger.workflow


def join_family(
    state: State, run_id: str, parent: str | None, parent_ended: RunResult | None = None
) -> None:
    """A child, held or not, is known to its parent; one that came too late is cancelled."""
    if parent is None:
        return
    parent_run, _, step = parent.partition("/")
    parent_ended = state.ended.get(parent_run) or parent_ended
    if parent_run in state.runs:
        if run_id in state.runs or run_id in state.held:
            state.children.setdefault(parent_run, {})[run_id] = step
    elif parent_ended is not None and not _may_outlive(state, parent_ended, step):
        state.orphans.append(run_id)


def _may_outlive(state: State, parent: RunResult, step: str) -> bool:
    """Whether children of this step go on now that its run has ended: if the run succeeded, or
    they are those of its step for failures, and that one did."""
    if parent.status is RunStatus.SUCCEEDED:
        return True
    workflow = state.workflows.get(parent.workflow or "")
    on_failure = workflow.on_failure if workflow is not None else None
    return on_failure is not None and on_failure.name == step and step in parent.output


def cancel_orphans(state: State) -> None:
    """Cancel runs whose parent did not succeed, and theirs in turn."""
    while state.orphans:
        run_id = state.orphans.pop()
        cancel_requested(state, CancelRequested(run_id, "the run that spawned it did not succeed"))


def _hold(state: State, run_id: str, trigger: Trigger, reply: tuple[ReplyAddress, ...]) -> None:
    """Nobody has registered the workflow; its workers may still be starting."""
    held = state.held.get(run_id)
    if held is None:
        until = state.now + state.policy.hold
        held = Held(run_id, trigger, until, reply)
        state.wake(until, "held", run_id)
        state.emit(Count("triggers_held"), Note("held", {"run": run_id}))
    else:
        held = replace(held, reply=_joined(held.reply, reply))
    state.held[run_id] = held
    state.emit(Hold(held))


def _also_reply(state: State, run: Run, reply: tuple[ReplyAddress, ...]) -> None:
    addresses = _joined(run.header.reply, reply)
    if addresses != run.header.reply:
        run.header = replace(run.header, reply=addresses)
        state.emit(StoreRun(run.id, run.header))


def _joined(
    known: tuple[ReplyAddress, ...], reply: tuple[ReplyAddress, ...]
) -> tuple[ReplyAddress, ...]:
    """All addresses, each once; one that asks again may want the stream this time."""
    joined = {replace(address, stream=False): address for address in known}
    for address in reply:
        bare = replace(address, stream=False)
        if bare not in joined or address.stream:
            joined[bare] = address
    return tuple(joined.values())


def _begins_with(state: State, trigger: Trigger) -> Workflow:
    """The newest definition; where the run is to be on one worker only, that worker's: it may be
    paused, and have made way for another version."""
    newest = state.workflows[trigger.workflow]
    worker = state.workers.get(trigger.sticky_to or "")
    if worker is None or trigger.workflow not in worker.workflows:
        return newest
    _, which = worker.workflows[trigger.workflow]
    own = state.came.get(trigger.workflow, {}).get(which, newest)
    return own if own.definition.sticky is StickyStrategy.HARD else newest


def _begin(
    state: State,
    workflow: Workflow,
    run_id: str,
    trigger: Trigger,
    reply: tuple[ReplyAddress, ...],
) -> None:
    problem = workflow.input.problem(trigger.input) if workflow.input is not None else None
    if problem is not None:
        _refuse(state, run_id, trigger, reply, "invalid_input", problem)
        return
    hard = workflow.definition.sticky is StickyStrategy.HARD
    header = RunHeader.of(
        trigger,
        version=workflow.definition.version,
        definition=workflow.digest,
        status=RunStatus.RUNNING,
        created_at=state.now,
        reply=reply,
        pinned=trigger.sticky_to if hard else None,
    )
    run = Run(run_id, header, workflow, {})
    for definition in workflow.definition.steps:
        run.steps[definition.name] = waiting(run, definition.name)
    state.runs[run_id] = run
    state.emit(StoreRun(run_id, header), Count("runs_created"))
    enter(state, run)
    for name, step in run.steps.items():
        if step.status is StepStatus.WAITING:
            state.emit(StoreStep(run_id, name, step))


def refused(state: State, fact: MessageRefused) -> None:
    """A message that cannot be taken: dead-letter it with its reason, and answer."""
    letter = Bury(
        fact.body,
        fact.content_type,
        fact.routing_key,
        fact.reason,
        fact.detail,
        reply=fact.reply,
        headers=fact.headers,
        message_id=fact.message_id,
    )
    bury(state, letter)
    kind, _, worker = fact.routing_key.partition(".")
    if kind == "event" and worker:
        state.emit(Tell(worker, Refused(fact.detail, for_good=fact.for_good)))
    if fact.reply and kind in ("schedule", "unschedule", "schedules"):
        state.emit(Answer(fact.reply, ScheduleList(error=fact.detail)))
    elif fact.reply:
        error = RunError(FailureReason.INVALID_TRIGGER, fact.detail)
        state.emit(Reply(fact.reply, RunResult(None, None, RunStatus.FAILED, error=error)))


def dropped(state: State, fact: MessageDropped) -> None:
    """Something could not be sent: the log says what, here it is counted."""
    state.emit(
        Count("messages_dropped"),
        Count(f"messages_dropped:{fact.what}"),
        Note("dropped", {"what": fact.what}),
    )


def workflow_registered(state: State, name: str) -> None:
    """Its workers have come: begin the runs that were held for it."""
    waiting_for_it = [held for held in state.held.values() if held.trigger.workflow == name]
    for held in sorted(waiting_for_it, key=lambda held: -held.trigger.priority):
        del state.held[held.run_id]
        state.emit(Unhold(held.run_id))
        workflow = _begins_with(state, held.trigger)
        _begin(state, workflow, held.run_id, held.trigger, held.reply)


def is_held_too_long(state: State, run_id: str) -> bool:
    """Whether a trigger has waited for its workflow for as long as triggers do."""
    held = state.held.get(run_id)
    return held is not None and held.until <= state.now


def hold_is_over(state: State, run_id: str) -> None:
    """Nobody registered the workflow in time: dead-letter the trigger, and answer."""
    held = state.held.pop(run_id)
    seconds = state.policy.hold / 1000
    text = f"no worker registered the workflow {held.trigger.workflow!r} within {seconds:g} s"
    state.emit(Unhold(run_id))
    _refuse(state, run_id, held.trigger, held.reply, "unknown_workflow", text)


def _refuse(
    state: State,
    run_id: str,
    trigger: Trigger,
    reply: tuple[ReplyAddress, ...],
    reason: str,
    text: str,
) -> None:
    """Dead-letter a trigger that was understood and cannot become a run, and answer."""
    bury_trigger(state, trigger, reply, reason, text)
    error = RunError(FailureReason(reason.upper()), text)
    result = RunResult(trigger.workflow, run_id, RunStatus.FAILED, error=error)
    state.emit(*(Reply(address, result) for address in reply))


def cancel_requested(state: State, fact: CancelRequested) -> None:
    """Cancel a run; one that has ended, or never was, is left as it is."""
    run = state.runs.get(fact.run_id)
    error = RunError(FailureReason.CANCELLED, fact.reason)
    if run is not None:
        cancel_run(state, run, error)
        return
    held = state.held.pop(fact.run_id, None)
    if held is not None:
        _end_held(state, held, error)


def _end_held(state: State, held: Held, error: RunError) -> None:
    """A held trigger is cancelled: keep it as a run that has ended, for it may come again."""
    trigger = held.trigger
    header = RunHeader.of(
        trigger,
        version="",
        definition="",
        status=RunStatus.CANCELLED,
        created_at=state.now,
        finished_at=state.now,
        output={},
        error=error,
        reply=held.reply,
    )
    result = RunResult(trigger.workflow, held.run_id, RunStatus.CANCELLED, error=error)
    state.ended[held.run_id] = result
    state.emit(
        Unhold(held.run_id),
        StoreRun(held.run_id, header),
        EndRun(held.run_id, header),
        Count("runs_cancelled"),
        *(Reply(address, result) for address in held.reply),
    )

"""The verbs ``workers``, ``runs`` and ``schedules``."""

from datetime import timedelta
from typing import Annotated, Any

import msgspec
import typer

from ganger_dispatcher.core.records import Held, RunHeader, StepRun, Worker
from ganger_dispatcher.store import RedisStore

from .options import AsJson, Prefix, RedisUrl, ask, settings_for_reading
from .printing import (
    add_row,
    date_text,
    error_text,
    id_table,
    print_json,
    print_table,
    say,
    time_text,
)

__all__ = ["runs", "schedules", "workers"]

Run = tuple[str, RunHeader, dict[str, StepRun]]

_NAMED = 3
"""Workflows of held triggers that a line names."""


def workers(as_json: AsJson = False, redis_url: RedisUrl = None, prefix: Prefix = None) -> None:
    """Show the live workers: labels, slots, load, and what they use of their machines."""
    settings = settings_for_reading(redis_url, prefix)
    found = ask(settings, lambda store: store.workers())
    if as_json:
        print_json([_worker_json(worker) for worker in found])
        return
    uses = {worker.id: _use_text(worker) for worker in found}
    said = any(uses.values())
    columns = ("worker", "state", "slots", *["uses"] * said, "labels", "actions", "heard")
    table = id_table(*columns, ids=uses, title="Workers")
    for worker in found:
        add_row(
            table,
            worker.id,
            worker.state.value,
            f"{worker.used}/{worker.slots}",
            *[uses[worker.id]] * said,
            _labels_text(worker.labels) + _coming_text(worker),
            "\n".join(worker.actions),
            time_text(worker.heartbeat_at),
        )
    print_table(table, found, "there are no live workers")


def runs(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many, newest first.")] = 20,
    held: Annotated[
        bool,
        typer.Option("--held", help="Show the triggers whose workflow no worker has registered."),
    ] = False,
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show the newest runs and where their steps are.

    A trigger that is held is no run yet, and not among them: below them is how many there are.
    """
    settings = settings_for_reading(redis_url, prefix)
    if held:
        waiting = ask(settings, lambda store: store.held())
        _show_held(waiting[:limit], len(waiting), as_json)
        return
    found, waiting = ask(settings, lambda store: _runs_and_held(store, limit))
    if as_json:
        print_json([_run_json(*run) for run in found])
        return
    ids = (run_id for run_id, *_ in found)
    table = id_table("run", "status", "steps", "created", ids=ids, title="Runs")
    for run_id, header, steps in found:
        lines = [f"queued: {header.queued}"] if header.queued else []
        lines += [_step_text(name, step) for name, step in steps.items()]
        if header.error is not None:
            lines.append(error_text(header.error))
        add_row(
            table,
            f"{run_id}\n{header.workflow}",
            header.status.value,
            "\n".join(lines),
            time_text(header.created_at) + _took_text(header),
        )
    print_table(table, found, "there are no runs")
    if waiting:
        say(_held_text(waiting))


def schedules(as_json: AsJson = False, redis_url: RedisUrl = None, prefix: Prefix = None) -> None:
    """Show what runs by the clock: crons, and runs asked for at given times."""
    settings = settings_for_reading(redis_url, prefix)
    found = ask(settings, lambda store: store.schedules())
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    columns = ("schedule", "workflow", "cron", "next", "last")
    ids = (schedule.schedule_id for schedule in found)
    table = id_table(*columns, ids=ids, title="Schedules")
    for schedule in found:
        cron = schedule.cron
        add_row(
            table,
            schedule.schedule_id,
            schedule.workflow,
            f"{cron.expression}\n{cron.timezone}" if cron else "once",
            date_text(schedule.next_at),
            date_text(schedule.last_at) if schedule.last_at else "",
        )
    print_table(table, found, "there are no schedules")


async def _runs_and_held(store: RedisStore, most: int) -> tuple[list[Run], list[Held]]:
    held = await store.held()  # first: what begins in between is told twice, and not left out
    return await store.newest_runs(most), held


def _held_text(held: list[Held]) -> str:
    """That there are some, and for which workflows."""
    workflows = sorted({each.trigger.workflow for each in held})
    more = f" and {len(workflows) - _NAMED} more" if len(workflows) > _NAMED else ""
    are = "1 trigger is" if len(held) == 1 else f"{len(held)} triggers are"
    return (
        f"{are} held, as no worker has registered {', '.join(workflows[:_NAMED])}{more}; "
        "ganger runs --held shows more"
    )


def _show_held(held: list[Held], count: int, as_json: bool) -> None:
    if as_json:
        print_json([_held_json(each) for each in held])
        return
    ids = (each.run_id for each in held)
    table = id_table("run", "workflow", "held until", ids=ids, title="Held triggers")
    for each in held:
        add_row(table, each.run_id, each.trigger.workflow, date_text(each.until))
    if count > len(held):
        table.caption = f"and {count - len(held)} more; --limit shows more"
    print_table(table, held, "no trigger is held")


def _held_json(held: Held) -> dict[str, Any]:
    trigger = held.trigger
    return {
        "run_id": held.run_id,
        "workflow": trigger.workflow,
        "held_until": held.until,
        "input": trigger.input,
        "metadata": trigger.metadata,
        "priority": trigger.priority,
        "desired_worker_labels": trigger.desired_worker_labels,
        "parent": trigger.parent,
    }


def _worker_json(worker: Worker) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(worker)
    return {**fields, "used": worker.used, "attempts": sorted(worker.attempts)}


def _run_json(run_id: str, header: RunHeader, steps: dict[str, StepRun]) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(header)
    del fields["reply"]
    return {"run_id": run_id, **fields, "steps": msgspec.to_builtins(steps)}


def _use_text(worker: Worker) -> str:
    """Memory and cores, where it has said them."""
    memory = [] if worker.memory_mb is None else [f"{worker.memory_mb:.0f} MB"]
    cpus = [] if worker.cpus is None else [f"{worker.cpus:.1f} cpus"]
    return "\n".join(memory + cpus)


def _labels_text(labels: dict[str, Any]) -> str:
    values = {key: msgspec.json.encode(value).decode() for key, value in labels.items()}
    return "\n".join(f"{key}={value}" for key, value in values.items())


def _coming_text(worker: Worker) -> str:
    coming = {key: value for labels in worker.coming.values() for key, value in labels.items()}
    new = {key: value for key, value in coming.items() if worker.labels.get(key) != value}
    return f"\ncoming: {_labels_text(new)}" if new else ""


def _step_text(name: str, step: StepRun) -> str:
    return f"{name}: {step.status}" + (f" on {step.worker}" if step.worker else "")


def _took_text(header: RunHeader) -> str:
    end = header.finished_at
    return "" if end is None else f"\ntook {_duration_text(end - header.created_at)}"


def _duration_text(took: int) -> str:
    if took < 1000:
        return f"{took} ms"
    return f"{took / 1000:.1f} s" if took < 60_000 else str(timedelta(seconds=took // 1000))

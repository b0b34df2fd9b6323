"""The verbs ``workers``, ``runs`` and ``schedules``."""

from datetime import timedelta
from typing import Annotated, Any

import msgspec
import typer

from ganger_dispatcher.core.records import RunHeader, StepRun, Worker

from .options import AsJson, Prefix, RedisUrl, ask, settings_for_reading
from .printing import add_row, date_text, error_text, id_table, print_json, print_table, time_text

__all__ = ["runs", "schedules", "workers"]


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
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show the newest runs and where their steps are."""
    settings = settings_for_reading(redis_url, prefix)
    found = ask(settings, lambda store: store.newest_runs(limit))
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

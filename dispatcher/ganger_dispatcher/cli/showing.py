"""The verbs ``workers`` and ``runs``."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from ganger_dispatcher.core.records import RunHeader, StepRun, Worker

from .options import AsJson, Prefix, RedisUrl, ask, settings_for_reading
from .printing import add_row, print_json, print_table

__all__ = ["runs", "workers"]


def workers(as_json: AsJson = False, redis_url: RedisUrl = None, prefix: Prefix = None) -> None:
    """Show the live workers: labels, slots, load."""
    settings = settings_for_reading(redis_url, prefix)
    found = ask(settings, lambda store: store.workers())
    if as_json:
        print_json([_worker_json(worker) for worker in found])
        return
    table = Table("worker", "state", "slots", "labels", "actions", "heard", title="Workers")
    for worker in found:
        add_row(
            table,
            worker.id,
            worker.state.value,
            f"{worker.used}/{worker.slots}",
            _labels_text(worker.labels),
            "\n".join(worker.actions),
            _time_text(worker.heartbeat_at),
        )
    print_table(table, found, "there are no live workers")


def runs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
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
    table = Table("run", "workflow", "status", "steps", "created", "took", title="Runs")
    for run_id, header, steps in found:
        end = header.finished_at
        add_row(
            table,
            run_id,
            header.workflow,
            header.status.value + (f"\n{header.error.message}" if header.error else ""),
            "\n".join(_step_text(name, step) for name, step in steps.items()),
            _time_text(header.created_at),
            f"{end - header.created_at} ms" if end else "",
        )
    print_table(table, found, "there are no runs")


def _worker_json(worker: Worker) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(worker)
    return {**fields, "used": worker.used, "attempts": sorted(worker.attempts)}


def _run_json(run_id: str, header: RunHeader, steps: dict[str, StepRun]) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(header)
    del fields["reply"]
    return {"run_id": run_id, **fields, "steps": msgspec.to_builtins(steps)}


def _labels_text(labels: dict[str, Any]) -> str:
    values = {key: msgspec.json.encode(value).decode() for key, value in labels.items()}
    return "\n".join(f"{key}={value}" for key, value in values.items())


def _step_text(name: str, step: StepRun) -> str:
    return f"{name}: {step.status}" + (f" on {step.worker}" if step.worker else "")


def _time_text(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%H:%M:%S")

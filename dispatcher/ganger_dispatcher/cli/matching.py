"""The verbs ``explain`` and ``match``: who can take a step, and why not the others."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ganger_broker.errors import InvalidInput
from ganger_broker.labels import parse_desired
from ganger_broker.terminal import visible
from ganger_dispatcher.core.states import StepStatus
from ganger_dispatcher.dry_run import dry_run
from ganger_dispatcher.explanation import Explanation, Reason
from ganger_dispatcher.inspection import StepExplanation, explain_step

from .options import AsJson, Prefix, RedisUrl, ask, settings_for_reading
from .printing import add_row, error_text, id_table, print_json, say, time_text

__all__ = ["explain", "match", "show_explanation"]

_WORKERS_SHOWN = 20
"""Workers a table of reasons shows; --json shows all."""


def explain(
    step_run: Annotated[
        str,
        typer.Argument(
            metavar="RUN/STEP", help="As `ganger runs` shows them; RUN alone if it has one step."
        ),
    ],
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Say why a step waits, worker by worker, the nearest misses first.

    "held": it is no run yet, as no worker has registered its workflow.

    "not now": workers that can take it are full, draining or paused. "never with this
    fleet": no live worker meets what it requires.
    """
    settings = settings_for_reading(redis_url, prefix)
    found = ask(settings, lambda store: explain_step(store, step_run))
    if as_json:
        print_json(found)
        return
    show_explanation(Console(markup=False), found)


def match(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="JSON; - is standard input."),
    ],
    as_json: AsJson = False,
) -> None:
    """Try a requirement on a fleet that is written down: who would get the step, and why.

    FILE holds, say, {"workers": [{"id": "a", "labels": {"memory": 512}}],
    "desired_worker_labels": {"memory": {"value": 256, "comparator": "GREATER_THAN"}}}
    """
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        explanation = dry_run(text)
    except OSError as exc:
        _refuse(f"{file}: {exc.strerror}")
    except InvalidInput as exc:
        _refuse(f"{file}: {exc}")
    if as_json:
        print_json(explanation)
        return
    chosen = explanation.selected
    say(f"selected: {chosen}" if chosen else "selected: nobody")
    if explanation.workers:
        Console().print(_reasons_table(_plain(explanation)))
    else:
        say("there are no workers in it")


def show_explanation(console: Console, found: StepExplanation) -> None:
    """Print why a step waits, for people; the console takes no markup."""
    console.print(visible(_explain_text(found)), highlight=False)
    if found.verdict is not None and found.workers:
        console.print(_reasons_table(found.workers))


def _refuse(text: str) -> NoReturn:
    say(f"ganger: {text}", err=True)
    raise typer.Exit(2)


def _plain(explanation: Explanation) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = msgspec.to_builtins(explanation.workers)
    return workers


def _patient_for(desired: Mapping[str, Any]) -> list[str]:
    """The conditions that a step waits for a while; one that is coming to a worker counts."""
    return [
        f"{condition.key} {condition.comparator.value} {condition.value!r} (there, or coming)"
        for group in parse_desired(desired).values()
        for condition in group
        if condition.prefer_for
    ]


def _explain_text(found: StepExplanation) -> str:
    where = f" on {found.worker}" if found.worker else ""
    text = f"{found.step_run}: {found.status}{where}"
    if found.error is not None:
        text += f"\n{error_text(found.error)}"
    if found.retry_at is not None:
        text += f"\nit will be tried again at {time_text(found.retry_at)}"
    if found.held_until is not None:
        until = time_text(found.held_until)
        text += f"\nit waits for {found.waits_for}"
        return f"{text}\nit is held until {until} (GANGER_HOLD), and dead-lettered then"
    if found.waits_for is not None:
        of_others = (StepStatus.WAITING, StepStatus.ASSIGNED, StepStatus.RUNNING)
        turn = "it waits for" if found.status in of_others else "not now, it waits for its turn:"
        return f"{text}\n{turn} {found.waits_for}"
    if found.verdict is None:
        return text
    if found.pinned is not None:
        live = any(worker["id"] == found.pinned for worker in found.workers)
        gone = "" if live else ", which was lost or has left"
        text += f"\nits run is sticky (HARD) and pinned to {found.pinned}{gone}"
    if not found.workers:
        return f"{text}\n{found.verdict}: there are no live workers"
    if found.patient_until is not None:
        until = time_text(found.patient_until)
        wish = ", ".join(_patient_for(found.desired_worker_labels))
        return f"{text}\nnot now: until {until} it rather waits for a worker with {wish}"
    meaning = {
        "now": "a worker can take it; it is about to be placed",
        "not now": "workers that meet the requirement are full, draining or paused",
        "never with this fleet": "no live worker meets the requirement",
    }
    return f"{text}\n{found.verdict}: {meaning[found.verdict]}"


def _reasons_table(workers: list[dict[str, Any]]) -> Table:
    shown = workers[:_WORKERS_SHOWN]
    columns = ("worker", "eligible", "weight", "sum", "conditions")
    table = id_table(*columns, ids=(worker["id"] for worker in shown))
    for worker in shown:
        load = (
            f"\n{worker['used']}/{worker['slots']} {worker['state']}" if "state" in worker else ""
        )
        reasons = [msgspec.convert(reason, Reason) for reason in worker["reasons"]]
        add_row(
            table,
            worker["id"] + load,
            "yes" if worker["eligible"] else "no",
            str(worker["highest_weight"]),
            str(worker["total_weight"]),
            "\n".join(map(_reason_text, reasons)),
        )
    if len(workers) > _WORKERS_SHOWN:
        table.caption = f"and {len(workers) - _WORKERS_SHOWN} more; --json shows all"
    return table


def _reason_text(reason: Reason) -> str:
    if reason.is_action:
        return f"✗ does not run {reason.desired}"
    mark = "✓" if reason.met else "✗"
    kind = "required" if reason.required else "preferred"
    desired = "" if reason.desired is None else f" {msgspec.json.encode(reason.desired).decode()}"
    actual = "no label" if reason.actual is None else msgspec.json.encode(reason.actual).decode()
    return f"{mark} {reason.key} {reason.comparator}{desired} ({kind}): {actual}, {reason.code}"

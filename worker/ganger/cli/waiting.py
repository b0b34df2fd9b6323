"""``ganger dev`` says why a step waits: somebody who develops has forgotten a label, mostly."""

import asyncio
import threading
import time
from typing import Any, Protocol, cast

import msgspec
import structlog

from ganger.embedded import Embedded
from ganger_broker.errors import GangerError

__all__ = ["tell_waiting"]

_LOOK_EVERY = 0.5
"""Seconds between looks at the feed; who watches may poll, the dispatcher does not."""

_log = structlog.get_logger("ganger.dev")


class _Observed(Embedded, Protocol):
    async def feed(self, after: str = "0") -> list[tuple[str, dict[str, str]]]:
        """What has happened since, with the id of each entry."""


def tell_waiting(dispatcher: Embedded) -> None:
    """Log a line for each step that has to wait from now on, until the process ends.

    Steps that wait for a slot only are told once a step's name: there may be thousands.
    """
    observed, now = cast("_Observed", dispatcher), round(time.time() * 1000)
    telling = threading.Thread(target=lambda: asyncio.run(_tell_all(observed, str(now))))
    telling.daemon = True
    telling.start()


async def _tell_all(dispatcher: _Observed, after: str) -> None:
    told: set[str] = set()
    while True:
        try:
            for entry_id, entry in await dispatcher.feed(after):
                after = entry_id
                if entry["kind"] == "pending":
                    await _tell(dispatcher, entry["step_run"], told)
                _tell_limited(entry, told)
        except GangerError as exc:
            _log.debug("feed not read", error=str(exc))
        await asyncio.sleep(_LOOK_EVERY)


def _tell_limited(entry: dict[str, str], told: set[str]) -> None:
    match entry:
        case {"kind": "limited", "key": key, "step_run": step_run} if f"limit {key}" not in told:
            told.add(f"limit {key}")
            _log.info(f"step waits for rate limit {key!r}", step_run=step_run)
        case {"kind": "queued", "run": run, "reason": reason} if reason not in told:
            told.add(reason)
            _log.info(f"run waits for its turn, {reason}", run=run)


async def _tell(dispatcher: Embedded, step_run: str, told: set[str]) -> None:
    found = await dispatcher.explain(step_run)
    match found["verdict"]:
        case "never with this fleet":
            _log.warning(f"step waits, {_why(found['workers'])}", step_run=step_run)
        case "not now":
            step = step_run.rpartition("/")[2]
            if step not in told:
                told.add(step)
                _log.info("step waits for a free slot", step_run=step_run)


def _why(workers: list[dict[str, Any]]) -> str:
    if not workers:
        return "there are no workers"
    nearest = workers[0]
    misses = [reason for reason in nearest["reasons"] if reason["required"] and not reason["met"]]
    said = " and ".join(map(_miss, misses))
    return f"no worker meets what it requires; nearest is {nearest['id']}: {said}"


def _miss(reason: dict[str, Any]) -> str:
    key, comparator, desired = reason["key"], reason["comparator"], reason["desired"]
    if (key, comparator) == ("action", "EXISTS") and desired is not None:
        return f"it does not run {desired}"
    wanted = comparator if desired is None else f"{comparator} {_json(desired)}"
    actual = "has no such label" if reason["actual"] is None else f"has {_json(reason['actual'])}"
    kind = ", of another type" if reason["code"] == "type_mismatch" else ""
    return f"{key} must be {wanted}, it {actual}{kind}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()

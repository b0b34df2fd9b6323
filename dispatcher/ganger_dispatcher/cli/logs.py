"""The verb ``logs``."""

from typing import Annotated

import msgspec
import typer

from ganger_broker.errors import InvalidInput
from ganger_dispatcher.core.records import KeptLine
from ganger_dispatcher.store import RedisStore

from .options import AsJson, Prefix, RedisUrl, ask, settings_for_reading
from .printing import print_json, say, time_text

__all__ = ["logs"]


def logs(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    prefix: Prefix = None,
) -> None:
    """Show what the steps of a run have logged; the newest 1,000 lines are kept.

    Of each line: when, its level, the step and the number of its attempt, the text.
    """
    settings = settings_for_reading(redis_url, prefix)
    lines = ask(settings, lambda store: _lines(store, run_id))
    if as_json:
        print_json(msgspec.to_builtins(lines))
        return
    for line in lines:
        place = line.attempt.removeprefix(f"{run_id}/")
        say(f"{time_text(line.at)} {line.level:<7} {place}: {line.message}")
    if not lines:
        say("its steps have logged nothing", err=True)


async def _lines(store: RedisStore, run_id: str) -> list[KeptLine]:
    lines = await store.log(run_id)
    if not (lines or await store.held_run(run_id) or await store.run(run_id)):
        raise InvalidInput(f"there is no run {run_id!r} (or its retention is over)")
    return lines

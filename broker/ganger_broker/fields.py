"""What the fields of messages may hold."""

from typing import Annotated, Literal

from msgspec import Meta

__all__ = [
    "EVENT_KEY_PATTERN",
    "ID_PATTERN",
    "MAX_CONCURRENCY",
    "MAX_CRONS",
    "MAX_EVENT_KEY",
    "MAX_LOG_LINES",
    "MAX_LOG_TEXT",
    "MAX_RETRIES",
    "MAX_SECONDS",
    "MAX_STEPS",
    "MAX_UNITS",
    "MAX_VERSION",
    "NAME_PATTERN",
    "PATTERN_WORDS",
    "STEP_RUN_PATTERN",
    "WORKER_ID_PATTERN",
    "AttemptId",
    "Count",
    "Id",
    "LogLevel",
    "Name",
    "Priority",
    "RateKey",
    "Retries",
    "Seconds",
    "Slots",
    "StepRunId",
    "Units",
    "WorkerId",
]

# $ alone would let a final newline pass
NAME_PATTERN = r"^[a-z0-9_][a-z0-9_.-]{0,127}$(?!\n)"
ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,128}$(?!\n)"
WORKER_ID_PATTERN = r"^[A-Za-z0-9_.-]{1,128}$(?!\n)"
STEP_RUN_PATTERN = r"^[A-Za-z0-9_.:-]{1,128}/[a-z0-9_][a-z0-9_.-]{0,127}$(?!\n)"
PATTERN_WORDS = {
    NAME_PATTERN: "a name: 1 to 128 lower case letters, digits and _ . -, first no . or -",
    ID_PATTERN: "an id: 1 to 128 letters, digits and _ . : -",
    WORKER_ID_PATTERN: "a worker's id: 1 to 128 letters, digits and _ . -",
    STEP_RUN_PATTERN: "a step run: <run id>/<step>",
}
"""What each of them says, for people."""
EVENT_KEY_PATTERN = r"^[^\s*?\[\]]+$(?!\n)"
"""Of an event's key: no space, and nothing that a pattern gives a meaning to."""
MAX_EVENT_KEY = 200
"""Bytes of an event's key: a routing key has 255 at most, and there is a word before it."""

Name = Annotated[str, Meta(pattern=NAME_PATTERN, description="lower case")]
Id = Annotated[str, Meta(pattern=ID_PATTERN)]
WorkerId = Annotated[str, Meta(pattern=WORKER_ID_PATTERN)]
"""No colon: its keys in Redis are told apart by them."""
MAX_SECONDS = 1e9
MAX_RETRIES = 1_000_000
MAX_STEPS = 1_000
"""Steps of one workflow."""
MAX_VERSION = 128
"""Characters of a workflow's version."""
MAX_LOG_LINES = 1_000
"""Lines kept with a run: the newest ones."""
MAX_LOG_TEXT = 4_000
"""Characters of one line."""

LogLevel = Literal["debug", "info", "warning", "error"]

MAX_CONCURRENCY = 8
"""Concurrency limits of one workflow."""
MAX_CRONS = 100
MAX_UNITS = 1_000_000_000

Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Meta(ge=0)]
Units = Annotated[int, Meta(ge=1, le=MAX_UNITS)]
RateKey = Annotated[str, Meta(min_length=1, max_length=128)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
Slots = Annotated[int, Meta(ge=1, le=4096)]
Priority = Annotated[int, Meta(ge=1, le=3, description="3 goes first")]
StepRunId = Annotated[str, Meta(pattern=STEP_RUN_PATTERN, description="<run>/<step>")]
AttemptId = Annotated[str, Meta(description="<run>/<step>/<n>: the fencing token of one attempt")]

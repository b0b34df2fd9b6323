"""Workflows and their steps, as workers register them."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .crons import Cron
from .errors import InvalidInput
from .fields import (
    MAX_CONCURRENCY,
    MAX_CRONS,
    MAX_SECONDS,
    MAX_STEPS,
    MAX_VERSION,
    Name,
    RateKey,
    Retries,
    Seconds,
    Units,
)
from .labels import LabelValue

__all__ = [
    "Concurrency",
    "ConcurrencyStrategy",
    "FromInput",
    "RateLimit",
    "StepDefinition",
    "StickyOnLoss",
    "StickyStrategy",
    "WorkflowDefinition",
    "action_of",
    "check_keys",
    "check_rates",
]


def action_of(workflow: str, step: str) -> str:
    """The action a worker registers to take this step: ``<workflow>:<step>``."""
    return f"{workflow}:{step}"


class StickyStrategy(StrEnum):
    """Whether the steps of a run stay on one worker; its labels count all the same."""

    SOFT = "soft"
    """Where it is eligible and free, the worker that ran the run's previous step."""
    HARD = "hard"
    """Only the worker that ran the run's first step."""


class StickyOnLoss(StrEnum):
    """What becomes of the steps of a run whose one worker is lost."""

    WAIT = "wait"
    """They wait for it, until their schedule time-out."""
    REPIN = "repin"
    """They go to another eligible worker, and stay there."""


class FromInput(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A value that the run's input holds: a JMESPath expression on it, such as ``model.name``."""

    from_input: str


class RateLimit(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """At most ``limit`` units of ``key`` are given to steps in any ``per`` seconds."""

    key: RateKey
    limit: Units
    per: Annotated[float, Meta(ge=1, le=86_400)]


class ConcurrencyStrategy(StrEnum):
    """What becomes of a run when as many as may be go on already."""

    QUEUE = "queue"
    """It waits for its turn; keys take turns."""
    CANCEL_IN_PROGRESS = "cancel_in_progress"
    """The oldest of those that go on, or wait for another limit, is cancelled for it."""
    CANCEL_NEWEST = "cancel_newest"
    """It is cancelled itself."""


class Concurrency(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """At most ``limit`` runs of a workflow go on at once, for each value of ``key``: a JMESPath
    expression on the input, such as ``customer.id``; without one, of all its runs."""

    key: str | None = None
    limit: Units = 1
    strategy: ConcurrencyStrategy = ConcurrencyStrategy.QUEUE


class StepDefinition(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A step as its workers register it.

    ``desired_worker_labels`` is in the written form of ``parse_desired``. ``timeout`` is
    how long one attempt may run, ``schedule_timeout`` how long it may be pending. Before
    retry n it rests ``backoff_factor ** n`` seconds, at most ``backoff_max_seconds``, less
    a part of up to ``jitter``; without a factor not at all. ``sets_labels``: labels that its
    worker has once it runs; from its assignment on, preferences of other steps count them.
    ``rate_limits``: key → units that each attempt takes of it. ``pool``: it runs on that pool's
    workers only.
    """

    name: Name
    parents: list[Name] = []
    timeout: Seconds = 60.0
    schedule_timeout: Seconds = 300.0
    retries: Retries = 0
    backoff_factor: Annotated[float, Meta(ge=1, le=MAX_SECONDS)] | None = None
    backoff_max_seconds: Seconds = 300.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    desired_worker_labels: dict[str, Any] = {}
    sets_labels: dict[str, LabelValue | FromInput] = {}
    rate_limits: dict[RateKey, Units] = {}
    pool: Name | None = None


def check_keys(rules: Sequence[Concurrency], place: str) -> None:
    """Check that no two limits of a workflow are for the same runs.

    Raises:
        InvalidInput: two have the same key, or none; the text names the second.
    """
    for number, rule in enumerate(rules):
        if rule.key in [other.key for other in rules[:number]]:
            of = "without a key" if rule.key is None else f"of {rule.key!r}"
            raise InvalidInput(f"{place}[{number}].key: there is a limit {of} before; give one")


def check_rates(step: StepDefinition, limits: Mapping[str, RateLimit], place: str) -> None:
    """Check the units that a step takes against the limits that there are.

    Raises:
        InvalidInput: there is no such limit, or it is less than the units.
    """
    for key, units in step.rate_limits.items():
        limit = limits.get(key)
        if limit is None:
            raise InvalidInput(f"{place}: there is no rate limit {key!r}; declare it first")
        if units > limit.limit:
            raise InvalidInput(f"{place}.{key}: {units} is more than its limit, {limit.limit}")


class WorkflowDefinition(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A workflow as its workers register it: a named DAG of steps.

    ``on_failure`` is a step without parents that runs when one of them has failed for good,
    before the run ends. ``sticky``: soft, a step prefers the worker that ran the one before
    it; hard, all steps of a run go to the first one's worker, and where that is lost they
    wait for it or, ``sticky_on_loss`` repin, go to another. ``input_schema``: the JSON Schema
    (2020-12) that the input of a run must fit.
    """

    name: Name
    steps: Annotated[list[StepDefinition], Meta(min_length=1, max_length=MAX_STEPS)]
    version: Annotated[str, Meta(max_length=MAX_VERSION)] = ""
    on_events: list[str] = []
    on_crons: Annotated[list[Cron], Meta(max_length=MAX_CRONS)] = []
    on_failure: StepDefinition | None = None
    sticky: StickyStrategy | None = None
    sticky_on_loss: StickyOnLoss = StickyOnLoss.WAIT
    input_schema: dict[str, Any] | None = None
    concurrency: Annotated[list[Concurrency], Meta(max_length=MAX_CONCURRENCY)] = []

    def actions(self) -> list[str]:
        """The actions of its steps, and of the one for failures."""
        return [action_of(self.name, step.name) for step in self.every_step()]

    def actions_on(self, pool: str | None) -> list[str]:
        """The actions that a worker of this pool takes: those of its steps. One that is in none
        takes all, as those of a pool will not come to it."""
        return [
            action_of(self.name, step.name)
            for step in self.every_step()
            if pool is None or step.pool == pool
        ]

    def every_step(self) -> list[StepDefinition]:
        """Its steps, and the one for failures."""
        return [*self.steps, *([self.on_failure] if self.on_failure else [])]

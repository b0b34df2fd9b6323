"""Workflows that the state machine of the core makes up: DAGs of any shape, with all that a step
can ask for."""

from typing import Any

from hypothesis import strategies as st

from ganger_broker.definitions import (
    FromInput,
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
)

from .machine_flows import EVENTS, GPU, PATIENT, WARM

__all__ = ["FAILURE_STEP", "STEPS", "dags"]

STEPS = list("abcdef")
"""Names of the steps of a DAG, those without parents among the first."""
FAILURE_STEP = "oops"

NEVER: dict[str, Any] = {"model": {"value": "x", "comparator": "NOT_EQUAL"}}
WISHES = st.sampled_from([{}, {}, GPU, WARM, PATIENT, NEVER, {**GPU, **WARM}])
SETS = st.sampled_from([{}, {}, {"model": "x"}, {"model": "y"}, {"model": FromInput("key")}])
LIMITED = st.sampled_from([{}, {}, {}, {}, {"api": 1}, {"slow": 2}, {"api": 1, "slow": 1}])


@st.composite
def _step(draw: st.DrawFn, name: str, before: list[str]) -> StepDefinition:
    number = draw(st.integers(0, min(3, len(before))))
    parents = draw(st.permutations(before))[:number]
    return StepDefinition(
        name,
        sorted(parents),
        timeout=draw(st.sampled_from([3, 60])),
        schedule_timeout=draw(st.sampled_from([12, 40])),
        retries=draw(st.integers(0, 2)),
        backoff_factor=draw(st.sampled_from([None, None, 2])),
        desired_worker_labels=draw(WISHES),
        sets_labels=draw(SETS),
        rate_limits=draw(LIMITED),
    )


@st.composite
def dags(draw: st.DrawFn, version: str) -> WorkflowDefinition:
    """A workflow of up to six steps, in which each may wait for any that come before it."""
    names = STEPS[: draw(st.integers(1, len(STEPS)))]
    steps = [draw(_step(name, names[:at])) for at, name in enumerate(names)]
    return WorkflowDefinition(
        "dag",
        steps,
        version,
        on_events=draw(st.sampled_from([[], EVENTS])),
        on_failure=draw(st.sampled_from([None, StepDefinition(FAILURE_STEP, retries=1)])),
        sticky=draw(st.sampled_from([None, None, StickyStrategy.SOFT, StickyStrategy.HARD])),
        sticky_on_loss=draw(st.sampled_from(StickyOnLoss)),
    )

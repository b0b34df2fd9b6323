"""Workflows, labels and wishes that the state machine of the core draws from."""

from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from ganger_broker.crons import Cron, MissedTicks
from ganger_broker.definitions import (
    Concurrency,
    ConcurrencyStrategy,
    RateLimit,
    StepDefinition,
    StickyOnLoss,
    StickyStrategy,
    WorkflowDefinition,
)
from ganger_broker.pool_labels import POOL
from ganger_dispatcher.core.state import Policy

POLICY = Policy(worker_timeout=10_000, pickup_deadline=8_000, hold=20_000, most_losses=2)
WORKERS = ["a", "b", "c"]
RUNS = [f"r{n}" for n in range(8)]
GPU: dict[str, Any] = {"gpu": {"value": 1, "comparator": "GREATER_THAN_OR_EQUAL"}}
WARM: dict[str, Any] = {"model": {"value": "x", "weight": 10}}
FLOWS = {
    "plain": [
        WorkflowDefinition(
            "plain", [StepDefinition("s", schedule_timeout=15, retries=1, backoff_factor=3)]
        ),
        WorkflowDefinition("plain", [StepDefinition("s", desired_worker_labels=WARM)], "2"),
    ],
    "tree": [
        WorkflowDefinition(
            "tree",
            [
                StepDefinition("a", desired_worker_labels=WARM),
                StepDefinition("b", parents=["a"], desired_worker_labels=GPU),
                StepDefinition(
                    "c", parents=["a"], retries=1, timeout=6, sets_labels={"model": "x"}
                ),
            ],
            on_failure=StepDefinition("oops", retries=1),
        )
    ],
}
CHAIN = [
    StepDefinition("a", retries=1),
    StepDefinition("b", parents=["a"], desired_worker_labels=GPU),
]
ROOTS = [
    StepDefinition("a", retries=1, desired_worker_labels=WARM),
    StepDefinition("b", desired_worker_labels=GPU),
    StepDefinition("c", retries=1, backoff_factor=2),
    StepDefinition("d", parents=["a", "c"], desired_worker_labels=GPU),
]
"""Several steps that may begin the run, and one that waits for two of them."""
API, SLOW = RateLimit("api", 2, 20), RateLimit("slow", 2, 50)
LIMITS = [API, SLOW]
POOLED = StepDefinition("s", pool="p", retries=1, desired_worker_labels=WARM, schedule_timeout=15)
KEYS = st.sampled_from(["x", "y"])
EVENTS = ["image:*"]
CONCURRENT = {
    "queued": [Concurrency("key", 1), Concurrency(limit=2)],
    "newest": [Concurrency("key", 1, ConcurrencyStrategy.CANCEL_NEWEST)],
    "replacing": [
        Concurrency("key", 1, ConcurrencyStrategy.CANCEL_IN_PROGRESS),
        Concurrency(limit=1),
    ],
    "in-progress": [Concurrency("key", 1, ConcurrencyStrategy.CANCEL_IN_PROGRESS)],
}
LIMITED = StepDefinition(
    "s", retries=1, rate_limits={"api": 1}, schedule_timeout=15, desired_worker_labels=GPU
)
BOTH = replace(LIMITED, rate_limits={"api": 1, "slow": 1})
BIG = replace(LIMITED, rate_limits={"slow": 2})
CRONS = [Cron("*/20 * * * * *"), Cron("*/50 * * * * *", missed=MissedTicks.CATCH_UP)]
FLOWS["ticking"] = [
    WorkflowDefinition("ticking", [StepDefinition("s", schedule_timeout=30)], on_crons=CRONS),
    WorkflowDefinition("ticking", [StepDefinition("s")], "2", on_crons=CRONS[:1]),
]
FLOWS["both"] = [
    WorkflowDefinition("both", [BOTH]),
    WorkflowDefinition("both", [replace(BOTH, rate_limits={"slow": 1, "api": 2})], "2"),
]
FLOWS["big"] = [WorkflowDefinition("big", [BIG])]
FLOWS["pooled"] = [WorkflowDefinition("pooled", [POOLED])]
FLOWS |= {
    name: [WorkflowDefinition(name, [LIMITED], concurrency=rules)]
    for name, rules in CONCURRENT.items()
}
RAISED = [Concurrency("key", 2), Concurrency(limit=3)]
FLOWS["queued"] += [
    WorkflowDefinition("queued", [LIMITED], "2", concurrency=RAISED),
    WorkflowDefinition("queued", [LIMITED], "3"),
]
FLOWS["pooled"].append(WorkflowDefinition("pooled", [replace(POOLED, pool="q")], "2"))
FLOWS |= {
    f"{sticky}-{on_loss}": [
        WorkflowDefinition(f"{sticky}-{on_loss}", CHAIN, sticky=sticky, sticky_on_loss=on_loss)
    ]
    for sticky, on_loss in [
        (StickyStrategy.SOFT, StickyOnLoss.WAIT),
        (StickyStrategy.HARD, StickyOnLoss.WAIT),
        (StickyStrategy.HARD, StickyOnLoss.REPIN),
    ]
}
FLOWS |= {
    f"roots-{on_loss}": [
        WorkflowDefinition(
            f"roots-{on_loss}", ROOTS, sticky=StickyStrategy.HARD, sticky_on_loss=on_loss
        )
    ]
    for on_loss in StickyOnLoss
}
LABELS = st.dictionaries(
    st.sampled_from(["gpu", "model", POOL]), st.sampled_from([0, 1, 2, "x", "y", "1", "p", "q"])
)
PATIENT: dict[str, Any] = {"model": {"value": "x", "weight": 5, "prefer_for": 4}}
WISHES = st.sampled_from([{}, {}, GPU, WARM, PATIENT, {"model": "x"}])

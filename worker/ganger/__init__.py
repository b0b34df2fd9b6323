"""Ganger: a distributed worker runtime that runs every step on the worker best suited to it."""

from ganger_broker.crons import Cron
from ganger_broker.definitions import Concurrency, ConcurrencyStrategy, StickyStrategy
from ganger_broker.errors import (
    GangerError,
    InvalidInput,
    InvalidLabel,
    InvalidSetting,
    InvalidWorkflow,
    MissingExtra,
    RunCancelled,
    RunFailed,
    TransportClosed,
    TransportError,
)
from ganger_broker.labels import WorkerLabelComparator
from ganger_broker.messages import StreamItem
from ganger_broker.settings import Settings

from .app import Ganger
from .client import WorkflowRunRef
from .compute import Compute
from .context import Context, WorkerContext
from .failures import NonRetryable, RetryAfter
from .functions import Task, Workflow
from .step import from_input
from .version import __version__
from .worker import Worker

__all__ = [
    "Compute",
    "Concurrency",
    "ConcurrencyStrategy",
    "Context",
    "Cron",
    "Ganger",
    "GangerError",
    "InvalidInput",
    "InvalidLabel",
    "InvalidSetting",
    "InvalidWorkflow",
    "MissingExtra",
    "NonRetryable",
    "RetryAfter",
    "RunCancelled",
    "RunFailed",
    "Settings",
    "StickyStrategy",
    "StreamItem",
    "Task",
    "TransportClosed",
    "TransportError",
    "Worker",
    "WorkerContext",
    "WorkerLabelComparator",
    "Workflow",
    "WorkflowRunRef",
    "__version__",
    "from_input",
]

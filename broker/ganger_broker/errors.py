"""Every error Ganger raises, as one tree split by who has to act.

.. code-block:: text

    GangerError
    ├── InvalidInput              the caller: a value given is wrong; the text names the field
    │   ├── InvalidLabel
    │   ├── InvalidWorkflow
    │   ├── InvalidSetting
    │   └── InvalidMessage        a message from outside; dead-lettered with this as its reason
    │       ├── OversizedMessage
    │       └── MalformedMessage
    ├── RunFailed                 the caller: the run ended, and not well; carries its result
    │   └── RunCancelled
    ├── TransportError            the operator: the broker
    │   ├── TransportClosed       used after close()
    │   └── TransportTimeout      not done in time; a message may or may not have arrived
    ├── StoreError                the operator: Redis
    │   ├── StoreRefused          it answered with an error: out of memory, say
    │   └── EpochSuperseded       another dispatcher leads; this one steps down
    └── MissingExtra              the operator: an optional part is not installed

Driver exceptions (aio-pika's, redis-py's) are wrapped at the adapter with
``raise … from exc`` and never reach further in.
"""

from typing import Any

__all__ = [
    "EpochSuperseded",
    "GangerError",
    "InvalidInput",
    "InvalidLabel",
    "InvalidMessage",
    "InvalidSetting",
    "InvalidWorkflow",
    "MalformedMessage",
    "MissingExtra",
    "OversizedMessage",
    "RunCancelled",
    "RunFailed",
    "StoreError",
    "StoreRefused",
    "TransportClosed",
    "TransportError",
    "TransportTimeout",
]


class GangerError(Exception):
    """The root: ``except GangerError`` catches all that Ganger raises of its own."""


class InvalidInput(GangerError, ValueError):
    """A value given to Ganger is wrong; the text names the field and what would be right."""


class InvalidLabel(InvalidInput):
    """A label or a desired label is not one; the text names key and value."""


class InvalidWorkflow(InvalidInput):
    """A workflow or step is declared wrongly."""


class InvalidSetting(InvalidInput):
    """A flag or an environment variable holds a bad value; the text names it."""


class InvalidMessage(InvalidInput):
    """A message from outside cannot be taken. ``reason`` is the dead-letter reason code."""

    reason = "invalid"


class OversizedMessage(InvalidMessage):
    """A message's body is larger than ``GANGER_MAX_MESSAGE_BYTES``."""

    reason = "oversized"


class MalformedMessage(InvalidMessage):
    """A message's body cannot be decoded, or a field of it is missing or wrong."""

    reason = "malformed"


class RunFailed(GangerError):
    """A run whose result was awaited ended as failed. ``result`` is its ``RunResult``."""

    def __init__(self, text: str, result: Any = None) -> None:
        super().__init__(text)
        self.result = result


class RunCancelled(RunFailed):
    """A run whose result was awaited was cancelled, by somebody or by its schedule time-out."""


class TransportError(GangerError):
    """The broker did not do what was asked."""


class TransportClosed(TransportError):
    """The transport was used after it was closed."""


class TransportTimeout(TransportError, TimeoutError):
    """A message was not confirmed in time; it may or may not have arrived."""


class StoreError(GangerError):
    """Redis did not do what was asked."""


class EpochSuperseded(StoreError):
    """A commit carried an old epoch: another dispatcher leads now. Nothing was written."""


class StoreRefused(StoreError):
    """Redis answered with an error; asking the same again is of no use."""


class MissingExtra(GangerError, ImportError):
    """An optional part is not installed; the text says what to install."""

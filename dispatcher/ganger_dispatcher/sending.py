"""From committed effects to confirmed messages, in the order of the commits."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import uuid4

from structlog.typing import FilteringBoundLogger

from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.topology import Topology
from ganger_broker.transport import Published, Transport

from .core.core import Fact
from .core.effects import Answer, Assign, Bury, Reply
from .core.facts import AssignmentReturned
from .inbox import Inbox, Received
from .outgoing import Sendable, pack

__all__ = ["Sender"]

_BATCHES_IN_FLIGHT = 16
"""Committed batches whose messages are not confirmed yet, at most."""


class Sender:
    """Publishes what was committed, then acknowledges what it came from.

    ``sent`` are the names of messages of the outbox that need not be kept any more.
    """

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        inbox: Inbox,
        log: FilteringBoundLogger,
        *,
        epoch: int,
        tell: Callable[[Fact], None],
        fail: Callable[[], None],
    ) -> None:
        """``tell`` takes what the core has to know of; ``fail`` is called when it cannot go on."""
        self._transport = transport
        self._topology = topology
        self._inbox = inbox
        self._log = log
        self._tell = tell
        self._fail = fail
        self._in_flight = asyncio.Semaphore(_BATCHES_IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()
        self.sent: list[str] = []
        self._messages = 0
        # a term after a failure may have the same epoch: its messages need other names
        self._names = f"{epoch}-{uuid4().hex[:8]}"

    def name(self, message: Sendable) -> str | None:
        """A name in the outbox, for what nobody would know to send again."""
        if not (isinstance(message, Reply) or (isinstance(message, Bury) and message.keep)):
            return None
        self._messages += 1
        return f"{self._names}-{self._messages}"

    def take_sent(self) -> list[str]:
        """What was sent since the last time, to be taken out of the outbox."""
        sent, self.sent = self.sent, []
        return sent

    async def send(
        self,
        messages: Sequence[Sendable],
        names: Sequence[str | None],
        batch: list[Received],
        gone: Sequence[str] = (),
    ) -> None:
        """Have it done in the background; waits where too much is under way.

        Args:
            messages: to be published, each with its name in the outbox or None in ``names``.
            batch: what is acknowledged after that.
            gone: workers whose queues are deleted at the end.
        """
        await self._in_flight.acquire()
        self._spawn(self._finish(messages, names, batch, gone))

    async def settle(self, within: float) -> None:
        """Wait for what is under way, ``within`` seconds at most."""
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=within)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _finish(
        self,
        messages: Sequence[Sendable],
        names: Sequence[str | None],
        batch: list[Received],
        gone: Sequence[str],
    ) -> None:
        """Publish what was committed, then acknowledge what it came from.

        Tasks start in the order of the commits, and ``publish`` keeps the order of its
        calls: a worker is told in the order in which the core decided.
        """
        try:
            if messages:
                outcomes = await self._publish(messages)
                for message, name, outcome in zip(messages, names, outcomes, strict=True):
                    self._published(message, name, outcome)
            self._inbox.settle(batch)
            for worker in gone:
                await self._transport.delete_queue(self._topology.worker_queue(worker))
        except TransportClosed:
            pass  # not acknowledged: it all comes again
        except Exception:
            self._log.exception("sending_failed")
            self._fail()
        finally:
            self._in_flight.release()

    async def _publish(self, messages: Sequence[Sendable]) -> list[Published]:
        """Publish; what a missing queue of ours returned once more, when it is there again."""
        packed = [pack(message, self._topology) for message in messages]
        outcomes = await self._transport.publish(packed)
        returned = [
            at
            for at, message in enumerate(messages)
            if isinstance(message, Bury) and outcomes[at] is Published.RETURNED
        ]
        if returned:
            await self._transport.declare(self._topology.shared())
            again = await self._transport.publish([packed[at] for at in returned])
            for at, outcome in zip(returned, again, strict=True):
                outcomes[at] = outcome
        return outcomes

    def _published(self, message: Sendable, name: str | None, outcome: Published) -> None:
        if isinstance(message, Assign):
            if outcome is not Published.CONFIRMED:
                attempt = message.assignment.attempt
                gone = outcome is Published.RETURNED
                self._tell(AssignmentReturned(message.worker, attempt, no_queue=gone))
            return
        if isinstance(message, Reply | Answer) and outcome is Published.IMPOSSIBLE:
            address = message.address
            self._log.error(
                "answer_impossible",
                correlation_id=address.correlation_id,
                reply_to=address.reply_to,
            )
        elif outcome is not Published.CONFIRMED and not _nobody_there(message, outcome):
            what = type(message).__name__
            raise TransportError(f"the broker did not keep a {what}: {outcome.value}")
        if name is not None:
            self.sent.append(name)


def _nobody_there(message: Sendable, outcome: Published) -> bool:
    """Whether it was returned and that is fine: who asked, or a worker, is gone."""
    return outcome is Published.RETURNED and not isinstance(message, Bury)

"""From committed effects to confirmed messages, in the order of the commits."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import uuid4

from structlog.typing import FilteringBoundLogger

from ganger_broker.errors import TransportClosed, TransportError
from ganger_broker.topology import Topology
from ganger_broker.transport import Outgoing, Published, Transport

from .core.core import Fact
from .core.effects import Answer, Assign, Bury, Reply, Tell
from .core.facts import AssignmentImpossible, AssignmentReturned, MessageDropped
from .inbox import Inbox, Received
from .outgoing import Sendable, about, bare_letter, pack, past_binding

__all__ = ["Sender"]

_BATCHES_IN_FLIGHT = 16
"""Committed batches whose messages are not confirmed yet, at most."""
_RESTS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between tries of a message that the broker refuses (a queue of somebody's is full),
a minute in all; then it is dropped."""
_MOST_RESTING = 100
"""Messages that are tried again at a time; one more is dropped at once."""


class Sender:
    """Publishes what was committed, then acknowledges what it came from.

    ``sent`` are the names of messages of the outbox that need not be kept any more. What
    cannot be sent or kept is dropped, logged and counted: it must not cost others anything.
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
        self._resting: set[asyncio.Task[None]] = set()
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
        self._spawn(self._finish(messages, names, batch, gone), self._sending)

    async def settle(self, within: float) -> None:
        """Wait for what is under way, ``within`` seconds at most; what rests is left undone."""
        for task in self._resting:
            task.cancel()
        if self._sending:
            await asyncio.wait(list(self._sending), timeout=within)

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

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
            waiting: list[Received] = []
            if messages:
                outcomes = await self._publish(messages)
                for message, name, outcome in zip(messages, names, outcomes, strict=True):
                    waiting += self._settle_one(message, name, outcome, batch)
            self._inbox.settle([received for received in batch if received not in waiting])
            for worker in gone:
                await self._delete_queue(worker)
        except TransportClosed:
            pass  # not acknowledged: it all comes again
        except Exception:
            self._log.exception("sending_failed")
            self._fail()
        finally:
            self._in_flight.release()

    async def _delete_queue(self, worker: str) -> None:
        try:
            await self._transport.delete_queue(self._topology.worker_queue(worker))
        except TransportClosed:
            raise
        except TransportError as exc:  # left, it expires
            self._log.warning("queue_not_deleted", worker=worker, error=str(exc))

    def _settle_one(
        self, message: Sendable, name: str | None, outcome: Published, batch: list[Received]
    ) -> list[Received]:
        """Note what became of it; deliveries that have to wait for it, as it is tried again."""
        if outcome is not Published.REFUSED or len(self._resting) >= _MOST_RESTING:
            self._published(message, name, outcome)
            return []
        behind: list[Received] = []
        if isinstance(message, Bury):  # until it is confirmed, this is all that there is of it
            behind = [received for received in batch if received.delivery.body is message.body]
        self._spawn(self._try_again(message, name, behind), self._resting)
        return behind

    async def _try_again(
        self, message: Sendable, name: str | None, behind: Sequence[Received]
    ) -> None:
        """Send what the broker refuses, again after ever longer rests; or drop it."""
        outcome = Published.REFUSED
        try:
            for rest in _RESTS:
                await asyncio.sleep(rest)
                [outcome] = await self._publish([message])
                if outcome is not Published.REFUSED:
                    break
        except TransportClosed:
            return
        self._published(message, name, outcome)
        self._inbox.settle(behind)

    async def _publish(self, messages: Sequence[Sendable]) -> list[Published]:
        """Publish; what did not go that way once more, where there is another."""
        outcomes = await self._attempt([self._packed(message) for message in messages])
        others = [
            self._other_way(message, outcome)
            for message, outcome in zip(messages, outcomes, strict=True)
        ]
        if not any(others):
            return outcomes
        if Published.RETURNED in outcomes:
            await self._transport.declare(self._topology.shared())
        again = await self._attempt(others)
        return [
            before if other is None else after
            for before, other, after in zip(outcomes, others, again, strict=True)
        ]

    def _packed(self, message: Sendable) -> Outgoing | None:
        try:
            return pack(message, self._topology)
        except Exception:
            self._log.exception("cannot_be_packed", message=type(message).__name__)
            return None

    def _other_way(self, message: Sendable, outcome: Published) -> Outgoing | None:
        match message:
            case Bury() if outcome is Published.RETURNED:
                return pack(message, self._topology)  # its queue is declared again before
            case Bury() if outcome is Published.IMPOSSIBLE:
                return bare_letter(message, self._topology)
            case Tell() if outcome is Published.RETURNED:
                return past_binding(message, self._topology)
        return None

    async def _attempt(self, packed: Sequence[Outgoing | None]) -> list[Published]:
        """Publish those that there are; the others are impossible."""
        there = [message for message in packed if message is not None]
        try:
            outcomes = iter(await self._transport.publish(there))
        except TransportClosed:
            raise
        except TransportError:  # one of them cannot be packed, and it does not say which
            outcomes = iter([await self._alone(message) for message in there])
        return [Published.IMPOSSIBLE if each is None else next(outcomes) for each in packed]

    async def _alone(self, message: Outgoing) -> Published:
        try:
            [outcome] = await self._transport.publish([message])
        except TransportClosed:
            raise
        except TransportError as exc:
            self._log.error("cannot_be_packed", error=str(exc))
            return Published.IMPOSSIBLE
        return outcome

    def _published(self, message: Sendable, name: str | None, outcome: Published) -> None:
        confirmed = outcome is Published.CONFIRMED
        returned = outcome is Published.RETURNED
        if isinstance(message, Assign):
            attempt = message.assignment.attempt
            if outcome is Published.IMPOSSIBLE:
                self._tell(AssignmentImpossible(message.worker, attempt))
            elif not confirmed:
                self._tell(AssignmentReturned(message.worker, attempt, no_queue=returned))
            return
        # returned: who asked, or the worker, is gone, and that is fine
        if not confirmed and (isinstance(message, Bury) or not returned):
            what = _NAMES[type(message)]
            self._log.error("message_dropped", what=what, why=outcome.value, **about(message))
            self._tell(MessageDropped(what))
        if name is not None:
            self.sent.append(name)


_NAMES: dict[type, str] = {
    Answer: "answer",
    Bury: "dead_letter",
    Reply: "reply",
    Tell: "word_to_worker",
}
"""What is dropped, in the log and the counters."""

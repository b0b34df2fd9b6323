"""A worker on the wire: registers, takes what it is given, says how it goes, leaves."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import structlog

from ganger_broker.codec import decode_to_worker, encode
from ganger_broker.definitions import RateLimit, WorkflowDefinition
from ganger_broker.errors import (
    GangerError,
    InvalidMessage,
    InvalidSetting,
    InvalidWorkflow,
    TransportClosed,
    TransportError,
)
from ganger_broker.labels import LabelValue
from ganger_broker.messages import (
    Heartbeat,
    LabelsChanged,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)
from ganger_broker.settings import Settings
from ganger_broker.to_worker import Assignment, CancelAttempt, Refused, RegisterAgain
from ganger_broker.topology import Binding, Exchange, Queue
from ganger_broker.transport import Delivery, Outgoing, Subscription, Transport

from .admin import AsyncAdmin
from .clock import wall_clock
from .context import WorkerContext
from .live_labels import LiveLabels, Then
from .outbox import MAX_BODY_BYTES, Outbox
from .publishing import publish_until_confirmed
from .runner import BODY_MARGIN, StepRunner
from .stream_sender import StreamSender
from .usage import Usage
from .version import __version__
from .workflow import BoundStep

__all__ = ["WorkerRuntime"]

_log = structlog.get_logger(__name__)

ABANDON_PATIENCE = 1.0
"""Seconds that cancelled steps have to clean up when the worker leaves without them."""
HELD_UP = 1.0
"""Seconds that a turn of the event loop may be late before it is worth a warning."""
LEAVE_PATIENCE = 5.0
"""Seconds to say goodbye in; a broker that is away must not keep a worker."""


class WorkerRuntime:
    """One incarnation of a worker, on a transport that is its own and not connected yet."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        *,
        worker_id: str,
        name: str,
        slots: int,
        labels: LiveLabels,
        workflows: Sequence[WorkflowDefinition],
        steps: Mapping[str, BoundStep],
        rate_limits: Sequence[RateLimit] = (),
        admin: AsyncAdmin | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self.incarnation = uuid4().hex
        self.ready = asyncio.Event()
        self._id = worker_id
        self._name = name
        self._slots = slots
        self._labels = labels
        self._workflows = list(workflows)
        self._rate_limits = list(rate_limits)
        self._settings = settings
        self._transport = transport
        self._topology = settings.topology()
        self._draining = False
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._refusal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asides: set[asyncio.Task[None]] = set()
        self._registering: asyncio.Task[None] | None = None
        self._subscription: Subscription
        self._outbox = Outbox(
            self._publish,
            lambda deliveries: self._subscription.ack(deliveries),
            min(MAX_BODY_BYTES, settings.max_message_bytes - BODY_MARGIN),
        )
        self._sender = StreamSender(transport)
        self._runner = StepRunner(
            steps,
            WorkerContext(worker_id, name, labels),
            self.incarnation,
            self._outbox,
            self._sender,
            slots=slots,
            max_bytes=settings.max_message_bytes,
            admin=admin,
            clock=clock,
        )
        self._log = _log.bind(worker=worker_id)

    @property
    def runner(self) -> StepRunner:
        """What runs its steps."""
        return self._runner

    def stop(self, *, force: bool = False) -> None:
        """End soon: drain, or with ``force`` leave what runs to others."""
        self._stopping.set()
        if force:
            self._forced.set()

    async def run(self, grace: float) -> None:
        """Work until stopped; running steps have ``grace`` seconds then.

        Raises:
            GangerError: the broker refuses this worker, or what it has to declare.
            InvalidSetting: another process has taken its id.
            InvalidWorkflow: another worker has a different definition of the same version.
        """
        flusher = asyncio.create_task(self._outbox.run())
        sender = asyncio.create_task(self._sender.run())
        tasks = [flusher, sender]
        try:
            await _first(self._start(), self._stopping.wait())
            if self.ready.is_set():
                tasks.append(asyncio.create_task(self._beat()))
                await _first(
                    self._stopping.wait(),
                    *map(_outcome, (flusher, sender, self._refusal)),
                )
                await self._drain(grace)
                await self._leave()
        finally:
            self._labels.announce_to(None)
            for task in [*tasks, *self._asides]:
                task.cancel()
            await asyncio.gather(*tasks, *self._asides, return_exceptions=True)
            await self._runner.abandon(0)
            await self._transport.close()

    # ── coming ────────────────────────────────────────────────────────────────────────

    async def _start(self) -> None:
        await self._transport.connect()
        await self._transport.declare(self._items())
        self._check_size()
        self._subscription = await self._transport.consume(
            self._topology.worker_queue(self._id), self._receive, prefetch=self._slots
        )
        self._transport.on_reconnect(self._register)
        self._labels.announce_to(self._announce)
        await self._outbox.say(self._registration())
        self._log.info(
            "worker registered", name=self._name, slots=self._slots, labels=self._labels.get()
        )
        self.ready.set()

    def _items(self) -> list[Exchange | Queue | Binding]:
        return self._topology.shared() + self._topology.for_worker(self._id)

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it beside all else, as long as this worker is there."""
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
        return task

    def _check_size(self) -> None:
        size, most = len(encode([self._registration()])), self._settings.max_message_bytes
        if size > most:
            raise InvalidWorkflow(
                f"worker {self._name!r}: its workflows and labels make a registration of {size:,} "
                f"bytes, at most {most:,} are taken (GANGER_MAX_MESSAGE_BYTES); register fewer "
                "workflows with it, or shorten their desired labels"
            )

    def _registration(self, *, again: bool = False) -> WorkerRegistered:
        labels, label_seq = self._labels.snapshot()
        return WorkerRegistered(
            self._id,
            self.incarnation,
            name=self._name,
            slots=self._slots,
            labels=labels,
            label_seq=label_seq,
            workflows=self._workflows,
            rate_limits=self._rate_limits,
            again=again,
            attempts=self._runner.held,
            draining=self._draining,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
        )

    def _register(self) -> None:
        """Say all that there is to know of this worker: some of it may not have arrived."""
        self._log.info("registering again")
        self._outbox.append(self._registration(again=True))

    async def _declare_and_register(self) -> None:
        """Somebody may have deleted what leads to this worker's queue: so it may have been told."""
        try:
            await self._transport.declare(self._items())
        except TransportClosed:
            return
        except TransportError as exc:  # made otherwise meanwhile, it works as well
            self._log.error("not declared again", error=str(exc))
        self._register()

    def _announce(
        self, seq: int, upsert: dict[str, LabelValue], delete: list[str], then: Then | None
    ) -> None:
        event = LabelsChanged(self._id, self.incarnation, seq, upsert, delete)
        self._outbox.append(event, then=then)

    async def _publish(self, body: bytes) -> None:
        message = Outgoing(self._topology.exchange, self._topology.event_key(self._id), body)
        if not await publish_until_confirmed(self._transport, self._topology, [message]):
            self._register()

    async def _beat(self) -> None:
        clock, usage = asyncio.get_running_loop().time, Usage()
        while True:
            due = clock() + self._settings.heartbeat_interval
            await asyncio.sleep(self._settings.heartbeat_interval)
            if (late := clock() - due) > HELD_UP:
                self._log.warning(
                    "the event loop was held up: an async step must not block; a step that "
                    "does is better a plain function, which runs in a thread",
                    seconds=round(late, 1),
                    attempts=self._runner.held,
                )
            # waits for the confirm: while the broker is away they must not pile up
            beat = Heartbeat(
                self._id,
                self.incarnation,
                self._runner.held,
                usage.memory_mb(),
                usage.cpus(),
                self._labels.snapshot()[1],
                self._draining,
            )
            await self._outbox.say(beat)
            if self._settings.health_file is not None:
                self._settings.health_file.touch()

    # ── working ───────────────────────────────────────────────────────────────────────

    def _receive(self, delivery: Delivery) -> None:
        try:
            # no limit of its own: several outputs within theirs may come as one input
            message = decode_to_worker(delivery.body, len(delivery.body))
        except InvalidMessage as exc:
            self._aside(self._bury(delivery, exc))
            return
        match message:
            case Assignment():
                self._assigned(message, delivery)
                return
            case CancelAttempt():
                self._runner.cancel(message.attempt, message.reason)
            case RegisterAgain():
                if self._registering is None or self._registering.done():
                    self._registering = self._aside(self._declare_and_register())
            case Refused():
                self._refused(message)
        self._subscription.ack([delivery])

    def _refused(self, message: Refused) -> None:
        if message.incarnation not in ("", self.incarnation):
            return  # for another process that takes from this queue, and is told again
        self._log.error("refused by the dispatcher", reason=message.reason)
        if message.for_good and not self._refusal.done():
            error = InvalidSetting if message.incarnation else InvalidWorkflow
            self._refusal.set_exception(error(message.reason))
            self._refusal.exception()  # it may be leaving already, and asks no more

    def _assigned(self, assignment: Assignment, delivery: Delivery) -> None:
        if assignment.incarnation != self.incarnation:
            self._log.info("not run: it is for another incarnation", attempt=assignment.attempt)
            self._subscription.ack([delivery])
        elif self._runner.knows(assignment.attempt):
            self._log.info("not run: it came before", attempt=assignment.attempt)
            self._subscription.ack([delivery])
        else:
            self._runner.begin(assignment, delivery)

    async def _bury(self, delivery: Delivery, exc: InvalidMessage) -> None:
        """Dead-letter what cannot be read, with its reason."""
        self._log.error("a message cannot be read", reason=exc.reason, detail=str(exc))
        message = Outgoing(
            self._topology.dead,
            delivery.routing_key,
            delivery.body,
            content_type=delivery.content_type or "application/octet-stream",
            headers={"ganger-reason": exc.reason, "ganger-detail": str(exc)[:2000]},
        )
        try:
            await publish_until_confirmed(self._transport, self._topology, [message])
        except TransportClosed:
            return  # not acknowledged: it is not lost
        self._subscription.ack([delivery])

    # ── going ─────────────────────────────────────────────────────────────────────────

    async def _drain(self, grace: float) -> None:
        """Say that no more is wanted, then wait for what runs."""
        self._draining = True
        self._log.info("draining", attempts=len(self._runner.held), grace=grace)

        async def finish() -> None:
            # a worker with nothing to finish does not wait for a broker that is away
            patience = None if self._runner.held else LEAVE_PATIENCE
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._outbox.say(WorkerDraining(self._id, self.incarnation))
            await self._runner.idle()

        try:
            async with asyncio.timeout(grace):
                await _first(finish(), self._forced.wait())
        except TimeoutError:
            self._log.warning("the grace is over")

    async def _leave(self) -> None:
        abandoned = await self._runner.abandon(ABANDON_PATIENCE)
        if abandoned:
            self._log.warning("leaving steps to other workers", attempts=abandoned)
        try:
            async with asyncio.timeout(LEAVE_PATIENCE):
                # What comes from here on is not taken; the dispatcher gives it to others.
                await self._subscription.cancel()
                await self._outbox.say(WorkerLeft(self._id, self.incarnation))
        except (TimeoutError, GangerError) as exc:
            reason = str(exc) or "the broker did not confirm it in time"
            self._log.warning("left without a goodbye", reason=reason)
        else:
            self._log.info("left")


async def _outcome(task: asyncio.Future[None]) -> None:
    """Wait for it without cancelling it when the waiting is cancelled."""
    await asyncio.shield(task)


async def _first(*works: Coroutine[Any, Any, Any]) -> None:
    """Run them until the first ends, and raise what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

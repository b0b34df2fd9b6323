"""A program's side of the wire: triggers out, results in."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

import structlog
from msgspec.structs import replace

from ganger_broker.codec import decode_reply, decode_schedules, encode
from ganger_broker.errors import (
    GangerError,
    InvalidInput,
    InvalidMessage,
    OversizedMessage,
    TransportClosed,
    TransportError,
)
from ganger_broker.messages import (
    CancelRun,
    PushEvent,
    RunResult,
    StreamItem,
    Trigger,
)
from ganger_broker.schedules import ScheduleList
from ganger_broker.settings import Settings
from ganger_broker.transport import Delivery, Outgoing, Transport

from .background import check_may_block
from .current_step import children_here, slot_lent_here
from .outcome import output_of
from .publishing import publish_until_confirmed
from .stream_reader import StreamReader
from .unknown_threads import warn_of_thread

__all__ = ["Client", "WorkflowRunRef"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

ANSWER_PATIENCE = 10.0
"""Seconds to wait for the dispatcher's answer to a question."""
REPLY_PREFETCH = 1000
CLOSE_PATIENCE = 1.0
"""Seconds to tidy up in when closing."""


class _Awaited:
    """A run whose result may come; it is known as long as somebody may ask for it."""

    __slots__ = ("__weakref__", "done", "error", "message", "result", "stream")

    def __init__(self, message: Outgoing) -> None:
        self.message = message
        self.stream: StreamReader | None = None
        self.done = asyncio.Event()
        self.result: RunResult | None = None
        self.error: GangerError | None = None

    def end(self, result: RunResult | None, error: GangerError | None = None) -> None:
        if not self.done.is_set():
            self.result, self.error = result, error
            self.done.set()
            if self.stream is not None:
                self.stream.end()


class WorkflowRunRef:
    """A run that was triggered. Its result may be had from any thread and any event loop."""

    def __init__(
        self, run_id: str, workflow: str, awaited: _Awaited, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.run_id = run_id
        self.workflow = workflow
        self._awaited = awaited
        self._loop = loop

    def __repr__(self) -> str:
        return f"WorkflowRunRef(run_id={self.run_id!r}, workflow={self.workflow!r})"

    @property
    def workflow_run_id(self) -> str:
        """The id of the run."""
        return self.run_id

    @property
    def done(self) -> bool:
        """Whether it has ended, as far as is known here."""
        return self._awaited.done.is_set()

    async def result(self, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait for the run's end; what each step returned, by its name.

        ``timeout``: seconds to wait; the run goes on after that. In a step, its slot is for
        others meanwhile.

        Raises:
            RunFailed: it failed; the text names step, attempt and exception.
            RunCancelled: it was cancelled, by somebody or by its schedule time-out.
            TimeoutError: it has not ended in time.
            TransportClosed: its client was closed.
        """
        if not self.done:
            warn_of_thread("result()")
        return await self._result(timeout)

    async def _result(self, seconds: float | None) -> dict[str, Any]:
        """The same for who knows already that a step may wait for it here, or lends its slot."""
        async with slot_lent_here():
            return await self._there(self._ended(seconds))

    def sync_result(self, timeout: float | None = None) -> dict[str, Any]:
        """The same as ``result``, blocking.

        Raises:
            RuntimeError: the event loop that runs here is the one it was triggered on, or
                one with a worker, which this would block for ever: ``await result()``.
        """
        children = children_here()
        if children is not None:
            return children.blocking(self._result(timeout), "await result()")
        if not self.done:
            warn_of_thread("sync_result()")
        return self._blocking(self._ended(timeout), "sync_result()", "await result()")

    def stream(self) -> AsyncIterator[StreamItem]:
        """What the run's steps log and put in the stream, as it comes, until the run ends.

        In the order in which each attempt said it; ``seq`` counts it from 1. What came before
        this is called is there as well; each item is given once. A step that is tried again,
        or whose worker was lost, begins anew with another ``attempt``. However the run ends,
        this ends: ``result()`` says how.

        Raises:
            InvalidInput: it was not started with ``stream=True``.
            TransportClosed: its client was closed.
        """
        return self._items(self._reader("stream()"))

    def sync_stream(self) -> Iterator[StreamItem]:
        """The same as ``stream``, blocking.

        Raises:
            RuntimeError: as ``sync_result``.
        """
        return self._sync_items(self._reader("sync_stream()"))

    async def _items(self, reader: StreamReader) -> AsyncIterator[StreamItem]:
        while await self._there(self._more(reader)):
            while (item := reader.next()) is not None:
                yield item

    def _sync_items(self, reader: StreamReader) -> Iterator[StreamItem]:
        instead = "async for item in stream()"
        while self._blocking(self._more(reader), "sync_stream()", instead):
            while (item := reader.next()) is not None:
                yield item

    def _reader(self, what: str) -> StreamReader:
        if self._awaited.stream is None:
            raise InvalidInput(
                f"{what}: run {self.run_id} is not streamed; start it with stream=True"
            )
        return self._awaited.stream

    async def _more(self, reader: StreamReader) -> bool:
        more = await reader.wait()
        if not more and self._awaited.result is None:
            raise self._awaited.error or TransportClosed("the client was closed")
        return more

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns, on the client's loop."""
        if asyncio.get_running_loop() is not self._loop:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        return await work

    def _blocking(self, work: Coroutine[Any, Any, T], what: str, instead: str) -> T:
        try:
            check_may_block(what, instead, self._loop)
        except RuntimeError:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _ended(self, seconds: float | None) -> dict[str, Any]:
        awaited = self._awaited
        try:
            async with asyncio.timeout(seconds):
                await awaited.done.wait()
        except TimeoutError:
            raise TimeoutError(
                f"run {self.run_id} of {self.workflow} has not ended within {seconds:g} s; "
                "it goes on"
            ) from None
        if awaited.result is None:
            raise awaited.error or TransportClosed("the client was closed")
        return output_of(self.run_id, self.workflow, awaited.result)


class Client:
    """Sends triggers and takes their results, on one event loop and a transport of its own."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self.id = uuid4().hex
        self._limit = settings.max_message_bytes
        self._transport = transport
        self._topology = settings.topology()
        self._awaited: WeakValueDictionary[str, _Awaited] = WeakValueDictionary()
        self._asking: set[asyncio.Task[None]] = set()
        self._asked: dict[str, asyncio.Future[ScheduleList]] = {}

    async def connect(self) -> None:
        """Connect, and consume the results.

        Raises:
            TransportError: the broker refuses it.
        """
        queue = self._topology.reply_queue(self.id)
        await self._transport.connect()
        await self._transport.declare(self._topology.shared() + self._topology.for_client(self.id))
        await self._transport.consume(queue, self._receive, prefetch=REPLY_PREFETCH, no_ack=True)
        self._transport.on_reconnect(self._ask_again)

    async def close(self) -> None:
        """Delete the reply queue and close. Who waits for a result gets TransportClosed."""
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self._transport.delete_queue(self._topology.reply_queue(self.id))
        except (TimeoutError, TransportError):
            pass  # it expires by itself
        finally:
            await self.disconnect()

    async def disconnect(self) -> None:
        """Close at once; the reply queue expires by itself."""
        for task in self._asking:
            task.cancel()
        for awaited in list(self._awaited.values()):
            awaited.end(None, TransportClosed("the client was closed"))
        await self._transport.close()

    async def trigger(self, trigger: Trigger, *, new: bool = False) -> WorkflowRunRef:
        """Publish a trigger, whose ``run_id`` is set; returns when the broker has it.

        ``new``: the id was made up for it, so there can be no such run yet.

        Raises:
            InvalidInput: it is larger than ``GANGER_MAX_MESSAGE_BYTES``.
            TransportClosed: the client was closed meanwhile.
        """
        run_id = trigger.run_id or uuid4().hex
        body = encode(trigger)
        if len(body) > self._limit:
            raise OversizedMessage(
                f"input: the trigger has {len(body)} bytes packed, at most {self._limit} are "
                "taken (GANGER_MAX_MESSAGE_BYTES); keep large data elsewhere and send where it is"
            )
        message = Outgoing(
            self._topology.exchange,
            self._topology.trigger_key(trigger.workflow),
            body,
            reply_to=self._topology.reply_queue(self.id),
            correlation_id=run_id,
            new=new,
        )
        awaited = self._awaited.get(run_id)
        if awaited is None:
            awaited = self._awaited[run_id] = _Awaited(message)
        if trigger.stream and awaited.stream is None:
            awaited.message, awaited.stream = message, StreamReader()
            if awaited.done.is_set():
                awaited.stream.end()
        await publish_until_confirmed(self._transport, self._topology, [message])
        return WorkflowRunRef(run_id, trigger.workflow, awaited, asyncio.get_running_loop())

    async def push(self, events: Sequence[tuple[str, PushEvent]]) -> None:
        """Publish events by their keys; returns when the broker has them all.

        Raises:
            InvalidInput: one is larger than ``GANGER_MAX_MESSAGE_BYTES``; none was published.
            TransportClosed: the client was closed meanwhile.
        """
        messages = []
        for key, event in events:
            body = encode(event)
            if len(body) > self._limit:
                raise OversizedMessage(
                    f"payload: the event {key!r} has {len(body)} bytes packed, at most "
                    f"{self._limit} are taken (GANGER_MAX_MESSAGE_BYTES)"
                )
            key = self._topology.push_key(key)
            messages.append(Outgoing(self._topology.exchange, key, body))
        await publish_until_confirmed(self._transport, self._topology, messages)

    async def ask(self, key: str, request: object) -> ScheduleList:
        """Ask the dispatcher about schedules, and wait for its answer.

        Raises:
            TimeoutError: none came; what was asked may be done all the same.
        """
        asked = uuid4().hex
        answer: asyncio.Future[ScheduleList] = asyncio.get_running_loop().create_future()
        self._asked[asked] = answer
        message = Outgoing(
            self._topology.exchange,
            key,
            encode(request),
            reply_to=self._topology.reply_queue(self.id),
            correlation_id=asked,
        )
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                await publish_until_confirmed(self._transport, self._topology, [message])
                return await answer
        except TimeoutError:
            raise TimeoutError(
                f"no answer within {ANSWER_PATIENCE:g} s: is a dispatcher running?"
            ) from None
        finally:
            del self._asked[asked]

    async def cancel(self, request: CancelRun) -> None:
        """Ask to cancel a run; returns when the broker has the request."""
        message = Outgoing(
            self._topology.exchange, self._topology.cancel_key(request.run_id), encode(request)
        )
        await publish_until_confirmed(self._transport, self._topology, [message])

    def _receive(self, delivery: Delivery) -> None:
        answer = self._asked.get(delivery.correlation_id or "")
        if answer is not None:
            self._answered(answer, delivery)
            return
        awaited = self._awaited.get(delivery.correlation_id or "")
        if awaited is None:
            return  # nobody can ask for it any more
        try:
            # no limit of its own: it holds the outputs of several steps, each within theirs
            body = delivery.body
            reply = decode_reply(body, delivery.content_type, len(body))
        except InvalidMessage as exc:
            _log.error("a result cannot be read", run=delivery.correlation_id, detail=str(exc))
            awaited.end(None, exc)
            return
        if isinstance(reply, RunResult):
            awaited.end(reply)
        elif awaited.stream is not None:
            awaited.stream.take(reply)

    def _answered(self, answer: "asyncio.Future[ScheduleList]", delivery: Delivery) -> None:
        if answer.done():
            return
        body = delivery.body
        try:
            answer.set_result(decode_schedules(body, delivery.content_type, len(body)))
        except InvalidMessage as exc:
            answer.set_exception(exc)

    async def _ask_again(self) -> None:
        """Results may have been lost with the connection (they are consumed without acks, and
        the queue may have expired): trigger anew what is awaited. The same run id is the same
        run, and one that has ended is answered at once."""
        awaited = list(self._awaited.values())
        left = [replace(a.message, new=False) for a in awaited if not a.done.is_set()]
        if not left:
            return
        _log.info("asking again for results", runs=len(left))
        task = asyncio.create_task(self._publish_again(left))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _publish_again(self, messages: list[Outgoing]) -> None:
        try:
            await publish_until_confirmed(self._transport, self._topology, messages)
        except TransportError as exc:
            _log.warning("could not ask again for results", error=str(exc))

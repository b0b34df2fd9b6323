"""``RabbitTransport``: one connection at a time, and all that outlives it."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import Any

import structlog
from aiormq import Channel

from ganger_broker.errors import TransportClosed, TransportError, TransportTimeout
from ganger_broker.topology import Binding, Exchange, Queue
from ganger_broker.transport import Delivery, Outgoing, Published

from .consumer import Consumer
from .frames import Tap
from .publisher import Publisher
from .retrying import FIRST_WAIT, LONGEST_WAIT, retry_for_ever
from .session import HEARTBEAT, ConnectionLost, ConnectionRefused, Session

__all__ = ["RabbitTransport"]

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT = 5.0
"""Seconds at most to get the last acknowledgements out to a broker that does not answer, and
as many again to say goodbye."""

SHORT_LIVED = 5.0
"""Seconds that a connection has to last for the next one to be made at once."""

Item = Exchange | Queue | Binding


class RabbitTransport:
    """The transport port on RabbitMQ 3.10 and later, for one event loop.

    ``url``: ``amqp(s)://user:password@host:port/vhost``. ``name``: shown in the broker's
    list of connections. ``heartbeat``: seconds; after twice as long without a sign the broker
    gives to others what was delivered here.
    """

    def __init__(self, url: str, *, name: str, heartbeat: int = HEARTBEAT) -> None:
        self._url = url
        self._name = name
        self._heartbeat = heartbeat
        self._declared: dict[tuple[str, ...], Item] = {}
        self._consumers: list[Consumer] = []
        self._callbacks: list[Callable[[], Awaitable[None] | None]] = []
        self._calling_back = asyncio.Lock()
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._publisher = Publisher(self._publishing_channel)

    # ── the port ──

    async def connect(self) -> None:
        """Connect; see the port."""
        self._check_open()
        if self._session is not None:
            return
        retrying = retry_for_ever("connecting", unless=ConnectionRefused, name=self._name)
        async for attempt in retrying:
            with attempt:
                self._check_open()
                session = self._session = await Session.open(self._url, self._name, self._heartbeat)
        if self._closed:  # meanwhile, when there was nothing to close yet
            await session.close()
            self._check_open()
        self._up.set()
        self._start(self._supervise(session))
        self._start(self._publisher.run())

    async def close(self) -> None:
        """Close; see the port."""
        if self._closed:
            return
        self._closed = True
        self._up.set()  # lets those who wait for a connection see that there will be none
        self._publisher.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.gather(*[consumer.close() for consumer in self._consumers])
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._session.close()

    async def declare(self, items: Sequence[Item]) -> None:
        """Declare; see the port."""
        self._check_connected()
        for item in items:
            await self._on_session(methodcaller("declare", [item]))
            self._declared[_key(item)] = item

    async def delete_queue(self, name: str) -> None:
        """Delete; see the port."""
        for consumer in [c for c in self._consumers if c.queue == name]:
            await consumer.cancel()
        for item in self._items_of(name):
            if not isinstance(item, Exchange):
                del self._declared[_key(item)]
        await self._on_session(methodcaller("delete_queue", name))

    async def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        """Publish; see the port."""
        self._check_connected()
        return await self._publisher.publish(messages)

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        no_ack: bool = False,
        priority: int = 0,
    ) -> Consumer:
        """Consume; see the port."""
        consumer = Consumer(
            queue,
            on_delivery,
            prefetch=prefetch,
            no_ack=no_ack,
            priority=priority,
            on_lost=lambda lost: self._start(self._recover(lost)),
        )
        await self._on_session(consumer.open)
        self._consumers = [*(c for c in self._consumers if not c.done), consumer]
        return consumer

    @property
    def connected(self) -> bool:
        """Whether it is up; see the port."""
        session = self._session
        return session is not None and self._up.is_set() and not session.lost

    def on_reconnect(self, callback: Callable[[], Awaitable[None] | None]) -> None:
        """Have it called; see the port."""
        self._callbacks.append(callback)

    # ── one connection after the other ──

    async def _supervise(self, session: Session) -> None:
        clock = asyncio.get_running_loop().time
        opened, short_lived = clock(), 0
        while True:
            reason = await session.wait_lost()
            self._up.clear()
            log.warning("connection lost", name=self._name, reason=reason)
            short_lived = short_lived + 1 if clock() - opened < SHORT_LIVED else 0
            if short_lived:  # it comes back and goes again: not as fast as it can
                await asyncio.sleep(min(FIRST_WAIT * 2**short_lived, LONGEST_WAIT))
            async for attempt in retry_for_ever("reconnecting", name=self._name):
                with attempt:
                    session = self._session = await self._reconnect()
            if self._closed:  # a cancellation can be lost in connecting; `close` closes this one
                return
            opened = clock()
            self._up.set()
            log.info("connected again", name=self._name)
            self._start(self._call_back())

    async def _reconnect(self) -> Session:
        session = await Session.open(self._url, self._name, self._heartbeat)
        try:
            await self._declare_again(session, list(self._declared.values()))
            for consumer in list(self._consumers):
                try:
                    await consumer.open(session)
                except ConnectionLost:
                    raise
                except TransportError as exc:
                    log.error("consumer not back yet", queue=consumer.queue, error=str(exc))
                    self._start(self._recover(consumer))
        except BaseException:
            await session.close()
            raise
        return session

    async def _declare_again(self, session: Session, items: Sequence[Item]) -> None:
        for item in items:
            try:
                await session.declare([item])
            except ConnectionLost:
                raise
            except TransportError as exc:
                # Most likely somebody made it otherwise meanwhile: it is there, so go on with it.
                log.error("declaring again failed", error=str(exc))

    async def _recover(self, consumer: Consumer) -> None:
        """Set one consumer up again; a new connection may do it first."""
        async for attempt in retry_for_ever("consuming again", queue=consumer.queue):
            with attempt:
                session = await self._connected()
                if consumer.cancelled or consumer.is_open_on(session):
                    return
                await self._declare_again(session, self._items_of(consumer.queue))
                await consumer.open(session)
        log.info("consuming again", queue=consumer.queue)
        await self._call_back()

    async def _publishing_channel(self) -> tuple[Channel, Tap]:
        async for attempt in retry_for_ever("opening the publishing channel", name=self._name):
            with attempt:
                session = await self._connected()
                # An exchange that was deleted is what usually closed the last channel.
                await self._declare_again(session, list(self._declared.values()))
                return await session.channel(confirms=True), session.tap
        raise TransportClosed("closed")  # not reached: it is tried for ever

    async def _call_back(self) -> None:
        async with self._calling_back:
            for callback in list(self._callbacks):
                try:
                    result = callback()
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    log.exception("a callback for reconnects failed", callback=repr(callback))

    async def _on_session(self, do: Callable[[Session], Awaitable[None]]) -> None:
        """Do it; where there is no answer or the connection is lost, do it again."""
        self._check_connected()
        passing = (ConnectionLost, TransportTimeout)
        async for attempt in retry_for_ever("asking the broker", on=passing, name=self._name):
            with attempt:
                await do(await self._connected())

    async def _connected(self) -> Session:
        """The present connection, waited for."""
        while True:
            self._check_open()
            if self._session is not None and self._up.is_set() and not self._session.lost:
                return self._session
            self._up.clear()
            await self._up.wait()

    # ── the rest ──

    def _items_of(self, queue: str) -> list[Item]:
        """What was declared that a queue needs, in order."""
        return [
            item
            for item in self._declared.values()
            if isinstance(item, Exchange)
            or (isinstance(item, Queue) and item.name == queue)
            or (isinstance(item, Binding) and item.queue == queue)
        ]

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed(f"transport {self._name!r} is closed")

    def _check_connected(self) -> None:
        self._check_open()
        if self._session is None:
            raise TransportError(f"transport {self._name!r}: await connect() first")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TransportClosed):
            log.error("a task of the transport ended", name=self._name, exc_info=error)


def _key(item: Item) -> tuple[str, ...]:
    match item:
        case Exchange(name, _):
            return ("exchange", name)
        case Queue(name, _):
            return ("queue", name)
        case Binding(exchange, queue, key):
            return ("binding", exchange, queue, key)

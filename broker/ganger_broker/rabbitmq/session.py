"""One connection to RabbitMQ, from its opening to its loss."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

import aio_pika
from aiormq import Channel, Connection
from aiormq import exceptions as amqp
from pamqp.exceptions import PAMQPException
from yarl import URL

from ganger_broker.errors import TransportError, TransportTimeout
from ganger_broker.settings import environment_name
from ganger_broker.topology import Binding, Exchange, Queue

from .frames import Tap, TapFactory

__all__ = [
    *("HEARTBEAT", "ConnectionLost", "ConnectionRefused", "Session"),
    *("attempt", "reason_of", "wrapping"),
]

CONNECT_TIMEOUT = 10.0
"""Seconds until an attempt to connect is given up, and another made."""
ANSWER_TIMEOUT = 15.0
"""Seconds for the broker to answer. It is silent for a quorum queue without a leader, and may
be so for ever: RabbitMQ 3.10 loses the members of one declared just before it was killed."""
HEARTBEAT = 30
"""Seconds; RabbitMQ takes a client that is silent for twice as long for dead. Less would cut
off a worker whose loop a step blocks for a while. ``?heartbeat=`` in the URL replaces it."""


class ConnectionLost(TransportError):
    """The connection went away while it was used; to be done again on the next one."""


class ConnectionRefused(TransportError):
    """The broker is there and does not let us in: trying again does not help."""


class Session:
    """A connection, and a channel on it to declare and delete with.

    Every failure comes as a ``TransportError``: ``ConnectionLost``, or what the broker said.
    """

    def __init__(self, connection: aio_pika.abc.AbstractConnection, tap: Tap) -> None:
        self.tap = tap
        self._outer = connection
        underlay = cast("aio_pika.abc.UnderlayConnection", connection.transport)
        self._connection = cast("Connection", underlay.connection)
        self._control: Channel | None = None
        self._control_lock = asyncio.Lock()
        self._gone = asyncio.Event()
        self._connection.closing.add_done_callback(lambda _: self._gone.set())

    @classmethod
    async def open(cls, url: str, name: str, heartbeat: int = HEARTBEAT) -> "Session":
        """Connect, named ``name`` in the broker's list of connections.

        Raises:
            ConnectionRefused: user, password or virtual host is refused.
            ConnectionLost: no broker answers.
        """
        given = URL(url)
        given = given.update_query({"heartbeat": heartbeat, **given.query})
        factory = TapFactory(given)
        connection = aio_pika.Connection(given, client_properties={"connection_name": name})
        connection.kwargs["transport_factory"] = factory  # `aio_pika.connect` takes only texts
        try:
            await connection.connect(timeout=CONNECT_TIMEOUT)
            return cls(connection, factory.tap)
        except (amqp.AMQPError, PAMQPException, OSError, RuntimeError) as exc:
            raise _why_not_connected(given, exc) from exc

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.is_closed

    @property
    def version(self) -> str:
        """The broker's version, as it says itself."""
        version = self._connection.server_properties.get("version", "unknown")
        return version.decode() if isinstance(version, bytes) else str(version)

    async def wait_lost(self) -> str:
        """Return when the connection is gone; why, in words."""
        await self._gone.wait()
        return str(reason_of(self._connection.closing) or "closed")

    async def close(self) -> None:
        """Close the connection; gone already is fine."""
        await attempt("connection", self._outer.close())

    async def channel(self, *, confirms: bool = False) -> Channel:
        """A new channel; with ``confirms`` for publishing."""
        async with wrapping("channel"):
            opened = await self._connection.channel(publisher_confirms=confirms)
        return cast("Channel", opened)

    async def declare(self, items: Sequence[Exchange | Queue | Binding]) -> None:
        """Declare in order."""
        for item in items:
            async with self._control_lock:
                await self._declare(item)

    async def look_up(self, item: Exchange | Queue) -> int | None:
        """How many messages lie in a queue (an exchange: 0); None where there is no such thing."""
        async with self._control_lock:
            channel = await self._control_channel()
            async with wrapping(repr(item.name)):
                try:
                    if isinstance(item, Exchange):
                        await channel.exchange_declare(item.name, passive=True)
                        return 0
                    found = await channel.queue_declare(item.name, passive=True)
                except amqp.ChannelNotFoundEntity:
                    return None
                return 0 if found is None else found.message_count or 0

    async def delete_queue(self, name: str) -> None:
        """Delete; gone already is fine."""
        async with self._control_lock:
            channel = await self._control_channel()
            async with wrapping(f"queue {name!r}"):
                await channel.queue_delete(name)

    async def _declare(self, item: Exchange | Queue | Binding) -> None:
        channel = await self._control_channel()
        match item:
            case Exchange(name, kind):
                async with wrapping(f"exchange {name!r}"):
                    await channel.exchange_declare(name, exchange_type=kind, durable=True)
            case Queue(name, arguments):
                try:
                    async with wrapping(f"queue {name!r}"):
                        await channel.queue_declare(name, durable=True, arguments=arguments)
                except TransportError as exc:
                    raise _of_another_type(exc) from exc
            case Binding(exchange, queue, key):
                async with wrapping(f"binding of queue {queue!r} to exchange {exchange!r}"):
                    await channel.queue_bind(queue, exchange, key)

    async def _control_channel(self) -> Channel:
        # The server closes it with every refusal, so it is opened anew where needed.
        if self._control is None or self._control.is_closed:
            self._control = await self.channel()
        return self._control


@asynccontextmanager
async def wrapping(what: str) -> AsyncIterator[None]:
    """Make the driver's exceptions ours, silence included; ``what`` names the thing worked on."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            yield
    except asyncio.CancelledError as exc:
        # aiormq also *throws* this at those who wait when it closes something. It is
        # only a real one when somebody cancelled this task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionLost(f"{what}: the connection was lost") from exc
    except TimeoutError as exc:
        raise TransportTimeout(f"{what}: no answer within {ANSWER_TIMEOUT:g} s") from exc
    except amqp.AMQPChannelError as exc:
        raise TransportError(f"{what}: {_text(exc)}") from exc
    except (amqp.AMQPError, OSError, RuntimeError) as exc:
        raise ConnectionLost(f"{what}: {_text(exc)}") from exc
    except (PAMQPException, ValueError, TypeError) as exc:
        raise TransportError(f"{what}: cannot be sent: {exc}") from exc


def _of_another_type(error: TransportError) -> TransportError:
    """The same, with what to do where it is a queue of another type that is there."""
    if "'x-queue-type'" not in str(error):
        return error
    name = environment_name("queue_type")
    return TransportError(f"{error}; {name} (--queue-type) must be the same for a whole deployment")


async def attempt(what: str, call: Awaitable[object]) -> None:
    """Await something that a lost connection or channel has done as well."""
    with suppress(TransportError):
        async with wrapping(what):
            await call


def reason_of(closing: "asyncio.Future[object]") -> BaseException | None:
    """Why a connection or a channel closed, of its ``closing`` future; None where nobody said."""
    if not closing.done() or closing.cancelled():
        return None
    return closing.exception()


def _why_not_connected(url: URL, exc: Exception) -> TransportError:
    place = f"{url.host}:{url.port or 'default port'}"
    if isinstance(exc, amqp.ProbableAuthenticationError | amqp.AuthenticationError):
        return ConnectionRefused(f"{place} refuses user {url.user!r} or its password: {_text(exc)}")
    # The driver expects an answer to its opening of the virtual host, and when the broker
    # closes the connection instead it complains of the frame and drops what that said.
    if isinstance(exc, amqp.ConnectionClosed) or "Connection.Close " in repr(exc.args):
        return ConnectionRefused(
            f"{place} refuses virtual host {url.path.removeprefix('/') or '/'!r} to user "
            f"{url.user!r}: it must exist, be up, and the user must have permissions on it"
        )
    return ConnectionLost(f"{place}: {_text(exc) or type(exc).__name__}")


def _text(exc: BaseException) -> str:
    return " ".join(str(part) for part in exc.args)

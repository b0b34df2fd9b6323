"""The connection that ``app.admin`` opens for each event loop."""

import asyncio

import pytest

from ganger import Ganger, TransportClosed
from ganger_broker.errors import TransportError
from ganger_broker.memory import MemoryBroker, MemoryTransport
from ganger_broker.settings import Settings
from tests.unit.fake_dispatcher import PATIENCE


class UnreachableTransport(MemoryTransport):
    """One whose broker does not answer until it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(MemoryBroker(), name="client")
        self.asked, self.closed = asyncio.Event(), False
        self._failure = failure

    async def connect(self) -> None:
        self.asked.set()
        if self._failure is not None:
            raise self._failure
        await asyncio.Future()

    async def close(self) -> None:
        self.closed = True
        await super().close()


def app_on(transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> Ganger:
    monkeypatch.setattr("ganger.admin.open_transport", lambda _settings, _name: transport)
    return Ganger(settings=Settings.load(broker_url="amqp://127.0.0.1:1/"))


async def test_who_waits_for_a_connection_that_is_closed_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = UnreachableTransport()
    admin = app_on(transport, monkeypatch).admin.aio
    asking = [asyncio.create_task(admin.run_workflow("caption")) for _ in range(2)]
    await transport.asked.wait()
    before = asyncio.all_tasks()
    async with asyncio.timeout(PATIENCE):
        await admin.close()
        for each in asking:
            with pytest.raises(TransportClosed, match="closed while it was opened"):
                await each
    assert transport.closed
    assert asyncio.all_tasks() < before, "what opened it has ended with it"


async def test_a_connection_given_up_leaves_nothing_for_the_loop_to_clean_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = UnreachableTransport()
    admin = app_on(transport, monkeypatch).admin.aio
    at_first = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await admin.run_workflow("caption")
    await admin.close()
    assert transport.closed
    assert asyncio.all_tasks() == at_first


async def test_a_refused_connection_is_tried_again_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = UnreachableTransport(TransportError("who are you?"))
    admin = app_on(transport, monkeypatch).admin.aio
    for _ in range(2):
        transport.asked.clear()
        with pytest.raises(TransportError, match="who are you"):
            await admin.run_workflow("caption")
        assert transport.asked.is_set()
        assert transport.closed

"""An app for tests to declare workflows on, and steps that tests hold by the hand."""

import asyncio
from collections.abc import Callable
from typing import Any

from ganger import Context, Ganger

__all__ = ["Scripted", "app"]

app = Ganger(broker_url="memory://unit-tests")


class _Scripted:
    """``async_step`` and ``thread_step`` do what the test gives them to do."""

    def __init__(
        self,
        do: Callable[[Context], Any] | None = None,
        then: Callable[[Context], Any] | None = None,
    ) -> None:
        self._do = do
        self._then = then
        self.ran: list[str] = []
        self.release = asyncio.Event()

    @app.step(name="a")
    async def async_step(self, context: Context) -> Any:
        self.ran.append(context.attempt_id())
        return await self._do(context) if self._do is not None else None

    @app.step(name="t")
    def thread_step(self, context: Context) -> Any:
        self.ran.append(context.attempt_id())
        return self._then(context) if self._then is not None else None

    @app.step(name="wait")
    async def waiting_step(self, context: Context) -> Any:
        self.ran.append(context.attempt_id())
        await self.release.wait()
        return "released"


Scripted = app.workflow(name="scripted")(_Scripted)

"""Limits as users declare them, and what becomes of them in one process."""

import asyncio
from typing import Any

import pytest

from ganger import (
    Concurrency,
    ConcurrencyStrategy,
    Context,
    Ganger,
    InvalidInput,
    InvalidWorkflow,
    RunCancelled,
    embedded,
)
from ganger.workflow import declaration_of
from ganger_broker.definitions import RateLimit

PATIENCE = 20.0


@pytest.mark.parametrize(
    ("per", "seconds"),
    [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("90s", 90)],
)
def test_a_rate_limit_is_per_a_word_or_a_duration(app: Ganger, per: str, seconds: int) -> None:
    app.rate_limit("api", 5, per=per)
    assert app.rate_limits == {"api": RateLimit("api", 5, seconds)}


@pytest.mark.parametrize(
    ("key", "limit", "per", "said"),
    [
        ("", 1, "minute", "rate limit '': the key must be"),
        ("api", 0, "minute", "rate limit 'api': limit: 0 must be a whole number from 1"),
        ("api", True, "minute", "rate limit 'api': limit: True must be"),
        ("api", 1, "week", "rate limit 'api': per: 'week' must be a positive number"),
        ("api", 1, "2d", "rate limit 'api': per: '2d' must be from a second to a day"),
        ("api", 1, 0.5, "rate limit 'api': per: 0.5 must be from a second to a day"),
    ],
)
def test_a_bad_rate_limit_is_refused(
    app: Ganger, key: str, limit: int, per: Any, said: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        app.rate_limit(key, limit, per=per)
    assert str(raised.value).startswith(said)


def test_a_rate_limit_is_declared_once(app: Ganger) -> None:
    app.rate_limit("api", 5)
    with pytest.raises(InvalidInput, match="rate limit 'api' is declared already"):
        app.rate_limit("api", 6)


@pytest.mark.parametrize("units", ["api", {"api": 0}, {"api": 1.5}, {1: 1}])
def test_bad_units_are_refused(app: Ganger, units: Any) -> None:
    with pytest.raises(InvalidWorkflow, match="task 'call': rate_limits"):

        @app.task(rate_limits=units)
        async def call(input: Any, context: Context) -> None: ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("customer", "concurrency: 'customer' must be a Concurrency"),
        (["customer"], r"concurrency: \['customer'\] must be a Concurrency"),
        (Concurrency("customer", 0), r"concurrency\[0\]\.limit: Expected `int` >= 1"),
        (Concurrency("a["), r"concurrency\[0\]\.key: 'a\[' is no JMESPath expression"),
        (Concurrency("no(a)"), r"concurrency\[0\]\.key: 'no\(a\)': there is no function no"),
        ([Concurrency("a")] * 9, "concurrency: at most 8 limits, these are 9"),
        (
            [Concurrency("a"), Concurrency("b"), Concurrency("a", 2)],
            r"concurrency\[2\]\.key: there is a limit of 'a' before; give one",
        ),
        (Concurrency("a", strategy="x"), r"concurrency\[0\]\.strategy: 'x' must be one of queue, "),
    ],
)
def test_bad_concurrency_is_refused(app: Ganger, given: Any, said: str) -> None:
    with pytest.raises(InvalidWorkflow, match="workflow 'call': " + said):

        @app.task(concurrency=given)
        async def call(input: Any, context: Context) -> None: ...


def test_a_strategy_may_be_a_text_in_any_case(app: Ganger) -> None:
    @app.task(concurrency=Concurrency(strategy="CANCEL_NEWEST"))  # type: ignore[arg-type]
    async def call(input: Any, context: Context) -> None: ...

    [rule] = declaration_of(call).definition.concurrency
    assert rule.strategy is ConcurrencyStrategy.CANCEL_NEWEST


async def test_a_limit_that_nobody_declared_is_told_when_the_worker_starts(app: Ganger) -> None:
    @app.task(rate_limits={"none": 1})
    async def call(input: Any, context: Context) -> None: ...

    worker = app.worker("w")
    worker.register_workflow(call)
    with pytest.raises(InvalidInput, match="step 'call': rate_limits: there is no rate limit"):
        await worker.run()


async def test_a_step_that_waits_for_a_limit_is_explained_by_name(app: Ganger) -> None:
    app.rate_limit("api", 1, per="day")

    @app.task(rate_limits={"api": 1}, desired_worker_labels={"gpu": 1})
    async def call(input: Any, context: Context) -> str:
        return context.worker.name()

    @app.task()
    async def free(input: Any, context: Context) -> None: ...

    no_gpu, gpu = app.worker("none"), app.worker("gpu", labels={"gpu": 1})
    for worker in (no_gpu, gpu):
        worker.register_workflow(call)
        worker.register_workflow(free)
    async with no_gpu, gpu:
        assert await call.aio_run({}, timeout=PATIENCE) == "gpu"
        waits = await call.aio_run_no_wait({})
        dispatcher = embedded.ensure_dispatcher(app.settings)
        await free.aio_run({}, timeout=PATIENCE)  # triggers are handled in order
        found = await dispatcher.explain(f"{waits.run_id}/call")
        assert found["waits_for"] == "rate limit 'api': 1 per 86400 s"
        await app.admin.aio.cancel(waits.run_id)
        with pytest.raises(RunCancelled):
            await waits.result(PATIENCE)
    await app.admin.aio.close()


async def test_a_customer_has_one_run_at_a_time_on_the_worker_it_requires(app: Ganger) -> None:
    going: set[str] = set()

    @app.task(concurrency=Concurrency("customer"), desired_worker_labels={"gpu": 1})
    async def report(input: Any, context: Context) -> str:
        assert input["customer"] not in going
        going.add(input["customer"])
        await asyncio.sleep(0)
        going.remove(input["customer"])
        return context.worker.name()

    no_gpu, gpu = app.worker("none"), app.worker("gpu", labels={"gpu": 1})
    for worker in (no_gpu, gpu):
        worker.register_workflow(report)
    async with no_gpu, gpu:
        asked = [{"customer": key} for key in "xxxyyy"]
        assert await report.aio_run_many(asked, timeout=PATIENCE) == ["gpu"] * 6
    await app.admin.aio.close()


async def test_of_two_that_make_no_sense_together_the_newest_is_cancelled(app: Ganger) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    @app.task(concurrency=Concurrency(strategy=ConcurrencyStrategy.CANCEL_NEWEST))
    async def once(input: Any, context: Context) -> None:
        began.set()
        await go_on.wait()

    worker = app.worker("w")
    worker.register_workflow(once)
    async with worker:
        first = await once.aio_run_no_wait({})
        await began.wait()
        with pytest.raises(RunCancelled, match="concurrency: at most 1 run of once at once"):
            await once.aio_run({}, timeout=PATIENCE)
        go_on.set()
        assert await first.result(PATIENCE) == {"once": None}
    await app.admin.aio.close()

"""Typed input, limits that cancel, models that are loaded once, and tasks: over real servers."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ganger import Task

from . import orders_app
from .fleet import Fleet, until_busy
from .processes import Process, ganger_json
from .publisher import publisher

PATIENCE = 30.0


async def worker(fleet: Fleet, name: str, slots: int = 2, **labels: int | str) -> Process:
    flags = [f"--label={key}={json.dumps(value)}" for key, value in labels.items()]
    words = ("worker", "tests.e2e.orders_app:app", "--name", name, f"--slots={slots}", *flags)
    return await fleet.start(name, *words, until="worker registered")


@pytest.fixture
async def asking(broker_url: str, prefix: str) -> AsyncIterator[None]:
    """The program's tasks may be asked for here, where no worker runs."""
    app = orders_app.app
    before = app.settings
    app.settings = before.model_copy(update={"broker_url": broker_url, "prefix": prefix})
    yield
    await app.admin.aio.close()
    await asyncio.to_thread(app.close)
    app.settings = before


async def test_a_bad_trigger_is_dead_lettered_at_once_and_good_ones_go_on(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    await worker(fleet, "cold", gpu=0)
    await worker(fleet, "warm", gpu=1)
    with publisher(broker_url, prefix) as program:
        program.trigger("shop", "bad", input={"name": "a" * 40 + "!", "numberOfSeats": 2})
        _, result = program.result()
        assert result["error"]["reason"] == "INVALID_INPUT"
        assert result["error"]["message"].startswith("$.input.name: 'aaaa")
        assert await ganger_json("runs", **fleet.environment) == []
        headers, _ = program.dead()
        assert headers["ganger-reason"] == "invalid_input"
        program.trigger("shop", "odd", input={"name": "aaa", "numberOfSeats": 3})
        _, result = program.result()
        assert result["error"]["reason"] == "INVALID_INPUT"
        assert "$.input.numberOfSeats: " in result["error"]["message"]
        assert "seats are sold in pairs" in result["error"]["message"]
        headers, body = program.dead()
        assert headers["ganger-reason"] == "invalid_input"
        assert headers["ganger-detail"] == result["error"]["message"]
        assert json.loads(body)["input"] == {"name": "aaa", "numberOfSeats": 3}
        program.trigger("shop", "good", input={"name": "aaa", "numberOfSeats": 2})
        _, result = program.result()
    assert result["output"] == {"price": {"totalPrice": 5.0}, "tell": 5.0}


@pytest.mark.parametrize(("workflow", "left"), [("newest", "one"), ("oldest", "two")])
async def test_limits_cancel_with_required_labels_and_a_lost_worker(
    fleet: Fleet, broker_url: str, prefix: str, tmp_path: Path, workflow: str, left: str
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    await fleet.dispatcher()
    await worker(fleet, "cold", gpu=0)
    lost = await worker(fleet, "lost", gpu=1)
    given = {"key": "x", "until": str(tmp_path / "done")}
    with publisher(broker_url, prefix) as program:
        program.trigger(workflow, "one", run_id="one", input=given)
        await until_busy(fleet, "one")
        program.trigger(workflow, "two", run_id="two", input=given)
        came_for, result = program.result()
        assert (came_for, result["status"]) == ({"one": "two", "two": "one"}[left], "cancelled")
        await until_busy(fleet, left)
        lost.signal(signal.SIGKILL)
        await worker(fleet, "next", gpu=1)
        came_for, result = program.result()
    assert (came_for, result["status"], result["output"]) == (left, "succeeded", {"step": "next"})


async def test_a_model_is_loaded_once_and_again_when_its_worker_is_lost(
    fleet: Fleet, asking: None
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    await fleet.dispatcher()
    for name in ("a", "b"):
        await worker(fleet, name, slots=1, gpu=1)
    await worker(fleet, "none", slots=1, gpu=0)
    describe: Task = orders_app.describe
    wish = {"gpu": 1}
    ran = await describe.aio_run_many(
        [{"model": "vision"}] * 5, desired_worker_labels=wish, timeout=PATIENCE
    )
    [first] = {where.partition(",")[0] for where in ran}
    assert sorted(ran) == [first] * 4 + [f"{first}, which loaded it"]
    fleet.processes[first].signal(signal.SIGKILL)
    again = await describe.aio_run(
        {"model": "vision"}, desired_worker_labels=wish, timeout=PATIENCE
    )
    [other] = {"a", "b"} - {first}
    assert again == f"{other}, which loaded it"


async def test_tasks_run_blocking_awaited_and_in_the_one_slot_of_a_step(
    fleet: Fleet, asking: None
) -> None:
    await fleet.dispatcher()
    await worker(fleet, "cold", gpu=0)
    await worker(fleet, "gpu", slots=1, gpu=1)
    double, doubles = orders_app.double, orders_app.doubles
    assert await asyncio.to_thread(double.run, {"n": 1}, timeout=PATIENCE) == 2
    many = [{"n": n} for n in range(4)]
    assert await asyncio.to_thread(double.run_many, many, timeout=PATIENCE) == [0, 2, 4, 6]
    assert await double.aio_run({"n": 2}, timeout=PATIENCE) == 4
    assert await doubles.aio_run({"numbers": [1, 2]}, timeout=PATIENCE) == [2, 4]

"""Schedules as users declare them and ask for them, in one process."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ganger import Context, Cron, Ganger, InvalidInput, InvalidLabel, InvalidWorkflow
from ganger.workflow import declaration_of
from ganger_broker.codec import JSON, MSGPACK, decode_schedule, encode
from ganger_broker.errors import MalformedMessage

PATIENCE = 20.0
LATER = timedelta(hours=1)


@pytest.mark.parametrize(
    ("crons", "said"),
    [
        ("* * * * *", r"on_crons: '\* \* \* \* \*' must be a list"),
        (Cron("* * * * *"), "on_crons: Cron"),
        ([7], r"on_crons\[0\]: 7 must be a cron expression or Cron"),
        (["* * *"], r"on_crons\[0\]\.expression: '\* \* \*' is no cron expression"),
        (["* * * * *", "0 0 31 2 *"], r"on_crons\[1\]\.expression: '0 0 31 2 \*'"),
        (
            ["*/61 * * * *"],
            r"on_crons\[0\]\.expression: '\*/61 \* \* \* \*': the step 61 of the minutes",
        ),
        (["0 0-12/3,5/25 * * *"], ".*: the step 25 of the hours must be 1 to 24"),
        (["0 0 */32 * *"], ".*: the step 32 of the days must be 1 to 31"),
        (["0 0 1 */13 *"], ".*: the step 13 of the months must be 1 to 12"),
        (["0 0 * * */8"], ".*: the step 8 of the days of the week must be 1 to 7"),
        (["*/99 * * * * *"], ".*: the step 99 of the seconds must be 1 to 60"),
        (["* * * * *", Cron("* * * * *")], r"on_crons\[1\]: '\* \* \* \* \*' is there twice"),
        (
            [Cron("* * * * *", input={"n": n}) for n in (1, True, 1.0, True)],
            r"on_crons\[3\]: '\* \* \* \* \*' is there twice",
        ),
        ([Cron("* * * * *", "Berlin")], r"on_crons\[0\]\.timezone: 'Berlin' must be a name"),
        ([Cron("* * * * *", missed="all")], r"on_crons\[0\]\.missed: Invalid enum value 'all'"),
        ([Cron("* * * * *", priority=9)], r"on_crons\[0\]\.priority: Expected `int` <= 3"),
        ([Cron("* * * * *", input={"a": object()})], r"on_crons\[0\]\.input\.a"),
        (["* * * * *"] * 101, "on_crons: at most 100, these are 101"),
    ],
)
def test_a_bad_cron_is_refused_where_it_is_declared(app: Ganger, crons: Any, said: str) -> None:
    with pytest.raises(InvalidWorkflow, match="workflow 'tick': " + said):

        @app.task(on_crons=crons)
        async def tick(input: Any, context: Context) -> None: ...


def test_a_bad_desired_label_of_a_cron_is_refused(app: Ganger) -> None:
    cron = Cron("* * * * *", desired_worker_labels={"gpu": None})
    with pytest.raises(InvalidLabel, match=r"on_crons\[0\]\.desired_worker_labels\.gpu"):

        @app.task(on_crons=[cron])
        async def tick(input: Any, context: Context) -> None: ...


@pytest.mark.parametrize("cron", ["*/60 * * * *", "*/60 */60 0-20/24 */31 */12 */7"])
def test_the_largest_steps_are_taken(app: Ganger, cron: str) -> None:
    @app.task(on_crons=[cron])
    async def tick(input: Any, context: Context) -> None: ...

    assert declaration_of(tick).definition.on_crons == [Cron(cron)]


def test_crons_are_in_the_definition(app: Ganger) -> None:
    daily = Cron("0 9 * * *", "Europe/Berlin", {"n": 1}, missed="catch_up")  # type: ignore[arg-type]

    @app.workflow(on_crons=["* * * * *", daily])
    class Tick:
        @app.step()
        async def tick(self, context: Context) -> None: ...

    first, second = declaration_of(Tick).definition.on_crons
    assert first == Cron("* * * * *")
    assert (second.timezone, second.input, second.missed) == ("Europe/Berlin", {"n": 1}, "catch_up")


@pytest.mark.parametrize("at", [datetime(2027, 1, 1), "2027-01-01", 7])  # noqa: DTZ001
async def test_a_time_has_a_time_zone(app: Ganger, at: Any) -> None:
    with pytest.raises(InvalidInput, match=r"at\[1\]: .* must be a datetime with a time zone"):
        await app.admin.aio.schedule_workflow("w", [datetime.now(UTC), at])


OUTSIDE = ["0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59+00:00", "9999-12-31T23:59:59-14:00"]


@pytest.mark.parametrize("at", OUTSIDE)
async def test_a_time_beyond_what_clocks_say_is_refused(app: Ganger, at: str) -> None:
    with pytest.raises(InvalidInput, match=r"at\[0\]: .* must be in the years 1970 to 9998"):
        await app.admin.aio.schedule_workflow("w", datetime.fromisoformat(at))


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize("at", OUTSIDE)
def test_a_message_with_such_a_time_is_refused(at: str, kind: str) -> None:
    request = {"workflow": "w", "at": ["2027-01-01T09:00:00+01:00", at]}
    with pytest.raises(
        MalformedMessage, match=r"\$\.at\[1\]: .* must be in the years 1970 to 9998"
    ):
        decode_schedule(encode(request, kind), kind, 1000)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule_id": "a b"}, "schedule_id: 'a b' must be 1 to 120 letters"),
        ({"priority": 4}, "priority: 4 must be 1, 2 or 3"),
    ],
)
async def test_what_is_wrong_is_named(app: Ganger, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        await app.admin.aio.schedule_workflow("w", datetime.now(UTC), **fields)


async def test_runs_at_given_times_on_the_worker_they_require(app: Ganger) -> None:
    ran: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    @app.task(desired_worker_labels={"gpu": 1})
    async def remind(input: dict[str, Any], context: Context) -> None:
        ran.put_nowait((context.worker.name(), context.additional_metadata()["schedule"]))

    no_gpu, gpu = app.worker("none"), app.worker("gpu", labels={"gpu": 1})
    for worker in (no_gpu, gpu):
        worker.register_workflow(remind)
    async with no_gpu, gpu:
        soon = datetime.now(UTC) + timedelta(milliseconds=50)
        asked = await app.admin.aio.schedule_workflow(remind, [soon, soon], schedule_id="twice")
        assert asked == ["twice-1", "twice-2"]
        async with asyncio.timeout(PATIENCE):
            came = {await ran.get(), await ran.get()}
        assert came == {("gpu", "twice-1"), ("gpu", "twice-2")}
        assert await app.admin.aio.list_schedules() == []
    await app.admin.aio.close()


def test_listed_and_deleted_by_a_program_without_a_loop(app: Ganger) -> None:
    @app.task(on_crons=["0 0 1 1 *"])
    async def yearly(input: dict[str, Any], context: Context) -> None: ...

    worker = app.worker("w")
    worker.register_workflow(yearly)
    with worker:
        at = datetime.now(UTC) + LATER
        assert app.admin.schedule_workflow("yearly", at, schedule_id="once") == ["once"]
        once, cron = app.admin.list_schedules()
        assert (once.schedule_id, once.next_at) == ("once", round(at.timestamp() * 1000))
        assert (cron.workflow, cron.expression) == ("yearly", "0 0 1 1 *")
        app.admin.delete_schedule("once")
        assert app.admin.list_schedules() == [cron]
        with pytest.raises(InvalidInput, match="there is no schedule 'once'"):
            app.admin.delete_schedule("once")
        with pytest.raises(InvalidInput, match="belongs to workflow 'yearly', as on_crons says"):
            app.admin.delete_schedule(cron.schedule_id)

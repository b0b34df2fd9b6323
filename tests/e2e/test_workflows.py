"""Workflows of several steps and of several runs, over real servers and real processes."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgpack

from .fleet import Fleet, name_of, until, until_busy
from .processes import ganger, ganger_json
from .publisher import publisher


async def test_children_of_a_lost_worker_run_again_and_their_parent_in_one_slot_gets_them(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    await fleet.dispatcher()
    await fleet.worker("parent", {"role": "parent"}, slots=1)
    await fleet.worker("lost", {"role": "child"}, slots=3)
    with publisher(broker_url, prefix) as program:
        program.trigger("split", "it", run_id="it", input={"parts": 3, "until": "/never"})
        await children_run(fleet, 3)
        await fleet.worker("spare", {"role": "child"}, slots=3)
        fleet.processes["lost"].signal(signal.SIGKILL)
        _, result = program.result()
    assert result["status"] == "succeeded"
    assert [name_of(worker) for worker in result["output"]["split"]] == ["spare"] * 3


async def test_cancelling_a_run_reaches_its_children_on_other_workers(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    await fleet.worker("parent", {"role": "parent"}, slots=1)
    await fleet.worker("child", {"role": "child"}, slots=2)
    with publisher(broker_url, prefix) as program:
        program.trigger("split", "it", run_id="it", input={"parts": 3, "until": "/never"})
        await children_run(fleet, 2)
        assert (await ganger("cancel", "it", **fleet.environment))[0] == 0
        _, result = program.result()
        assert result["status"] == "cancelled"
        runs = await ganger_json("runs", **fleet.environment)
        assert {run["status"] for run in runs} == {"cancelled"}
        assert len(runs) == 4
        # their slots are free again
        program.trigger("where", "after", desired_worker_labels={"role": "child"})
        _, result = program.result()
    assert result["status"] == "succeeded"


async def test_a_lost_parent_finds_its_children_again_whoever_leads(
    fleet: Fleet, broker_url: str, prefix: str, tmp_path: Path
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    done = tmp_path / "done"
    first = await fleet.dispatcher("first")
    await fleet.worker("parent", {"role": "parent"}, slots=1)
    await fleet.worker("child", {"role": "child"}, slots=2)
    with publisher(broker_url, prefix) as program:
        program.trigger("split", "it", run_id="it", input={"parts": 2, "until": str(done)})
        await children_run(fleet, 2)
        await fleet.dispatcher("second", until="standing_by")
        first.signal(signal.SIGTERM)
        await fleet.processes["second"].says("leading")
        fleet.processes["parent"].signal(signal.SIGKILL)
        await fleet.worker("heir", {"role": "parent"}, slots=1)
        await until(fleet, lambda workers: any(holds(w, "it/split/2") for w in workers))
        done.touch()
        _, result = program.result()
        runs = await ganger_json("runs", **fleet.environment)
    assert result["status"] == "succeeded"
    assert [name_of(worker) for worker in result["output"]["split"]] == ["child"] * 2
    assert sorted(run["parent"] or "" for run in runs) == ["", "it/split", "it/split"]
    assert {run["steps"].get("long", {}).get("attempt", 1) for run in runs} == {1}


def holds(worker: dict, attempt: str) -> bool:
    return attempt in worker["attempts"]


async def children_run(fleet: Fleet, count: int) -> None:
    """Until so many children of the run ``it`` have begun."""

    def running(runs: list[dict]) -> int:
        return sum(run["parent"] == "it/split" and is_running(run) for run in runs)

    def is_running(run: dict) -> bool:
        return run["steps"]["long"]["status"] == "running"

    async with asyncio.timeout(30):
        while running(await ganger_json("runs", **fleet.environment)) < count:
            pass


async def test_a_step_that_its_worker_does_not_end_is_timed_out_by_the_dispatcher(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    """A process that is held up ends nothing; that its worker lives is said for it here."""
    await fleet.dispatcher()
    process = await fleet.worker("deaf", {}, slots=1)
    [worker] = await ganger_json("workers", **fleet.environment)
    with publisher(broker_url, prefix) as program:
        program.trigger("short", "it", run_id="it")
        await until_busy(fleet, "it")
        who = {"worker": worker["id"], "incarnation": worker["incarnation"]}
        body = msgpack.packb([{"type": "heartbeat", **who, "attempts": ["it/short/1"]}])
        process.signal(signal.SIGSTOP)
        try:
            for _ in range(30):
                key = f"event.{worker['id']}"
                program.publish(key, body, content_type="application/msgpack")
                if (result := program.result_within(1)) is not None:
                    break
        finally:
            process.signal(signal.SIGCONT)
    assert result is not None
    assert result["status"] == "failed"
    assert result["error"]["reason"] == "TIMED_OUT"
    assert "did not end it within its timeout" in result["error"]["message"]


async def test_a_branch_is_tried_again_and_lost_and_ends_where_its_labels_are(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    """Its own time-out is as short as the silence of a lost worker: it costs no retry."""
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    first = await fleet.dispatcher("first")
    await fleet.worker("cpu", {"kind": "cpu"})
    await fleet.worker("lost", {"kind": "gpu"})
    with publisher(broker_url, prefix) as program:
        program.trigger("picture", "it", run_id="it")
        await until_busy(fleet, "it")
        await fleet.worker("spare", {"kind": "gpu"})
        await fleet.dispatcher("second", until="standing_by")
        first.signal(signal.SIGKILL)
        fleet.processes["lost"].signal(signal.SIGKILL)
        _, result = program.result()
        [run] = await ganger_json("runs", **fleet.environment)
    assert result["status"] == "succeeded"
    caption, thumb, publish = result["output"]["publish"]
    assert caption["parts"] == [1, 2]
    assert [name_of(each) for each in (caption["worker"], thumb, publish)] == [
        "spare",
        "cpu",
        "cpu",
    ]
    step = run["steps"]["caption"]
    assert (step["attempt"], step.get("failures"), step.get("losses")) == (3, 1, 1)


async def test_a_pinned_run_is_pinned_anew_with_all_its_branches_and_says_how_it_failed(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    await fleet.dispatcher()
    await fleet.worker("lost", {"kind": "gpu"})
    with publisher(broker_url, prefix) as program:
        program.trigger("pinned", "it", run_id="it")
        await until(
            fleet, lambda workers: {"a", "b"} <= {key for w in workers for key in w["labels"]}
        )
        fleet.processes["lost"].signal(signal.SIGKILL)
        await until(fleet, lambda workers: not workers)
        for name in ("one", "two"):
            await fleet.worker(name, {"kind": "gpu"}, slots=1)
        _, result = program.result()
    assert result["status"] == "failed"
    assert result["error"]["type"] == "NonRetryable"
    assert "raise NonRetryable" in result["error"]["traceback"]
    told = result["output"]["tell"]
    assert set(told["errors"]) == {"a", "b"}
    assert {told["worker"], *told["errors"].values()} == {told["worker"]}


async def test_limits_hold_across_a_lost_leader_and_a_lost_worker(
    fleet: Fleet, broker_url: str, prefix: str, tmp_path: Path
) -> None:
    fleet.environment |= {"GANGER_WORKER_TIMEOUT": "2s", "GANGER_HEARTBEAT_INTERVAL": "250ms"}
    fleet.environment |= {"GANGER_LEASE": "1s"}
    leader = await fleet.dispatcher("leader")
    standby = await fleet.dispatcher("standby", until="standing_by")
    await fleet.worker("lost", {"role": "gpu"})
    await fleet.worker("other", {"role": "cpu"})
    with publisher(broker_url, prefix) as program:
        for run, until in (("first", "/never"), ("second", str(tmp_path))):
            given = {"customer": "x", "until": until}
            program.trigger("limited", run, run_id=run, input=given)
        await until_busy(fleet, "first")
        leader.signal(signal.SIGKILL)
        await standby.says("leading")
        turn = 'concurrency: at most 1 run of limited with customer = "x" at once'
        assert await waits_for(fleet, "second/long") == ("waiting", turn)
        fleet.processes["lost"].signal(signal.SIGKILL)
        await fleet.worker("heir", {"role": "gpu"})
        results = [program.result() for _ in range(2)]
        assert [run for run, _ in results] == ["first", "second"]
        ran_on = [name_of(result["output"]["long"]["worker"]) for _, result in results]
        assert ran_on == ["heir", "heir"]
        # two attempts of the first run, one of the second: that was today's quota
        program.trigger("limited", "third", run_id="third", input={"customer": "y"})
        program.trigger("where", "after")
        assert program.result()[0] == "after"
        quota = "rate limit 'quota': 3 per 86400 s"
        assert await waits_for(fleet, "third/long") == ("pending", quota)


async def waits_for(fleet: Fleet, step_run: str) -> tuple[str, str]:
    """The status of a step run, and what holds it up."""
    found = await ganger_json("explain", step_run, **fleet.environment)
    return found["status"], found["waits_for"]


async def test_each_tick_has_one_run_whoever_dies(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    fleet.environment |= {"GANGER_LEASE": "1s"}
    leader = await fleet.dispatcher("leader")
    standby = await fleet.dispatcher("standby", until="standing_by")
    await fleet.worker("eu", {"zone": "eu"}, slots=50)
    await fleet.worker("us", {"zone": "us"}, slots=50)
    begin = datetime.now(UTC) + timedelta(seconds=1)
    times = [begin + timedelta(milliseconds=100 * number) for number in range(60)]
    with publisher(broker_url, prefix) as program:
        request = {
            "workflow": "where",
            "at": [at.isoformat() for at in times],
            "schedule_id": "it",
            "desired_worker_labels": {"zone": "eu"},
        }
        for _ in range(2):  # a program that is not sure asks again
            program.publish("schedule.where", request, reply_to=program.replies)
            _, answer = program.result()
            assert len(answer["schedules"]) == 60
        await until_runs(fleet, 15)
        leader.signal(signal.SIGKILL)
        await standby.says("leading")
        await until_runs(fleet, 60)
        program.publish("schedule.where", request, reply_to=program.replies)  # once more, late
        program.result()
        program.trigger("where", "after", desired_worker_labels={"zone": "eu"})
        assert program.result()[0] == "after"
    runs = await ganger_json("runs", "--limit", "200", **fleet.environment)
    ticks = [run for run in runs if "schedule" in run["metadata"]]
    assert {run["metadata"]["schedule"] for run in ticks} == {f"it-{n}" for n in range(1, 61)}
    assert len(ticks) == 60
    assert {name_of(run["steps"]["where"]["worker"]) for run in ticks} == {"eu"}
    assert await ganger_json("schedules", **fleet.environment) == []


async def until_runs(fleet: Fleet, count: int) -> None:
    """Until so many runs have ended."""
    async with asyncio.timeout(60):
        while True:
            runs = await ganger_json("runs", "--limit", "200", **fleet.environment)
            if sum(run["status"] == "succeeded" for run in runs) >= count:
                return

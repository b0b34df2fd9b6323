"""One dispatcher, three labelled workers, all real processes; triggers are raw JSON."""

import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from ganger_broker.labels import Requirement, parse_desired
from tests.unit.placement.oracle import OracleWorker, eligible, rank

from .fleet import Fleet, name_of, until, until_busy
from .processes import ganger, ganger_json
from .publisher import publisher

FLEET = {
    "gpu": {"model": "fancy-vision-model", "memory": 512, "region": "fra", "count": "7"},
    "big": {"model": "other-model", "memory": 1024, "region": "iad", "disk": 2.5},
    "small": {"memory": 64, "region": "fra"},
}


async def start_all(fleet: Fleet) -> None:
    await fleet.dispatcher()
    for name, labels in FLEET.items():
        await fleet.worker(name, labels)
    await until(fleet, lambda workers: len(workers) == len(FLEET))


def best(desired: dict) -> set[str]:
    """Who may get it, by the oracle: the best of an idle fleet, load and idleness aside."""
    conditions = [c for group in parse_desired(desired).values() for c in group]
    requirement = Requirement.of("where:where", conditions)
    workers = [
        OracleWorker(name, labels, frozenset({"where:where"}), 2, 0, True, 0)
        for name, labels in FLEET.items()
    ]
    able = {w.id: rank(w, requirement)[:2] for w in workers if eligible(w, requirement)}
    return {name for name, rank in able.items() if rank == min(able.values())}


CASES: list[dict] = [
    {},
    {"model": "fancy-vision-model"},
    {"model": {"value": "fancy-vision-model", "weight": 10}},
    {"model": {"value": "nobody-has-it", "weight": 10}},
    {"model": {"value": "fancy-vision-model", "comparator": "NOT_EQUAL"}},
    {"memory": {"value": 512, "comparator": "GREATER_THAN"}},
    {"memory": {"value": 512.0, "comparator": "EQUAL"}},
    {"memory": {"value": 512, "comparator": "GREATER_THAN_OR_EQUAL"}},
    {"memory": {"value": 100, "comparator": "LESS_THAN"}},
    {"memory": {"value": 64, "comparator": "LESS_THAN_OR_EQUAL"}},
    {
        "memory": [
            {"value": 64, "comparator": "GREATER_THAN"},
            {"value": 1024, "comparator": "LESS_THAN"},
        ]
    },
    {"region": {"value": ["iad", "sin"], "comparator": "IN"}},
    {"region": {"value": ["fra", 7], "comparator": "NOT_IN"}},
    {"disk": {"comparator": "EXISTS"}},
    {"model": {"comparator": "NOT_EXISTS"}},
    {"region": {"value": "g", "comparator": "GREATER_THAN"}},
    {"count": "7"},
    {"region": "fra", "memory": {"value": 100, "comparator": "LESS_THAN", "weight": 1}},
    {
        "model": {"value": "other-model", "weight": 10},
        "region": {"value": "fra", "weight": 6},
        "memory": {"value": 600, "comparator": "LESS_THAN", "weight": 6},
    },
]


async def test_every_step_lands_where_the_truth_table_says(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await start_all(fleet)
    with publisher(broker_url, prefix) as program:
        for number, desired in enumerate(CASES):
            program.trigger("where", f"case-{number}", desired_worker_labels=desired)
            came_for, result = program.result()
            assert came_for == f"case-{number}"
            assert result["status"] == "succeeded", result
            assert name_of(result["output"]["where"]["worker"]) in best(desired), desired


async def test_a_step_nobody_can_take_waits_is_explained_and_goes_when_a_worker_comes(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await start_all(fleet)
    desired = {"memory": {"value": 2000, "comparator": "GREATER_THAN"}, "region": "sin"}
    with publisher(broker_url, prefix) as program:
        program.trigger("where", "late", run_id="late", desired_worker_labels=desired)
        program.trigger("where", "soon")
        assert program.result()[0] == "soon"  # what nobody can take holds nobody up
        found = await ganger_json("explain", "late/where", **fleet.environment)
        assert found["verdict"] == "never with this fleet"
        assert [worker["eligible"] for worker in found["workers"]] == [False] * 3
        await fleet.worker("huge", {"memory": 4096, "region": "sin"})
        came_for, result = program.result()
        assert came_for == "late"
        assert name_of(result["output"]["where"]["worker"]) == "huge"


async def test_a_model_swap_inside_a_step_routes_the_next_one_there(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    await fleet.worker("cold-1", {"memory": 512})
    await fleet.worker("cold-2", {"memory": 512})
    with publisher(broker_url, prefix) as program:
        ran = []
        for number in range(6):
            program.trigger("warm", str(number))
            ran.append(program.result()[1]["output"]["warm"])
    assert [step["loaded"] for step in ran] == [True] + [False] * 5
    assert len({step["worker"] for step in ran}) == 1


async def test_a_killed_workers_step_runs_again_elsewhere(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    fleet.environment |= {
        "GANGER_WORKER_TIMEOUT": "2s",
        "GANGER_HEARTBEAT_INTERVAL": "250ms",
    }
    await fleet.dispatcher()
    await fleet.worker("first", {"rank": 1})
    with publisher(broker_url, prefix) as program:
        program.trigger("long", "it", run_id="it", input={"until": "/never"})
        await until_busy(fleet, "it")
        await fleet.worker("second", {"rank": 2})
        fleet.processes["first"].signal(signal.SIGKILL)
        _, result = program.result()
    assert result["status"] == "succeeded"
    assert name_of(result["output"]["long"]["worker"]) == "second"
    [run] = await ganger_json("runs", **fleet.environment)
    assert run["steps"]["long"]["losses"] == 1
    assert run["steps"]["long"]["attempt"] == 2


async def test_a_running_step_is_cancelled(fleet: Fleet, broker_url: str, prefix: str) -> None:
    await fleet.dispatcher()
    await fleet.worker("only", {}, slots=1)
    with publisher(broker_url, prefix) as program:
        program.trigger("long", "long", run_id="long", input={"until": "/never"})
        await until_busy(fleet, "long")
        program.trigger("where", "waits", run_id="waits")
        program.trigger("where", "gone", run_id="gone")
        assert (await ganger("cancel", "gone", **fleet.environment))[0] == 0
        came_for, result = program.result()
        assert (came_for, result["status"]) == ("gone", "cancelled")
        program.publish("cancel.long", {"run_id": "long", "reason": "enough"})
        results = dict(program.result() for _ in range(2))
    assert results["long"]["status"] == "cancelled"
    assert results["long"]["error"]["message"] == "enough"
    assert results["waits"]["status"] == "succeeded"  # its slot was free again


async def test_sigterm_lets_a_running_step_end_and_gives_no_new_one(
    fleet: Fleet, broker_url: str, prefix: str, tmp_path: Path
) -> None:
    await fleet.dispatcher()
    worker = await fleet.worker("leaving", {}, slots=2)
    with publisher(broker_url, prefix) as program:
        done = tmp_path / "done"
        program.trigger("long", "begun", run_id="begun", input={"until": str(done)})
        await until_busy(fleet, "begun")
        worker.signal(signal.SIGTERM)
        await until(fleet, lambda workers: workers[0]["state"] == "draining")
        program.trigger("where", "later")
        done.touch()
        came_for, result = program.result()
        assert (came_for, result["status"]) == ("begun", "succeeded")
        assert await worker.ended() == 0
        await fleet.worker("next", {})
        came_for, result = program.result()
    assert came_for == "later"
    assert name_of(result["output"]["where"]["worker"]) == "next"


@pytest.mark.parametrize("later", [0.0, 0.01, 0.03])
async def test_a_second_signal_to_who_leaves_already_changes_nothing(
    fleet: Fleet, later: float
) -> None:
    leaving = {"left": await fleet.worker("w", {}), "resigned": await fleet.dispatcher()}
    for said, process in leaving.items():
        process.signal(signal.SIGTERM)
        await process.says(said)
        await asyncio.sleep(later)
        with suppress(ProcessLookupError):  # it is gone
            process.signal(signal.SIGINT)
        assert await process.ended() == 0
        assert not [line for line in process.lines if "Traceback" in line]


async def test_of_two_processes_with_one_id_the_first_ends_and_says_why(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    words = ("worker", "tests.e2e.fleet_app:app", "--id=the-one")
    first = await fleet.start("first", *words, until="worker registered")
    await until(fleet, bool)
    second = await fleet.start("second", *words, until="worker registered")
    assert await first.ended() == 2
    assert "worker id 'the-one': another process has registered with it" in "\n".join(first.lines)
    with publisher(broker_url, prefix) as program:
        program.trigger("where", "r")
        assert program.result()[1]["output"]["where"]["worker"] == "the-one"
    assert second.process.returncode is None


async def test_a_standby_takes_over_with_everything(
    fleet: Fleet, broker_url: str, prefix: str, tmp_path: Path
) -> None:
    fleet.environment |= {"GANGER_LEASE": "1s"}
    leader = await fleet.dispatcher("leader")
    standby = await fleet.dispatcher("standby", until="standing_by")
    await fleet.worker("only", {"memory": 1}, slots=1)
    with publisher(broker_url, prefix) as program:
        done = tmp_path / "done"
        program.trigger("long", "long", run_id="long", input={"until": str(done)})
        await until_busy(fleet, "long")
        program.trigger("plain", "waits", run_id="waits")
        leader.signal(signal.SIGKILL)
        await standby.says("leading")
        program.trigger("plain", "new")
        done.touch()
        results = dict(program.result() for _ in range(3))
    assert {name: result["status"] for name, result in results.items()} == {
        "long": "succeeded",
        "waits": "succeeded",
        "new": "succeeded",
    }
    [long] = [
        run for run in await ganger_json("runs", **fleet.environment) if run["run_id"] == "long"
    ]
    assert long["steps"]["long"].get("attempt", 1) == 1  # it was not run again


BAD = [
    (b"{", "application/json", "malformed", "$"),
    (b'{"workflow": "where", "priority": 9}', "application/json", "malformed", "$.priority"),
    (
        b'{"workflow": "where", "desired_worker_labels": {"memory": {"comparator": "MORE"}}}',
        "application/json",
        "malformed",
        "$.desired_worker_labels.memory.comparator",
    ),
    (b"\xc1", "application/msgpack", "malformed", "$"),
    (b'{"workflow": "where"}', "text/plain", "malformed", "text/plain"),
    (b'{"workflow": "nobodys"}', "application/json", "unknown_workflow", "nobodys"),
    (
        b'{"workflow": "where", "input": {"x": "' + b"x" * 2000 + b'"}}',
        "application/json",
        "oversized",
        "1024",
    ),
]


async def test_a_standby_that_could_not_lead_says_so_at_once(fleet: Fleet) -> None:
    await fleet.dispatcher()
    status, text = await ganger("dispatcher", "--queue-type", "classic", **fleet.environment)
    assert status not in (0, None)
    assert "GANGER_QUEUE_TYPE (--queue-type) must be the same for a whole deployment" in text


async def test_what_cannot_be_taken_is_dead_lettered_counted_and_answered(
    fleet: Fleet, broker_url: str, redis_url: str, prefix: str
) -> None:
    fleet.environment |= {"GANGER_MAX_MESSAGE_BYTES": "1024"}
    await fleet.dispatcher()
    with publisher(broker_url, prefix) as program:
        for number, (body, kind, reason, words) in enumerate(BAD):
            program.publish(
                "trigger.where",
                body,
                content_type=kind,
                reply_to=program.replies,
                correlation_id=str(number),
            )
            came_for, result = await asyncio.to_thread(program.result)
            assert (came_for, result["status"]) == (str(number), "failed")
            assert words in result["error"]["message"]
            headers, dead = program.dead()
            assert headers["ganger-reason"] == reason
            assert words in headers["ganger-detail"]
            assert (
                json.loads(dead) == json.loads(body)
                if reason == "unknown_workflow"
                else dead == body
            )
    with redis.Redis.from_url(redis_url) as client:
        stats = client.hgetall(f"{prefix}:stats")
    assert int(stats[b"messages_dead"]) == len(BAD)
    assert int(stats[b"messages_dead:malformed"]) == 5


async def test_a_trigger_may_come_before_its_workers(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    fleet.environment |= {"GANGER_HOLD": "30s"}
    await fleet.dispatcher()
    with publisher(broker_url, prefix) as program:
        program.trigger("where", "early", run_id="early")
        program.trigger("where", "again", run_id="early")
        await fleet.worker("late", {})
        results = dict(program.result() for _ in range(2))
    assert results["early"]["run_id"] == results["again"]["run_id"] == "early"
    assert len(await ganger_json("runs", **fleet.environment)) == 1


async def test_an_event_of_any_amqp_client_starts_a_run_once(
    fleet: Fleet, broker_url: str, prefix: str
) -> None:
    await fleet.dispatcher()
    await fleet.worker("eu", {"zone": "eu"})
    await fleet.worker("us", {"zone": "us"})
    with publisher(broker_url, prefix) as program:
        event = {"payload": {"n": 1}, "event_id": "e1", "desired_worker_labels": {"zone": "us"}}
        for name in ("first", "again"):
            program.publish(
                "event-push.place:of:work", event, reply_to=program.replies, correlation_id=name
            )
        results = dict(program.result() for _ in range(2))
        program.publish("event-push.nobody:waits", {})
        program.publish("event-push.place:x", {"payload": 1})
        headers, _ = program.dead()
    assert results["first"] == results["again"]
    assert results["first"]["output"]["where"]["labels"] == {"zone": "us"}
    assert headers["ganger-detail"].startswith("$.payload: ")
    [run] = await ganger_json("runs", **fleet.environment)
    assert (run["input"], run["metadata"]) == ({"n": 1}, {"event": "place:of:work"})

"""Steps that are given other machines: whether old replicas may stay until new ones are there."""

import pytest
from msgspec.structs import replace

from ganger import Compute, Ganger
from ganger.compute.deploying import deployment_of, plan_of
from ganger.compute.replacing import launch_of, may_stay, same_versions
from ganger_broker.deployments import Deployment, ReplicaRecord, ReplicaState


def deployed(memory: int, version: str) -> Deployment:
    """Of two workflows: of one the first step has so much memory, the other is always the same."""
    app = Ganger(broker_url="memory://replacing")
    flow = app.workflow(name="flow", version=version)
    always = Compute("shared", 1, 1024, regions=["fra"])
    flow.task("a", compute=Compute("shared", 1, memory, regions=["fra"]))(lambda input, context: 1)
    flow.task("b", compute=always)(lambda input, context: 1)
    app.task("other", compute=always)(lambda input, context: 1)
    given = {"name": "d", "on": "local", "now": 1, "slots": 2, "folder": ""}
    return deployment_of(app, "tasks:app", **given)  # type: ignore[arg-type]


def replicas_of(deployment: Deployment, memory: int | None = None) -> list[ReplicaRecord]:
    """Its replicas, all running; or those of the pool with so much memory."""
    return [
        ReplicaRecord(
            *(place.worker_id("d"), place.pool, place.number, place.region, ReplicaState.RUNNING),
            since=0,
            launch=launch_of(deployment, place.pool),
            served=True,
        )
        for place in plan_of(deployment).replicas
        if memory is None or f"{memory}mb" in place.pool
    ]


def test_they_stay_where_the_workflow_has_another_version() -> None:
    [old] = replicas_of(deployed(256, "1"), 256)
    assert may_stay(old, deployed(512, "2"))
    assert same_versions(deployed(512, "2"), [old]) == []


def test_they_drain_first_where_it_has_the_same_for_new_ones_would_be_refused() -> None:
    there, second = replicas_of(deployed(256, "1")), deployed(512, "1")
    [old] = replicas_of(deployed(256, "1"), 256)
    assert not may_stay(old, second)
    [said] = same_versions(second, there)
    assert said.startswith("workflow 'flow' has other machines and the version that it had: ")
    assert "replicas of shared-1cpu-1024mb-fra stay, and keep new ones from registering" in said
    assert same_versions(replace(second, on="fly"), there) == []
    [said] = same_versions(second, [old])
    assert "replicas of its old ones drain before new ones can register" in said


def test_what_counts_is_what_is_there_and_not_what_was_deployed_last() -> None:
    """It never came up: say a version 2 that was broken."""
    [old] = replicas_of(deployed(256, "1"), 256)
    [failed] = replicas_of(deployed(512, "2"), 512)
    failed = replace(failed, state=ReplicaState.BACKOFF, served=False)
    again = deployed(768, "2")
    assert may_stay(old, again)
    assert not may_stay(failed, again)
    assert not may_stay(failed, deployed(768, "3"))
    assert same_versions(again, [old, failed]) == []
    back = deployed(768, "1")
    assert not may_stay(old, back)
    assert len(same_versions(back, [old, failed])) == 1


def test_where_it_is_not_known_what_they_were_started_with_they_may_not_stay() -> None:
    [old] = replicas_of(deployed(256, "1"), 256)
    assert old.launch is not None
    assert not may_stay(replace(old, launch=None), deployed(512, "2"))
    unsure = replace(old, launch=replace(old.launch, versions={}))
    assert not may_stay(unsure, deployed(512, "2"))
    assert same_versions(deployed(512, "1"), [replace(old, launch=None)]) == []


@pytest.mark.parametrize("version", ["1", "2"])
def test_nothing_is_said_where_machines_stay_the_same(version: str) -> None:
    assert same_versions(deployed(256, version), replicas_of(deployed(256, "1"))) == []
    assert same_versions(deployed(256, version), []) == []

"""From an app to its deployment: what is kept from before, and what is unwise about it."""

from typing import Any

import pytest
from msgspec.structs import replace

from ganger import Compute, Ganger, InvalidInput, InvalidWorkflow
from ganger.compute import add_region
from ganger.compute.advice import AdviceCode, advice
from ganger.compute.deploying import awake, deployment_of, name_from, plan_of, scaled
from ganger.compute.planning import Plan
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import Autoscale, Deployment

SMALL: dict[str, Any] = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}
NAME = "shared-2cpu-1024mb-fra-iad"


def app(replicas: int = 4, **fields: Any) -> Ganger:
    made = Ganger(broker_url="memory://deploying")
    compute = Compute(**{**SMALL, "regions": ["fra", "iad"], **fields}, num_replicas=replicas)
    made.task("t", compute=compute)(lambda input, context: None)
    return made


def deployed(made: Ganger, **fields: Any) -> Deployment:
    given = {"name": "d", "on": "local", "now": 1, "slots": 2, "folder": "", **fields}
    return deployment_of(made, "tasks:app", **given)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("tasks:app", "tasks"),
        ("a.b.My_Tasks:app", "my-tasks"),
        ("_:app", "app"),
        ("x" * 40, "x" * 32),
    ],
)
def test_a_deployment_is_named_after_its_module(target: str, name: str) -> None:
    assert name_from(target) == name


def test_the_seed_is_the_name_at_first_and_is_kept() -> None:
    first = deployed(app())
    assert first.seed == "d"
    moved = deployed(app(), before=first, seed="other")
    assert deployed(app(), before=moved).seed == "other"
    assert plan_of(first).replicas != plan_of(moved).replicas


def test_what_a_pool_was_scaled_to_is_kept_until_its_compute_says_another_number() -> None:
    first = scaled(deployed(app(4)), {NAME: 9})
    assert len(plan_of(deployed(app(4), before=first)).replicas) == 9
    assert len(plan_of(deployed(app(5), before=first)).replicas) == 5
    assert len(plan_of(deployed(app(4), before=first, scale={NAME: 1})).replicas) == 1


def test_what_its_load_left_with_nobody_has_somebody_again_where_nobody_follows_it() -> None:
    followed = scaled(deployed(app(4), autoscale=Autoscale(0, 9)), {NAME: 0})
    assert len(plan_of(deployed(app(4), before=followed)).replicas) == 4
    assert plan_of(deployed(app(4), before=followed, scale={NAME: 0})).replicas == ()
    few = scaled(followed, {NAME: 2})
    assert len(plan_of(deployed(app(4), before=few)).replicas) == 2
    by_hand = scaled(deployed(app(4)), {NAME: 0})
    assert plan_of(deployed(app(4), before=by_hand)).replicas == ()


@pytest.mark.parametrize(
    ("fields", "replicas"),
    [
        ({"autoscale": Autoscale(0, 3)}, 1),
        ({"autoscale": Autoscale(2, 3)}, 2),
        ({"autoscale": Autoscale(0, 3), "on": "kubernetes"}, 0),
        ({}, 0),
    ],
)
def test_what_follows_its_load_here_begins_with_somebody_to_register(
    fields: dict[str, Any], replicas: int
) -> None:
    assert len(plan_of(awake(deployed(app(), scale={NAME: 0}, **fields))).replicas) == replicas
    assert len(plan_of(awake(deployed(app(4), **fields))).replicas) == 4


def test_nothing_is_planned_of_what_is_being_taken_down() -> None:
    made = deployed(app())
    assert plan_of(made).replicas
    assert plan_of(replace(made, leaving=True)).replicas == ()


def test_a_region_of_the_apps_own_may_be_unknown_where_it_is_planned() -> None:
    add_region("cellar", "Cellar", "DE")
    made = deployed(app(regions=["cellar"]))
    del made.pools["shared-2cpu-1024mb-cellar"].regions[:]
    made.pools["shared-2cpu-1024mb-cellar"].regions.append("attic")
    assert {replica.region for replica in plan_of(made).replicas} == {"attic"}


@pytest.mark.parametrize("name", ["", "-a", "A", "a" * 33, "a_b", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"deployment: .* must be 1 to 32 lower case"):
        deployed(app(), name=name)


def test_an_app_without_compute_is_refused() -> None:
    made = Ganger(broker_url="memory://deploying")
    made.task("t")(lambda input, context: None)
    with pytest.raises(InvalidWorkflow, match="tasks:app: no step has compute"):
        deployed(made)


# ── advice ────────────────────────────────────────────────────────────────────────────


def planned(replicas: int, **fields: Any) -> Plan:
    return plan_of(deployed(app(replicas, **fields)))


def codes(plan: Plan, *uses: WorkerUse) -> list[AdviceCode]:
    return [each.code for each in advice(plan, uses)]


def use(plan: Plan, memory: float | None, cpus: float | None) -> WorkerUse:
    return WorkerUse("w", plan.pools[0].pool.name, "fra", "1", memory, cpus)


def test_what_may_be_unwise_about_a_plan() -> None:
    assert codes(planned(8)) == []
    assert codes(planned(0)) == [AdviceCode.NO_REPLICAS]
    assert codes(planned(1, regions=["fra"])) == [
        AdviceCode.SINGLE_REPLICA,
        AdviceCode.SINGLE_REGION,
    ]
    assert codes(planned(1)) == [AdviceCode.SINGLE_REPLICA, AdviceCode.EMPTY_REGION]


def test_what_follows_its_load_is_not_told_to_be_scaled_by_hand() -> None:
    [none] = advice(planned(0), follows=True)
    assert none.text.endswith(f"up --scale {NAME}=1")
    one, _ = advice(planned(1), follows=True)
    assert one.text.endswith("--autoscale 2:N keeps two")


def test_idle_processors_are_said_of_performance_ones_only() -> None:
    fast = planned(8, cpu_kind="performance", cpus=4, memory_mb=8192)
    assert codes(fast, use(fast, None, 0.7)) == [AdviceCode.IDLE_CPUS]
    assert codes(fast, use(fast, None, 0.9)) == []
    assert codes(planned(8), use(planned(8), None, 0.0)) == []


def test_a_pool_near_its_memory_limit_is_told_what_would_do() -> None:
    plan = planned(8)
    [told] = advice(plan, [use(plan, 900.0, None)])
    assert told.code is AdviceCode.NEAR_MEMORY_LIMIT
    assert "w uses 900 of its 1,024 MB" in told.text
    assert "memory_mb=1280 or more" in told.text
    assert codes(plan, use(plan, 800.0, None)) == []


def test_steps_of_no_pool_need_workers_of_their_own() -> None:
    made = app(8)
    made.task("other")(lambda input, context: None)
    [told] = advice(plan_of(deployed(made)))
    assert (told.pool, told.code) == (None, AdviceCode.NO_WORKERS)
    assert told.text.startswith("other:other: in no pool; run workers")

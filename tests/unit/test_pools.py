"""Pools: which steps share one, what it is called, and what its workers are."""

from typing import Any

import pytest

from ganger import Compute, Context, Ganger, InvalidInput, InvalidLabel, InvalidWorkflow
from ganger.workflow import declaration_of
from ganger_broker.definitions import StepDefinition, StickyStrategy

SMALL: dict[str, Any] = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}
LARGE: dict[str, Any] = {"cpu_kind": "performance", "cpus": 4, "memory_mb": 8192}


def app() -> Ganger:
    return Ganger(broker_url="memory://pools")


def steps_of(made: Ganger, workflow: str) -> dict[str, StepDefinition]:
    definition = declaration_of(made.workflows[workflow]).definition
    return {step.name: step for step in definition.every_step()}


def test_steps_of_equal_compute_share_a_pool_and_others_do_not() -> None:
    made = app()

    @made.workflow(compute=Compute(**SMALL, regions=["iad", "fra"]))
    class Etl:
        @made.step()
        async def read(self, context: Context) -> None: ...

        @made.step(compute=Compute(**LARGE, regions=["fra"]))
        async def fit(self, context: Context) -> None: ...

        @made.on_failure_step()
        async def tell(self, context: Context) -> None: ...

    @made.task(compute=Compute(**SMALL, regions=["fra", "iad"]))
    def other(input: dict[str, Any], context: Context) -> None: ...

    @made.task()
    def anywhere(input: dict[str, Any], context: Context) -> None: ...

    small, large = "shared-2cpu-1024mb-fra-iad", "performance-4cpu-8192mb-fra"
    assert {name: step.pool for name, step in steps_of(made, "etl").items()} == {
        "read": small,
        "fit": large,
        "tell": small,
    }
    assert steps_of(made, "anywhere")["anywhere"].pool is None
    assert {name: pool.actions for name, pool in made.pools.items()} == {
        small: ("etl:read", "etl:tell", "other:other"),
        large: ("etl:fit",),
    }


def test_a_pool_keeps_its_name_when_it_is_scaled_and_two_that_differ_in_size_have_two() -> None:
    def names(*replicas: int) -> list[str]:
        made = app()
        for number, count in enumerate(replicas):
            compute = Compute(**SMALL, regions=["fra"], num_replicas=count)
            made.task(f"t{number}", compute=compute)(lambda input, context: None)
        return list(made.pools)

    assert names(6) == names(9) == ["shared-2cpu-1024mb-fra"]
    assert names(6, 9, 6) == ["shared-2cpu-1024mb-fra", "shared-2cpu-1024mb-fra-2"]


def test_many_regions_are_a_digest_in_the_name() -> None:
    made = app()
    regions = ["ams", "arn", "atl", "bog", "bom", "bos", "cdg"]
    made.task("t", compute=Compute(**SMALL, regions=regions))(lambda input, context: None)
    [name] = made.pools
    assert len(name) == len("shared-2cpu-1024mb-") + 8
    assert made.pools[name].compute.regions == tuple(regions)


def test_compute_that_is_none_is_refused_where_it_is_written() -> None:
    made = app()
    with pytest.raises(InvalidWorkflow, match=r"step 'walk': compute: 4 must be a Compute"):

        @made.step(compute=4)  # type: ignore[arg-type]
        async def walk(self: object, context: Context) -> None: ...

    with pytest.raises(InvalidWorkflow, match=r"workflow 'walk': compute: 'x' must be a Compute"):

        @made.workflow(compute="x")  # type: ignore[arg-type]
        class Walk:
            @made.step()
            async def walk(self, context: Context) -> None: ...


def test_a_run_that_stays_on_one_worker_cannot_be_in_two_pools() -> None:
    made = app()

    class Walk:
        @made.step(compute=Compute(**SMALL, regions=["fra"]))
        async def first(self, context: Context) -> None: ...

        @made.step(parents=["first"])
        async def second(self, context: Context) -> None: ...

    said = "sticky: with HARD .* in shared-2cpu-1024mb-fra and no pool"
    with pytest.raises(InvalidWorkflow, match=said):
        made.workflow(sticky=StickyStrategy.HARD)(Walk)
    made.workflow(sticky=StickyStrategy.SOFT)(Walk)
    assert "walk" in made.workflows


def test_a_run_on_one_worker_has_its_step_for_failures_in_the_same_pool() -> None:
    made = app()

    class Walk:
        @made.step(compute=Compute(**SMALL, regions=["fra"]))
        async def first(self, context: Context) -> None: ...

        @made.on_failure_step()
        async def oops(self, context: Context) -> None: ...

    said = "sticky: with HARD .* in shared-2cpu-1024mb-fra and no pool"
    with pytest.raises(InvalidWorkflow, match=said):
        made.workflow(sticky=StickyStrategy.HARD)(Walk)
    made.workflow(sticky=StickyStrategy.SOFT)(Walk)
    assert "walk" in made.workflows


# ── workers ───────────────────────────────────────────────────────────────────────────


def pooled() -> Ganger:
    made = app()
    compute = Compute(**SMALL, regions=["fra", "iad"])
    made.task("t", compute=compute)(lambda input, context: None)
    return made


def test_a_worker_of_a_pool_says_what_machine_it_is() -> None:
    made = pooled()
    compute = Compute(**SMALL, regions=["fra", "iad"])
    by_name = made.worker("w", labels={"a": 1}, pool="shared-2cpu-1024mb-fra-iad", region="iad")
    assert by_name.get_labels() == {
        "a": 1,
        "ganger.pool": "shared-2cpu-1024mb-fra-iad",
        "ganger.region": "iad",
        "ganger.cpu_kind": "shared",
        "ganger.cpus": 2,
        "ganger.memory_mb": 1024,
    }
    assert made.worker("w", pool=compute, region="iad").get_labels()["ganger.region"] == "iad"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pool": "gpu"}, "there is no pool 'gpu'; there are shared-2cpu-1024mb-fra-iad"),
        ({"pool": "shared-2cpu-1024mb-fra-iad"}, "is in fra, iad; say which"),
        (
            {"pool": "shared-2cpu-1024mb-fra-iad", "region": "ams"},
            "'ams' is no region of pool 'shared-2cpu-1024mb-fra-iad', but fra, iad",
        ),
        ({"region": "fra"}, "region: 'fra' is of a pool; say which"),
    ],
)
def test_a_place_that_is_none_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pooled().worker("w", **given)
    assert said in str(caught.value)


def test_a_worker_of_a_pool_needs_a_step_of_it() -> None:
    made = pooled()
    made.task("other")(lambda input, context: None)
    worker = made.worker("w", pool="shared-2cpu-1024mb-fra-iad", region="fra")
    worker.register_workflow(made.workflows["other"])
    with pytest.raises(InvalidWorkflow, match="none of its workflows has a step in pool 'shared"):
        worker.start()


def test_users_do_not_set_what_ganger_sets() -> None:
    made = app()
    said = "the key 'ganger.pool' begins with 'ganger.', which is kept"
    with pytest.raises(InvalidLabel, match=said):
        made.worker("w", labels={"ganger.pool": "x"})
    worker = made.worker("w")
    with pytest.raises(InvalidLabel, match=said):
        worker.upsert_labels({"ganger.pool": "x"})
    with pytest.raises(InvalidLabel, match=said):
        worker.delete_labels(["ganger.pool"])
    with pytest.raises(InvalidLabel, match=f"sets_labels: {said}"):
        made.step("walk", sets_labels={"ganger.pool": "x"})(lambda self, context: None)
    assert worker.get_labels() == {}

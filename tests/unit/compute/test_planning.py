"""Replicas draw their regions at random, each by itself, and stay where they are."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganger import Compute, InvalidInput
from ganger.compute.planning import (
    Replica,
    chance_of_empty_region,
    changes,
    make_plan,
    region_of,
    replicas_to_fill,
)
from ganger.compute.pools import Pool

REGIONS = ("fra", "iad", "sin")


def pool(replicas: int = 6, name: str = "p", **fields: Any) -> Pool:
    given_ = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024, "regions": REGIONS, **fields}
    return Pool(name, Compute(**given_, num_replicas=replicas), ("w:s",))


def test_a_plan_is_the_same_whenever_it_is_made() -> None:
    plan, again = (make_plan("d", "seed", {"p": pool()}) for _ in range(2))
    assert plan == again
    assert [replica.number for replica in plan.replicas] == [1, 2, 3, 4, 5, 6]
    others = {make_plan("d", f"seed {n}", {"p": pool()}).replicas for n in range(20)}
    assert len(others) == 20


@settings(max_examples=100)
@given(
    st.text(max_size=8), st.integers(0, 40), st.integers(0, 40), st.sets(st.sampled_from(REGIONS))
)
def test_those_that_stay_do_not_move_when_a_pool_is_scaled(
    seed: str, before: int, after: int, regions: set[str]
) -> None:
    machines = {"p": pool(1, regions=sorted(regions) or ["fra"])}
    first, then = (make_plan("d", seed, machines, {"p": count}) for count in (before, after))
    change = changes(then, first.replicas)
    assert len(change.keep) == min(before, after)
    assert len(change.create) == max(0, after - before)
    assert len(change.remove) == max(0, before - after)
    assert set(change.keep) == set(first.replicas) & set(then.replicas)


def test_each_region_is_as_likely_and_draws_do_not_depend_on_each_other() -> None:
    seeds = [str(n) for n in range(3_000)]
    drawn = Counter(region_of(seed, "p", 1, REGIONS) for seed in seeds)
    pairs = Counter(tuple(region_of(seed, "p", n, REGIONS) for n in (1, 2)) for seed in seeds)
    # 3,000 draws of 1/3: a standard deviation is 26; of 1/9: 17. The draws are fixed by the seeds
    assert all(abs(count - 1_000) < 4 * 26 for count in drawn.values())
    assert set(pairs) == set(product(REGIONS, REGIONS))
    assert all(abs(count - 333) < 4 * 17 for count in pairs.values())


@pytest.mark.parametrize("regions", [1, 2, 3, 4])
@pytest.mark.parametrize("replicas", [0, 1, 2, 3, 5])
def test_the_chance_of_an_empty_region_is_that_of_all_draws(replicas: int, regions: int) -> None:
    draws = list(product(range(regions), repeat=replicas))
    empty = sum(len(set(draw)) < regions for draw in draws)
    assert chance_of_empty_region(replicas, regions) == pytest.approx(empty / len(draws))


@pytest.mark.parametrize("regions", [1, 2, 3, 10, 34])
def test_so_many_replicas_fill_all_regions_and_one_fewer_does_not(regions: int) -> None:
    enough = replicas_to_fill(regions)
    assert chance_of_empty_region(enough, regions) < 0.01
    assert chance_of_empty_region(enough - 1, regions) >= 0.01


def test_what_a_pool_takes_in_all() -> None:
    [planned] = make_plan("d", "s", {"p": pool(6)}).pools
    assert (planned.cpus, planned.memory_mb) == (12, 6144)
    assert sum(planned.per_region.values()) == 6
    assert set(planned.per_region) == set(REGIONS)
    [planned] = make_plan("d", "s", {"p": pool(6)}, {"p": 0}).pools
    assert planned.replicas == ()
    assert planned.per_region == dict.fromkeys(REGIONS, 0)


def test_a_change_of_regions_is_a_change_of_replicas() -> None:
    plan = make_plan("d", "s", {"p": pool(1)})
    there = Replica("p", 1, "ams")
    change = changes(plan, [there])
    assert (change.create, change.keep, change.remove) == (plan.replicas, (), (there,))


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"q": 1}, "scale: there is no pool 'q'; there are p"),
        ({"p": -1}, "scale: p: -1 must be a whole number from 0 to 1,000"),
        ({"p": 1001}, "scale: p: 1001 must be a whole number from 0 to 1,000"),
        ({"p": True}, "scale: p: True must be a whole number"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(scale: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_plan("d", "s", {"p": pool()}, scale)
    assert said in str(caught.value)

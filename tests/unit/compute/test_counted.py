"""Replicas of what is counted by pool and region."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ganger.compute.counted import counted
from ganger.compute.planning import Replica, changes

from .cases import LARGE, SMALL, plan_of

POOL = "shared-2cpu-1024mb-fra-iad-sin"
LARGE_POOL = "performance-4cpu-8192mb-fra"


def test_what_is_as_planned_changes_nothing() -> None:
    plan = plan_of(SMALL, LARGE)
    counts = {
        (planned.pool.name, region): replicas
        for planned in plan.pools
        for region, replicas in planned.per_region.items()
    }
    assert sorted(counted(plan, counts)) == sorted(plan.replicas)


@given(now=st.integers(0, 30), then=st.integers(0, 30))
@settings(max_examples=200)
def test_scaling_creates_or_removes_the_difference(now: int, then: int) -> None:
    there = plan_of(SMALL, scale={POOL: now})
    counts = {(POOL, region): n for region, n in there.pools[0].per_region.items()}
    changed = changes(plan_of(SMALL, scale={POOL: then}), counted(there, counts))
    assert len(changed.keep) == min(now, then)
    assert len(changed.create) == max(0, then - now)
    assert len(changed.remove) == max(0, now - then)


def test_more_than_planned_are_those_that_scaling_up_would_bring() -> None:
    plan = plan_of(SMALL)
    more = plan_of(SMALL, scale={POOL: 50})
    fra = [each for each in more.replicas if each.region == "fra"]
    assert counted(plan, {(POOL, "fra"): 7}) == fra[:7]


def test_a_place_that_the_plan_has_no_more_is_to_be_removed() -> None:
    gone = counted(plan_of(LARGE), {("old", "ams"): 2, (LARGE_POOL, "ams"): 1})
    assert gone == [
        Replica("old", 1, "ams"),
        Replica("old", 2, "ams"),
        Replica(LARGE_POOL, 1, "ams"),
    ]
    assert changes(plan_of(LARGE), gone).remove == tuple(gone)

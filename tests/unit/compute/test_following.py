"""Following the load: whose workers count, and what a deployment is to have of what is wanted."""

from collections import Counter
from collections.abc import Sequence

import pytest

from ganger.compute.configs import Compute
from ganger.compute.local.following import Arrivals, Strangers, to_scale
from ganger.compute.planning import PoolPlan, make_plan
from ganger.compute.pools import Pool
from ganger.compute.store import WorkerUse
from ganger_broker.deployments import Autoscale, PoolLoad

COMPUTE = Compute("shared", 1, 256, 1, ["fra"])


def planned(replicas: int) -> Sequence[PoolPlan]:
    return make_plan("d", "seed", {"p": Pool("p", COMPUTE, ("w:s",))}, {"p": replicas}, []).pools


def load(wanted: int = 0, workers: int = 9) -> dict[str, PoolLoad]:
    return {"p": PoolLoad(workers, slots=9, used=0, pending=0, wanted=wanted, at=0)}


def use(worker: str, pool: str = "p", *, is_open: bool = True) -> WorkerUse:
    return WorkerUse(worker, pool, "fra", "1", None, None, is_open=is_open)


@pytest.mark.parametrize(
    ("now", "wanted", "strangers", "becomes"),
    [
        (2, 2, {}, None),
        (2, 4, {}, 4),
        (4, 2, {}, 2),
        (0, 9, {}, 6),
        (6, 9, {}, None),
        (3, 0, {}, 1),
        (2, 3, {"p": 1}, None),
        (2, 4, {"p": 1, "other": 1}, 3),
        (2, 3, {"p": 4}, 1),
    ],
)
def test_it_has_what_is_wanted_between_its_bounds_less_what_others_have(
    now: int, wanted: int, strangers: dict[str, int], becomes: int | None
) -> None:
    scale = to_scale(planned(now), load(wanted), Autoscale(1, 6), strangers, arrived={"p"})
    assert scale == ({} if becomes is None else {"p": becomes})


def test_a_pool_that_the_dispatcher_does_not_know_stays_within_the_bounds() -> None:
    for now, bounds, becomes in ((2, (0, 6), {}), (0, (0, 6), {}), (2, (3, 6), {"p": 3})):
        found = to_scale(planned(now), {}, Autoscale(*bounds), {}, arrived={"p"})
        assert found == becomes


@pytest.mark.parametrize(("now", "becomes"), [(2, {}), (0, {"p": 1})])
@pytest.mark.parametrize("wanted", [0, 1, 5])
def test_before_anybody_is_there_no_hint_counts(
    now: int, becomes: dict[str, int], wanted: int
) -> None:
    """It is of an older deployment, say."""
    found = to_scale(planned(now), load(wanted), Autoscale(0, 6), {}, arrived=())
    assert found == becomes


def test_somebody_is_there_when_the_load_counts_it() -> None:
    arrivals, none = Arrivals(), load(workers=0)
    assert arrivals.look(1, set(), none, {}) == set()
    assert arrivals.look(1, {"p"}, load(workers=1), {}) == set()  # who was that?
    assert arrivals.look(1, {"p"}, none, {}) == set()
    assert arrivals.look(1, {"p"}, load(workers=1), {"p": 1}) == set()
    assert arrivals.look(1, {"p"}, load(workers=2), {"p": 1}) == {"p"}
    assert arrivals.look(1, set(), none, {}) == {"p"}  # scaled to nothing
    assert arrivals.look(2, {"p"}, load(workers=1), {}) == set()  # asked for anew
    assert arrivals.look(2, {"p"}, load(workers=1), {}) == {"p"}


def test_strangers_are_those_whose_ids_are_of_no_replica_and_who_take_steps() -> None:
    uses = [
        use("d.p.1"),
        use("d.p.17"),
        use("e.p.1"),
        use("by-hand-82d1ce3c"),
        use("d.q.1", "p"),
        use("e.p.2", is_open=False),
        use("e.q.1", "q"),
    ]
    strangers = Strangers("d")
    assert strangers.look(uses, load(workers=5)) == Counter(p=3)
    assert strangers.look(uses, load(workers=5)) == Counter(p=3, q=1)  # it has been there since


def test_a_stranger_counts_from_when_the_load_counts_it() -> None:
    strangers, ours = Strangers("d"), [use("d.p.1"), use("d.p.2")]
    assert strangers.look([*ours, use("e.p.1")], load(workers=2))["p"] == 0
    assert strangers.look([*ours, use("e.p.1")], load(workers=3))["p"] == 1
    # one of ours comes and goes, which may be news to the load
    for workers in (2, 3, 4):
        assert strangers.look([*ours, use("d.p.3"), use("e.p.1")], load(workers=workers))["p"] == 1
    for workers in (2, 3):
        assert strangers.look([use("d.p.1"), use("e.p.1")], load(workers=workers))["p"] == 1
    assert strangers.look([use("d.p.1")], load(workers=3))["p"] == 0

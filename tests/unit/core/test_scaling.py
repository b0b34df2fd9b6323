"""How many replicas a pool wants: up at once, down when it was quiet for a while."""

from hypothesis import given
from hypothesis import strategies as st

from ganger_dispatcher.core.scaling import Scaling, Wanted, follow

PLAIN = Scaling(window=5)
NONE = Wanted(0)


def followed(
    demands: list[int],
    wanted: Wanted = NONE,
    scaling: Scaling = PLAIN,
    *,
    slots_each: float = 1.0,
    come: int = 0,
    start: int = 0,
) -> list[int]:
    """What is wanted after each of these, seen one millisecond after the other."""
    said = []
    for now, demand in enumerate(demands, start):
        wanted = follow(scaling, wanted, demand=demand, slots_each=slots_each, come=come, now=now)
        said.append(wanted.replicas)
    return said


def test_up_at_once_by_as_many_as_bring_the_load_under_the_threshold() -> None:
    assert followed([0, 1, 4, 5, 100]) == [0, 2, 5, 7, 125]
    assert followed([8, 9], slots_each=10) == [1, 2]
    assert followed([21], scaling=Scaling(up=0.7), slots_each=30) == [1]


def test_down_after_a_window_to_what_the_most_of_it_needs() -> None:
    assert followed([80, 0, 3, 8, 0, 0, 0]) == [100, 100, 100, 100, 100, 100, 10]


def test_who_is_busy_once_in_the_window_begins_it_anew() -> None:
    assert followed([8, 0, 0, 5, 0, 0, 0, 0, 0]) == [10] * 9
    assert followed([8, 0, 0, 5, 0, 0, 0, 0, 0, 0]) == [10] * 9 + [0]


def test_between_the_thresholds_nothing_moves() -> None:
    assert set(followed([8, *[5, 8, 6, 7] * 50])) == {10}


def test_one_that_is_quiet_for_good_does_not_stick() -> None:
    assert followed([80, *[1] * 20])[-1] == 2
    assert followed([80, *[0] * 20])[-1] == 0


def test_the_bounds_hold_and_a_demand_wants_one_at_least() -> None:
    bounds = Scaling(window=5, least=2, most=4)
    assert followed([0, 100, *[0] * 10], scaling=bounds) == [2, *[4] * 6, *[2] * 5]
    assert followed([1], slots_each=1000) == [1]
    assert followed([0], Wanted(9), bounds) == [4]


def test_replicas_that_come_unasked_count_for_a_window() -> None:
    wanted = follow(PLAIN, Wanted(1), demand=0, slots_each=1.0, come=5, now=0)
    assert wanted.replicas == 5
    assert followed([0] * 6, wanted, start=1) == [5] * 5 + [0]


@given(
    up=st.floats(0.1, 2),
    down=st.floats(0, 0.99),
    slots_each=st.integers(1, 16),
    demand=st.integers(0, 200),
    before=st.integers(0, 300),
)
def test_a_demand_that_stays_moves_it_once_each_way_at_most(
    up: float, down: float, slots_each: int, demand: int, before: int
) -> None:
    scaling = Scaling(5, up, down * up, 0, 1000)
    said = followed([demand] * 30, Wanted(before), scaling, slots_each=slots_each)
    moves = [there for here, there in zip([before, *said], said, strict=False) if here != there]
    assert len(moves) <= 1
    assert demand <= up * said[-1] * slots_each + 1e-6 or said[-1] == 1000

"""The table of transitions, walked."""

from itertools import product

import pytest

from ganger_broker.messages import Outcome
from ganger_dispatcher.core.states import TERMINAL, TRANSITIONS, Change, StepStatus, after

from .world import World, told

PAIRS = list(product(StepStatus, Change))


@pytest.mark.parametrize(("status", "change"), PAIRS)
def test_a_pair_is_in_the_table_or_ignored(status: StepStatus, change: Change) -> None:
    assert after(status, change) == TRANSITIONS.get((status, change))


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("change", Change)
def test_nothing_leads_out_of_an_end(status: StepStatus, change: Change) -> None:
    assert after(status, change) is None


def test_every_state_is_reached_from_waiting_and_reaches_an_end() -> None:
    def reached(begin: set[StepStatus]) -> set[StepStatus]:
        found = set(begin)
        while more := {to for (at, _), to in TRANSITIONS.items() if at in found} - found:
            found |= more
        return found

    assert reached({StepStatus.WAITING}) == set(StepStatus)
    for status in set(StepStatus) - TERMINAL:
        assert reached({status}) >= TERMINAL


@pytest.mark.parametrize("status", sorted(set(StepStatus) - TERMINAL))
def test_every_state_that_is_no_end_can_be_cancelled(status: StepStatus) -> None:
    assert after(status, Change.CANCEL) is StepStatus.CANCELLED


@pytest.mark.parametrize("outcome", Outcome)
def test_an_ended_step_run_does_not_move_whatever_is_said_of_it(outcome: Outcome) -> None:
    world = World()
    world.join()
    world.trigger()
    world.start("r/s/1")
    world.cancel()
    ended = world.step()
    world.start("r/s/1")
    world.finish("r/s/1", outcome=outcome)
    world.start("r/s/1")
    assert world.step() == ended
    assert told(world.beat("a", "r/s/1"))[0][1].attempt == "r/s/1"

"""Explanations: the code of every condition, workers in rank order, and which "no" it is."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ganger_broker.labels import Requirement, parse_desired
from ganger_dispatcher.explanation import Code, Explanation, explain, verdict
from ganger_dispatcher.placement import Placement

from .placement.test_engine_is_oracle import labels, requirements

ACTION = "w:s"


def fleet(**workers: dict[str, Any]) -> Placement:
    """Workers by id: their labels, and under ``_`` what else there is to say."""
    placement = Placement()
    for name, given_labels in workers.items():
        own = {key: value for key, value in given_labels.items() if key != "_"}
        facts = {"actions": [ACTION], "slots": 2, "used": 0, **given_labels.get("_", {})}
        placement.join(name, own, **facts)
    return placement


def required(desired: dict[str, Any]) -> Requirement:
    return Requirement.of(ACTION, [c for group in parse_desired(desired).values() for c in group])


def ranked(explanation: Explanation) -> list[str]:
    return [worker.id for worker in explanation.workers]


@pytest.mark.parametrize(
    ("wish", "actual", "code"),
    [
        ("x", "x", Code.MET),
        ("x", "y", Code.MISMATCH),
        ("x", 1, Code.TYPE_MISMATCH),
        ("x", None, Code.MISSING),
        (512, 512.0, Code.MET),
        (512, "512", Code.TYPE_MISMATCH),
        ({"value": "x", "comparator": "NOT_EQUAL"}, "x", Code.MISMATCH),
        ({"value": "x", "comparator": "NOT_EQUAL"}, 1, Code.TYPE_MISMATCH),
        ({"value": "x", "comparator": "NOT_EQUAL"}, None, Code.MISSING),
        ({"value": 256, "comparator": "GREATER_THAN"}, 256, Code.MISMATCH),
        ({"value": 256, "comparator": "GREATER_THAN"}, 257, Code.MET),
        ({"value": [1, "x"], "comparator": "IN"}, "y", Code.MISMATCH),
        ({"value": [1, 2], "comparator": "IN"}, "1", Code.TYPE_MISMATCH),
        ({"value": [1, 2], "comparator": "NOT_IN"}, 3, Code.MET),
        ({"value": [1, 2], "comparator": "NOT_IN"}, "3", Code.TYPE_MISMATCH),
        ({"value": [1, 2], "comparator": "NOT_IN"}, 1, Code.MISMATCH),
        ({"comparator": "EXISTS"}, "", Code.MET),
        ({"comparator": "EXISTS"}, None, Code.MISSING),
        ({"comparator": "NOT_EXISTS"}, None, Code.MET),
        ({"comparator": "NOT_EXISTS"}, 0, Code.MISMATCH),
    ],
)
def test_the_code_of_a_condition(wish: Any, actual: Any, code: Code) -> None:
    placement = fleet(a={} if actual is None else {"k": actual})
    [worker] = explain(placement, required({"k": wish})).workers
    [reason] = worker.reasons
    assert (reason.code, reason.met, reason.actual) == (code, code is Code.MET, actual)
    assert worker.eligible is (code is Code.MET)


def test_a_reason_says_all_of_its_condition() -> None:
    [worker] = explain(
        fleet(a={"m": 3}), required({"m": {"value": [1, 2], "comparator": "IN", "weight": 7}})
    ).workers
    [reason] = worker.reasons
    assert (reason.key, reason.comparator, reason.desired) == ("m", "IN", [1, 2])
    assert (reason.required, reason.code) == (False, Code.MISMATCH)
    assert (worker.eligible, worker.highest_weight, worker.total_weight) == (True, 0, 0)


def test_workers_stand_in_rank_order_and_the_nearest_misses_last() -> None:
    wish = {
        "model": {"value": "x", "weight": 10},
        "near": {"value": 1, "weight": 6},
        "fast": {"value": 1, "weight": 6},
        "region": "fra",
        "memory": {"value": 256, "comparator": "GREATER_THAN"},
    }
    fra = {"region": "fra", "memory": 512}
    placement = fleet(
        twice_missed={"region": "gru", "memory": 1, "model": "x"},
        nothing_more={**fra},
        once_missed={"region": "fra", "memory": 1},
        many_small={**fra, "near": 1, "fast": 1},
        loaded={**fra, "model": "x", "_": {"used": 1}},
        draining={**fra, "model": "x", "near": 1, "_": {"is_open": False}},
        big={**fra, "model": "x"},
        later={**fra, "model": "x"},
    )
    explanation = explain(placement, required(wish))
    assert explanation.selected == "big"
    assert ranked(explanation) == [
        "big",
        "later",
        "loaded",
        "many_small",
        "nothing_more",
        "draining",
        "once_missed",
        "twice_missed",
    ]
    weights = {w.id: (w.highest_weight, w.total_weight) for w in explanation.workers}
    assert (weights["big"], weights["many_small"]) == ((10, 10), (6, 12))
    assert [w.id for w in explanation.workers if not w.eligible] == [
        "draining",
        "once_missed",
        "twice_missed",
    ]


def test_the_action_is_a_reason_where_it_is_missing() -> None:
    placement = fleet(a={"_": {"actions": ["w:other"]}})
    [worker] = explain(placement, required({})).workers
    [reason] = worker.reasons
    assert (reason.key, reason.desired, reason.code) == ("action", ACTION, Code.MISSING)
    assert not worker.eligible


@pytest.mark.parametrize(
    ("workers", "answer"),
    [
        ({"a": {"m": "x"}}, "now"),
        ({"a": {"m": "x", "_": {"used": 2}}, "b": {}}, "not now"),
        ({"a": {"m": "x", "_": {"is_open": False}}}, "not now"),
        ({"a": {"m": "y"}}, "never with this fleet"),
        ({"a": {"m": "x", "_": {"actions": ["w:other"]}}}, "never with this fleet"),
        ({}, "never with this fleet"),
    ],
)
def test_which_no_it_is(workers: dict[str, Any], answer: str) -> None:
    assert verdict(explain(fleet(**workers), required({"m": "x"}))) == answer


@given(st.lists(labels, max_size=6), requirements())
@settings(max_examples=300)
def test_the_first_eligible_worker_with_a_free_slot_is_the_one_the_engine_chooses(
    fleet_labels: list[dict[str, Any]], requirement: Requirement
) -> None:
    placement = Placement()
    for number, own in enumerate(fleet_labels):
        placement.join(f"w{number}", own, [requirement.action], 2, number % 3)
    explanation = explain(placement, requirement)
    free = [w.id for w in explanation.workers if w.eligible and int(w.id[1:]) % 3 < 2]
    assert explanation.selected == placement.choose(requirement) == (free[0] if free else None)
    assert len(explanation.workers) == len(fleet_labels)
    for worker in explanation.workers:
        unmet = [reason for reason in worker.reasons if reason.required and not reason.met]
        assert worker.eligible is not bool(unmet)


def test_a_pinned_step_is_for_one_worker_and_the_others_are_told_so() -> None:
    placement = fleet(one={"gpu": 1}, two={"gpu": 1})
    pinned = replace(required({"gpu": 1}), worker="two")
    explanation = explain(placement, pinned)
    assert (explanation.selected, ranked(explanation)) == ("two", ["two", "one"])
    assert [worker.eligible for worker in explanation.workers] == [True, False]
    reason = explanation.workers[1].reasons[0]
    assert (reason.key, reason.desired, reason.actual) == ("ganger.worker", "two", "one")
    assert (reason.met, reason.code) == (False, Code.MISMATCH)
    gone = explain(placement, replace(pinned, worker="three"))
    assert (gone.selected, verdict(gone)) == (None, "never with this fleet")

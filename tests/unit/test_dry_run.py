"""The dry run: the documented file, its defaults, and errors that name the place."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ganger_broker.errors import InvalidInput
from ganger_dispatcher.dry_run import dry_run

MATCHING = Path(__file__).parents[2] / "docs" / "matching.md"


def run(workers: list[dict[str, Any]], desired: Any = None, **more: Any) -> Any:
    text = json.dumps({"workers": workers, "desired_worker_labels": desired or {}, **more})
    return msgspec.to_builtins(dry_run(text.encode()))


def test_the_example_of_the_docs() -> None:
    text = MATCHING.read_text()
    example = next(
        block for block in re.findall(r"```json\n(.*?)```", text, re.S) if '"workers": [\n' in block
    )
    result = msgspec.to_builtins(dry_run(example.encode()))
    assert result["selected"] == "c"
    assert [worker["id"] for worker in result["workers"]] == ["c", "a", "b"]
    first = result["workers"][0]
    assert {name: value for name, value in first.items() if name != "reasons"} == {
        "id": "c",
        "eligible": True,
        "highest_weight": 10,
        "total_weight": 10,
    }
    assert first["reasons"][0] == {
        "key": "memory",
        "comparator": "GREATER_THAN",
        "desired": 256,
        "actual": 300,
        "required": True,
        "met": True,
        "code": "met",
    }
    assert result["workers"][2]["reasons"][0]["code"] == "type_mismatch"


def test_defaults() -> None:
    assert run([{"id": "a"}])["selected"] == "a"
    assert run([{"id": "a", "used": 10}])["selected"] is None
    assert run([]) == {"selected": None, "workers": []}


def test_actions_count_where_the_file_names_one() -> None:
    workers = [{"id": "a", "actions": ["w:other"]}, {"id": "b", "actions": ["w:s"]}, {"id": "c"}]
    assert run(workers)["selected"] == "a"
    result = run(workers, action="w:s")
    assert (result["selected"], [w["eligible"] for w in result["workers"]]) == (
        "b",
        [True, True, False],
    )
    assert run([{"id": "a", "actions": []}], action="w:s")["selected"] is None


WRONG: list[tuple[Any, str]] = [
    ({}, "Object missing required field `workers`"),
    ([], "Expected `object`, got `array`"),
    ({"workers": []}, "Object missing required field `desired_worker_labels`"),
    ({"workers": {}, "desired_worker_labels": {}}, "workers: Expected `array`, got `object`"),
    ({"workers": [{}], "desired_worker_labels": {}}, "workers[0]: Object missing required field"),
    ({"workers": [5], "desired_worker_labels": {}}, "workers[0]: Expected `object`, got `int`"),
    (
        {"workers": [{"id": "a", "slot": 1}], "desired_worker_labels": {}},
        "workers[0]: Object contains unknown field `slot`",
    ),
    (
        {"workers": [], "desired_worker_labels": {}, "step": 1},
        "Object contains unknown field `step`",
    ),
    (
        {"workers": [], "desired_worker_labels": []},
        "desired_worker_labels: Expected `object`, got `array`",
    ),
    (
        {"workers": [], "desired_worker_labels": {"m": {"value": 1, "weight": 0}}},
        "desired_worker_labels.m.weight: 0 must be a whole number",
    ),
]
WRONG_WORKERS: list[tuple[dict[str, Any], str]] = [
    ({"labels": {"memory": None}}, "workers[1].labels.memory: None must be a string or a number"),
    ({"labels": {"": 1}}, "workers[1].labels: the key ''"),
    ({"labels": [1]}, "workers[1].labels: Expected `object`, got `array`"),
    ({"id": ""}, "workers[1].id: must not be empty"),
    ({"id": "a"}, "workers[1].id: 'a' is the id of workers[0] already"),
    ({"id": 5}, "workers[1].id: Expected `str`, got `int`"),
    ({"slots": 0}, "workers[1].slots: 0 must be from 1 to 4096"),
    ({"slots": 4097}, "workers[1].slots: 4097 must be from 1 to 4096"),
    ({"slots": 1.5}, "workers[1].slots: Expected `int`, got `float`"),
    ({"slots": 2, "used": 3}, "workers[1].used: 3 must be from 0 to its slots, 2"),
    ({"used": -1}, "workers[1].used: -1 must be from 0 to its slots, 10"),
    ({"actions": "w:s"}, "workers[1].actions: Expected `array | null`, got `str`"),
]


@pytest.mark.parametrize(("file", "text"), WRONG)
def test_a_wrong_file_is_refused_with_the_place(file: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match="^" + re.escape(text)):
        dry_run(json.dumps(file).encode())


@pytest.mark.parametrize(("worker", "text"), WRONG_WORKERS)
def test_a_wrong_worker_is_refused_with_the_place(worker: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match="^" + re.escape(text)):
        run([{"id": "a"}, {"id": "b", **worker}])


def test_an_action_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^action: must not be empty"):
        dry_run(b'{"workers": [], "desired_worker_labels": {}, "action": ""}')


@pytest.mark.parametrize(
    ("worker", "desired", "text"),
    [
        ('{"id": "a", "labels": {"memory": 1e999}}', "{}", "workers[0].labels.memory: inf must be"),
        ('{"id": "a"}', '{"m": -1e999}', "desired_worker_labels.m.value: -inf must be a finite"),
        (
            '{"id": "a"}',
            '{"m": {"value": [1, 1e999], "comparator": "IN"}}',
            "desired_worker_labels.m.value[1]: inf must be a finite number",
        ),
        ('{"id": "a", "slots": 1e999}', "{}", "workers[0].slots: Expected `int`, got `float`"),
        ('{"id": "a", "labels": {"memory": NaN}}', "{}", "is not JSON: "),
        ('{"id": "a", "slots": 1e999}', "}", "is not JSON: "),
        (r'{"id": "\ud800\u0041"}', "{}", r"is not JSON: \ud800 (byte 21) is half of a surrogate"),
        ('{"id": "a"}', '{"m": 1, "m": 2}', "desired_worker_labels.m: given twice in one object"),
        ('{"id": "a", "id": "b"}', "{}", "workers[0].id: given twice in one object"),
        (
            '{"id": "a", "labels": {"m": 1}}, {"id": "b", "labels": {"k": 1, "m": 1, "m": 2}}',
            "{}",
            "workers[1].labels.m: given twice in one object",
        ),
        (
            '{"id": "a"}',
            '{"m": [{"value": 1}, {"value": 2, "value": 3}]}',
            "desired_worker_labels.m[1].value: given twice in one object",
        ),
    ],
)
def test_what_json_leaves_open_is_refused_with_its_place(
    worker: str, desired: str, text: str
) -> None:
    file = f'{{"workers": [{worker}], "desired_worker_labels": {desired}}}'
    with pytest.raises(InvalidInput, match="^" + re.escape(text)):
        dry_run(file.encode())


DEEP = b'{"workers": [], "desired_worker_labels": ' + b'{"m":' * 100_000


@pytest.mark.parametrize("text", [b"", b"{", b"workers: []", b'{"workers": \xff}', DEEP])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^is not JSON"):
        dry_run(text)

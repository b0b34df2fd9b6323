"""The demo's judge, and the demo itself."""

import io
import json

from rich.console import Console

from ganger.demo import demo
from ganger.demo.fleet import FLEET
from ganger.demo.judge import Judge


def judge() -> Judge:
    judge = Judge()
    for name, machine in FLEET.items():
        judge.read({"kind": "worker_joined", "worker": name, "labels": json.dumps(machine.labels)})
    return judge


def placed(judge: Judge, step: str, worker: str) -> bool:
    """Whether the judge takes this placement as right."""
    attempt = f"{step}-1/{step}/1"
    found = judge.read({"kind": "placed", "attempt": attempt, "worker": worker, "waited_ms": "0"})
    assert found is not None
    return not found.misplaced


def test_judge_knows_right_from_wrong() -> None:
    assert placed(judge(), "caption", "gpu-fra")
    assert not placed(judge(), "caption", "gpu-iad")  # another has the model
    assert not placed(judge(), "caption", "small-sin")  # not enough memory
    assert not placed(judge(), "tango", "gpu-fra")  # nobody is in gru


def test_judge_takes_the_second_best_when_the_best_is_full() -> None:
    full = judge()
    for _ in range(FLEET["gpu-fra"].slots):
        assert placed(full, "caption", "gpu-fra")
    assert placed(full, "caption", "gpu-iad")
    full.read({"kind": "released", "attempt": "caption-1/caption/1", "worker": "gpu-fra"})
    assert not placed(full, "caption", "gpu-iad")


def test_judge_goes_by_labels_as_they_are() -> None:
    swapped = judge()
    upsert = json.dumps({"region": "gru"})
    swapped.read({"kind": "labels", "worker": "small-sin", "upsert": upsert, "delete": "[]"})
    assert placed(swapped, "tango", "small-sin")


def test_demo_tells_its_story_and_misplaces_nothing() -> None:
    screen = Console(file=io.StringIO(), width=120)
    assert demo(screen) == 0
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "0 misplaced" in text
    assert "6 of 6 steps followed the swapped model" in text
    assert "never with this fleet" in text

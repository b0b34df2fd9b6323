"""A worker's labels: checked, seen at once, announced in order."""

import threading
from typing import Any

import pytest

from ganger import Context, InvalidLabel
from ganger.live_labels import LiveLabels
from ganger_broker.labels import LabelValue
from ganger_broker.messages import LabelsChanged, StepFinished
from tests.unit.fake_dispatcher import working
from tests.unit.steps import app

Change = tuple[int, dict[str, LabelValue], list[str]]


def announced(labels: LiveLabels) -> list[Change]:
    changes: list[Change] = []
    labels.announce_to(lambda seq, upsert, delete, _: changes.append((seq, upsert, delete)))
    return changes


def test_changes_are_seen_at_once_and_announced_with_rising_sequences() -> None:
    labels = LiveLabels({"model": "a", "memory": 512})
    changes = announced(labels)
    labels.upsert({"model": "unset", "gpu": 1})
    assert labels.get() == {"model": "unset", "memory": 512, "gpu": 1}
    labels.delete(["gpu", "nope", "gpu"])
    assert labels.get() == {"model": "unset", "memory": 512}
    assert changes == [(1, {"model": "unset", "gpu": 1}, []), (2, {}, ["gpu"])]
    assert labels.snapshot() == ({"model": "unset", "memory": 512}, 2)


def test_deleting_what_is_not_there_changes_nothing() -> None:
    labels = LiveLabels()
    changes = announced(labels)
    labels.delete(["nope"])
    assert changes == []
    assert labels.snapshot() == ({}, 0)


def test_a_copy_is_handed_out() -> None:
    labels = LiveLabels({"a": 1})
    labels.get()["a"] = 2
    assert labels.get() == {"a": 1}


@pytest.mark.parametrize("bad", [{"a": None}, {"a": True}, {"": 1}, {"a": float("nan")}, {1: 1}])
def test_a_bad_change_is_refused_and_changes_nothing(bad: Any) -> None:
    labels = LiveLabels({"a": 1})
    changes = announced(labels)
    with pytest.raises(InvalidLabel):
        labels.upsert(bad)
    assert labels.get() == {"a": 1}
    assert changes == []


def test_more_than_64_labels_in_all_are_refused() -> None:
    labels = LiveLabels({f"k{number}": number for number in range(64)})
    labels.upsert({"k0": "other"})
    with pytest.raises(InvalidLabel, match="at most 64 labels, these are 65"):
        labels.upsert({"one-more": 1})
    assert len(labels.get()) == 64


def test_what_is_no_list_of_keys_is_refused() -> None:
    with pytest.raises(InvalidLabel, match="None must be a list of keys"):
        LiveLabels({"a": 1}).delete(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidLabel, match=r"must be a list of keys: \['ab'\]"):
        LiveLabels({"a": 1}).delete("ab")


def test_threads_announce_in_the_order_of_the_sequences() -> None:
    labels = LiveLabels()
    changes = announced(labels)

    def change(name: str) -> None:
        for number in range(200):
            labels.upsert({name: number})

    threads = [threading.Thread(target=change, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seq for seq, _, _ in changes] == list(range(1, 801))
    assert labels.get() == {f"t{n}": 199 for n in range(4)}


@app.workflow(name="labels")
class Labels:
    @app.step()
    def in_thread(self, context: Context) -> Any:
        context.worker.upsert_labels({"model": "unset"})
        context.worker.upsert_labels({"model": "new"})
        context.worker.delete_labels(["old"])
        return context.worker.get_labels()

    @app.step()
    async def awaited(self, context: Context) -> Any:
        await context.worker.async_upsert_labels({"model": "new"})
        return context.worker.get_labels()


async def test_a_thread_changes_labels_before_its_step_ends() -> None:
    async with working(Labels(), labels={"old": 1}) as found:
        dispatcher = found.dispatcher
        ended = await dispatcher.ended(await dispatcher.assign("labels:in_thread"))
        assert ended.output == {"model": "new"}
        changes = [
            (event.seq, event.upsert, event.delete) for event in dispatcher.of(LabelsChanged)
        ]
        assert changes == [
            (1, {"model": "unset"}, []),
            (2, {"model": "new"}, []),
            (3, {}, ["old"]),
        ]
        kinds = [type(event) for event in dispatcher.events]
        assert kinds.index(StepFinished) > kinds.index(LabelsChanged) + 2


async def test_an_awaited_change_is_confirmed_when_it_returns() -> None:
    async with working(Labels()) as found:
        dispatcher = found.dispatcher
        attempt = await dispatcher.assign("labels:awaited")
        await dispatcher.ended(attempt)
        # it went out in a body of its own, before the step could end
        (body,) = [
            body for body in dispatcher.bodies if any(isinstance(e, LabelsChanged) for e in body)
        ]
        assert not any(isinstance(event, StepFinished) for event in body)

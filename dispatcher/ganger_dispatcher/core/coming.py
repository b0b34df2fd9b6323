"""Labels that a step sets once it runs, counted by preferences from its assignment on."""

from collections.abc import Mapping

from ganger_broker.definitions import FromInput
from ganger_broker.errors import InvalidLabel
from ganger_broker.expressions import evaluate
from ganger_broker.labels import LabelValue, check_value

from .effects import StoreComing
from .records import Run, Worker
from .state import State

__all__ = ["arrived", "bring", "coming_labels", "expect", "expect_again"]


def coming_labels(run: Run, name: str) -> dict[str, LabelValue]:
    """What the step sets, as it says, for this run's input; what is no label is left out."""
    coming: dict[str, LabelValue] = {}
    for key, given in run.definitions[name].sets_labels.items():
        value = given
        if isinstance(given, FromInput):
            value = evaluate(given.from_input, run.header.input)
        try:
            coming[key] = check_value(value, key)
        except InvalidLabel:
            continue  # the step will not set it either
    return coming


def bring(state: State, worker: Worker, attempt: str, coming: Mapping[str, LabelValue]) -> None:
    """The attempt is the worker's and sets these labels. What the worker has already is not
    coming, unless something else is."""
    others = {key for labels in worker.coming.values() for key in labels}
    labels = {
        key: value
        for key, value in coming.items()
        if key in others or worker.labels.get(key) != value
    }
    if labels:
        worker.coming[attempt] = labels
        expect(state, worker)


def arrived(state: State, worker: Worker, upsert: Mapping[str, LabelValue]) -> None:
    """The worker has set labels: what was expected of it has come, and may go again. Other values
    of these keys end nothing: a step that loads something may well say that nothing is there."""
    left = {
        attempt: {key: value for key, value in labels.items() if upsert.get(key) != value}
        for attempt, labels in worker.coming.items()
    }
    if left != worker.coming:
        worker.coming = {attempt: labels for attempt, labels in left.items() if labels}
        expect(state, worker)


def expect(state: State, worker: Worker) -> None:
    """The labels that are coming to the worker are others now. There may be nobody any more for
    steps that wait for what it had."""
    expect_again(state, worker)
    state.look_again = bool(state.patient)
    state.emit(StoreComing(worker.id, dict(worker.coming)))


def expect_again(state: State, worker: Worker) -> None:
    """After a take-over: count what is coming to the worker. The step given last is right."""
    coming = {key: value for labels in worker.coming.values() for key, value in labels.items()}
    state.placement.expect(worker.id, coming)

"""Labels that a step sets once it runs, counted by preferences from its assignment on."""

from ganger_broker.definitions import FromInput
from ganger_broker.errors import InvalidLabel
from ganger_broker.expressions import evaluate
from ganger_broker.labels import LabelValue, check_value

from .effects import StoreComing
from .records import Run, Worker
from .state import State

__all__ = ["coming_labels", "expect", "expect_again"]


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


def expect(state: State, worker: Worker) -> None:
    """The labels that are coming to the worker are others now."""
    expect_again(state, worker)
    state.emit(StoreComing(worker.id, dict(worker.coming)))


def expect_again(state: State, worker: Worker) -> None:
    """After a take-over: count what is coming to the worker. The step given last is right."""
    coming = {key: value for labels in worker.coming.values() for key, value in labels.items()}
    state.placement.expect(worker.id, coming)

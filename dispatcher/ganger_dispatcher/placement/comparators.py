"""The truth table of ``docs/matching.md``: a worker's label on the left, desired on the right.

Each comparator is written once, over ``Column`` (a whole fleet, giving a mask) or
``Cell`` (one worker, giving a bool): what a full scan says and what the index keeps up
to date cannot differ.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from ganger_broker.labels import Condition, LabelValue, WorkerLabelComparator

from .columns import Cell, Column

__all__ = ["met"]

Comparator = Callable[[Any, Any], Any]


def _comparing(operation: Callable[[Any, Any], Any]) -> Comparator:
    return lambda cells, value: cells.compare(operation, value)


def _any_of(cells: Any, values: tuple[LabelValue, ...]) -> Any:
    return cells.any_of(values)


def _none_of(cells: Any, values: tuple[LabelValue, ...]) -> Any:
    # whoever is equal to one is comparable, so the difference of the two masks is their xor
    return cells.comparable(values) ^ cells.any_of(values)


_COMPARATORS: Mapping[WorkerLabelComparator, Comparator] = {
    WorkerLabelComparator.EQUAL: lambda cells, value: _any_of(cells, (value,)),
    WorkerLabelComparator.NOT_EQUAL: lambda cells, value: _none_of(cells, (value,)),
    WorkerLabelComparator.GREATER_THAN: _comparing(operator.gt),
    WorkerLabelComparator.GREATER_THAN_OR_EQUAL: _comparing(operator.ge),
    WorkerLabelComparator.LESS_THAN: _comparing(operator.lt),
    WorkerLabelComparator.LESS_THAN_OR_EQUAL: _comparing(operator.le),
    WorkerLabelComparator.IN: _any_of,
    WorkerLabelComparator.NOT_IN: _none_of,
    WorkerLabelComparator.EXISTS: lambda cells, _: cells.present(),
    WorkerLabelComparator.NOT_EXISTS: lambda cells, _: cells.absent(),
}


def met(condition: Condition, cells: Column | Cell) -> Any:
    """Who meets ``condition``: a bool mask over a column's rows, or a bool for a cell."""
    return _COMPARATORS[condition.comparator](cells, condition.value)

"""How well workers suit a requirement, by labels alone, as one whole number.

A score is ``highest weight met × 2^32 + sum of the weights met``: comparing scores
compares the highest weight first, then the sum. ``INELIGIBLE`` says a required
condition is not met. Load and idleness rank workers of equal score; they change with
every step, so they are kept apart (``placement.index``).
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ganger_broker.labels import Condition, LabelValue

from .columns import Cell, Column
from .comparators import met

__all__ = ["INELIGIBLE", "score_column", "score_worker", "weights"]

INELIGIBLE = -1

_SUM_BITS = 32
"""64 conditions of at most 1,000,000 each stay far below 2^32."""


def score_worker(conditions: tuple[Condition, ...], labels: Mapping[str, LabelValue]) -> int:
    """The score of one worker."""
    highest = total = 0
    for condition in conditions:
        if met(condition, Cell(labels.get(condition.key))):
            weight = condition.weight
            if not condition.required:
                total += weight
                if weight > highest:
                    highest = weight
        elif condition.required:
            return INELIGIBLE
    return highest << _SUM_BITS | total


def score_column(
    conditions: tuple[Condition, ...],
    column_of: Callable[[str], Column],
    eligible: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """The scores of all rows, int64; ``eligible`` is the mask of rows to begin with."""
    highest = np.zeros(len(eligible), np.int64)
    total = np.zeros(len(eligible), np.int64)
    for condition in conditions:
        mask = met(condition, column_of(condition.key))[: len(eligible)]
        if condition.required:
            eligible = eligible & mask
        else:
            points = mask * np.int64(condition.weight)
            total += points
            np.maximum(highest, points, out=highest)
    return np.where(eligible, highest << _SUM_BITS | total, INELIGIBLE)


def weights(score: int) -> tuple[int, int]:
    """A score's (highest weight, sum of weights)."""
    return score >> _SUM_BITS, score & ((1 << _SUM_BITS) - 1)

"""Looking for reference cycles, seldom, in processes that are Ganger's own."""

import gc

__all__ = ["collect_seldom"]


def collect_seldom(after: int) -> None:
    """Look for cycles after so many new objects, and not among what there is now.

    Python's default is 700. A dispatcher or a worker makes few cycles, and for each step in
    hand holds many objects: looking that often takes a tenth to a fifth of its time.
    """
    gc.freeze()
    gc.set_threshold(after, 10, 10)

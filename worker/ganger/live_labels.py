"""A worker's own labels, as they are now."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ganger_broker.errors import GangerError, InvalidLabel
from ganger_broker.labels import LabelValue, check_key, check_labels
from ganger_broker.pool_labels import check_not_reserved

__all__ = ["Announce", "LiveLabels"]

Then = Callable[[GangerError | None], None]
Announce = Callable[[int, dict[str, LabelValue], list[str], Then | None], None]
"""Called with a change's sequence, what it sets, what it deletes, and what to call when
the broker has confirmed it (or never will)."""


class LiveLabels:
    """Labels that any thread may read and change; each change has the next sequence.

    A change is visible at once, and announced in the order in which it was made. ``reserved``:
    labels that say which machine this is; nobody changes them.
    """

    def __init__(
        self,
        labels: Mapping[str, LabelValue] | None = None,
        reserved: Mapping[str, LabelValue] | None = None,
    ) -> None:
        own = check_labels({} if labels is None else labels)
        check_not_reserved(own)
        self._labels = check_labels({**own, **(reserved or {})})
        self._seq = 0
        self._lock = threading.Lock()
        self._announce: Announce | None = None

    def announce_to(self, announce: Announce | None) -> None:
        """Announce later changes there; None: nowhere, the worker is not running."""
        with self._lock:
            self._announce = announce

    def get(self) -> dict[str, LabelValue]:
        """A copy of the labels."""
        with self._lock:
            return dict(self._labels)

    def snapshot(self) -> tuple[dict[str, LabelValue], int]:
        """A copy of the labels and the sequence of the last change in them."""
        with self._lock:
            return dict(self._labels), self._seq

    def upsert(self, labels: Mapping[str, Any], then: Then | None = None) -> None:
        """Set these labels, all at once, and keep the others.

        Raises:
            InvalidLabel: a key or value is wrong, or they would be more than 64 in all.
        """
        upsert = check_labels(labels)
        check_not_reserved(upsert)
        with self._lock:
            merged = check_labels({**self._labels, **upsert})
            self._change(merged, upsert, [], then)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete labels; those that are not there are passed over.

        Raises:
            InvalidLabel: a key cannot be one.
        """
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            raise InvalidLabel(f"labels: {keys!r} must be a list of keys: [{keys!r}]")
        given = [check_key(key, "labels") for key in keys]
        check_not_reserved(given)
        with self._lock:
            delete = [key for key in dict.fromkeys(given) if key in self._labels]
            if delete:
                left = {key: v for key, v in self._labels.items() if key not in delete}
                self._change(left, {}, delete, None)

    def _change(
        self,
        labels: dict[str, LabelValue],
        upsert: dict[str, LabelValue],
        delete: list[str],
        then: Then | None,
    ) -> None:
        self._labels = labels
        self._seq += 1
        # under the lock: the outbox gets changes in the order of their sequences
        if self._announce is not None:
            self._announce(self._seq, upsert, delete, then)
        elif then is not None:
            then(None)

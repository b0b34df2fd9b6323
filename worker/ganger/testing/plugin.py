"""The pytest plugin, which pytest finds by itself where Ganger is installed."""

from collections.abc import Iterator

import pytest

from .fleet import Fleet

__all__ = ["ganger_fleet"]


@pytest.fixture
def ganger_fleet() -> Iterator[Fleet]:
    """A ``ganger.testing.Fleet`` without workers; it is closed when the test has ended."""
    with Fleet() as fleet:
        yield fleet

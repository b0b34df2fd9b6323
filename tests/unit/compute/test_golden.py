"""What the adapters render, whole, as files to be read in a review."""

import pytest

from .cases import GOLDEN, rendered

FILES = sorted(path.name for path in GOLDEN.glob("*.yaml"))


@pytest.mark.parametrize("name", FILES)
def test_what_is_rendered_is_the_file(name: str) -> None:
    assert rendered()[name] == (GOLDEN / name).read_text(), (
        "python -m tests.unit.compute.cases writes the files anew"
    )


def test_there_is_a_file_of_every_case() -> None:
    assert set(FILES) == set(rendered())

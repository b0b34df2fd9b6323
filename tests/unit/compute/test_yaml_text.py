"""YAML that each reader takes for what it was: kubectl and compose read another than PyYAML."""

import pytest
import yaml

from ganger.compute.yaml_text import yaml_text


@pytest.mark.parametrize(
    "text",
    ["4e2", "1234e56", "089", "0o17", "0x1f", "0b11", "1_0e2", ".5", "-1", "+3", "inf", "y", "N"],
)
def test_a_text_that_others_take_for_something_else_is_quoted(text: str) -> None:
    assert yaml_text([{"a": text}]) == f"---\na: '{text}'\n"


@pytest.mark.parametrize("text", ["500m", "1024Mi", "a1", "4e", "e2", "10.0.0.1", "yes please"])
def test_others_are_left_as_people_write_them(text: str) -> None:
    written = yaml_text([{"a": text}])
    assert written == f"---\na: {text}\n"
    assert yaml.safe_load(written) == {"a": text}

"""What the how-to pages show is what is rendered, and what they say can be set can be."""

import re
from pathlib import Path

import pytest

from ganger.compute.compose import Compose
from ganger.compute.deploying import name_from
from ganger.compute.kubernetes import Kubernetes

from .cases import rendered

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"


@pytest.mark.parametrize(
    ("page", "number", "name"),
    [
        ("deploy-kubernetes.md", 0, "deployments.yaml"),
        ("deploy-kubernetes.md", 1, "scaled.yaml"),
        ("deploy-compose.md", 0, "compose.yaml"),
    ],
)
def test_an_excerpt_is_of_what_is_rendered(page: str, number: int, name: str) -> None:
    """Its lines are all there and in this order; some between them may be left out."""
    blocks = re.findall(r"```yaml\n(.*?)```", (HOW_TO / page).read_text(), re.S)
    rest = iter(rendered()[name].splitlines())
    for line in blocks[number].splitlines():
        assert line in rest


@pytest.mark.parametrize("page", [page.name for page in HOW_TO.glob("deploy-*.md")])
def test_what_is_put_up_is_what_is_taken_down(page: str) -> None:
    text = (HOW_TO / page).read_text()
    up = {name_from(target) for target in re.findall(r"^\$ ganger compute up (\S+)", text, re.M)}
    down = set(re.findall(r"^\$ ganger compute down ([\w-]+)", text, re.M))
    assert len(up) == 1
    assert down <= up


def test_the_pages_name_every_option() -> None:
    for page, adapter in [("deploy-kubernetes.md", Kubernetes), ("deploy-compose.md", Compose)]:
        text = (HOW_TO / page).read_text()
        assert [
            name for name in adapter.options if f"{name}=" not in text and f"`{name}`" not in text
        ] == []

"""What the docs say of tables in the code is what the code says."""

import re
from pathlib import Path

from ganger_broker.labels import WorkerLabelComparator
from ganger_broker.topology import DELIVERY_LIMIT, Queue, Topology
from ganger_dispatcher.core.states import TRANSITIONS
from ganger_dispatcher.explanation import Code

DOCS = Path(__file__).parents[2] / "docs"


def test_the_transitions_in_the_architecture_are_those_of_the_table() -> None:
    text = (DOCS / "architecture.md").read_text()
    between = text.split("<!-- transitions -->")[1].split("<!-- /transitions -->")[0]
    rows = [tuple(row) for row in re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \|$", between, re.M)]
    assert rows[0] == ("from", "change", "to")
    assert set(rows[1:]) == {
        (before.value, change.value, to.value) for (before, change), to in TRANSITIONS.items()
    }


def test_the_truth_table_names_every_comparator_and_code() -> None:
    text = (DOCS / "matching.md").read_text()
    for word in [*WorkerLabelComparator, *Code]:
        assert f"`{word}`" in text


def test_the_queues_in_the_architecture_are_those_declared() -> None:
    text = (DOCS / "architecture.md").read_text()
    shared = [item.name for item in Topology().shared() if isinstance(item, Queue)]
    assert all(f"`{name}`" in text for name in shared)
    assert f"delivery limit {DELIVERY_LIMIT}" in text

"""What the docs say of tables in the code is what the code says."""

import inspect
import re
from pathlib import Path

from ganger.compute import regions
from ganger.compute.advice import AdviceCode
from ganger.compute.planning import replicas_to_fill
from ganger_broker.keys import Keys
from ganger_broker.labels import WorkerLabelComparator
from ganger_broker.messages import FailureReason
from ganger_broker.pool_labels import CPU_KIND, CPUS, MEMORY_MB, POOL, REGION
from ganger_broker.settings import Settings, environment_name
from ganger_broker.topology import DELIVERY_LIMIT, Queue, Topology
from ganger_dispatcher.core.states import TRANSITIONS
from ganger_dispatcher.explanation import Code

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CORE = ROOT / "dispatcher" / "ganger_dispatcher" / "core"
TABLE = regions()  # before any test adds one
DOCTOR = ROOT / "dispatcher" / "ganger_dispatcher" / "doctor"


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


def test_the_triggers_page_names_every_reason_of_an_answer() -> None:
    text = (DOCS / "triggers.md").read_text()
    assert set(re.findall(r"^\| `([A-Z_]+)` \| `(?:failed|cancelled)` \|", text, re.M)) == set(
        FailureReason
    )


def test_the_queues_in_the_architecture_are_those_declared() -> None:
    text = (DOCS / "architecture.md").read_text()
    shared = [item.name for item in Topology().shared() if isinstance(item, Queue)]
    assert all(f"`{name}`" in text for name in shared)
    assert f"delivery limit {DELIVERY_LIMIT}" in text


def test_redis_page_names_every_key_counter_and_feed_entry() -> None:
    text = (DOCS / "redis.md").read_text()
    for name, member in vars(Keys).items():
        if isinstance(member, property):
            assert f"`{getattr(Keys(), name)}`" in text
        elif inspect.isfunction(member) and not name.startswith("_"):
            (parameter,) = list(inspect.signature(member).parameters)[1:]
            stands_for = "<name>" if parameter == "name" else "<id>"
            assert f"`{getattr(Keys(), name)(stands_for)}`" in text
    sources = "".join(path.read_text() for path in CORE.glob("*.py"))
    for kind in re.findall(r'Note\(\s*"(\w+)"', sources):
        assert f"`{kind}`" in text
    for counter in re.findall(r'Count\(\s*"(\w+)"', sources):
        assert f"`{counter}`" in text


def test_operations_names_every_check() -> None:
    text = (DOCS / "operations.md").read_text()
    sources = "".join(path.read_text() for path in DOCTOR.glob("*.py"))
    checks = {"settings", *re.findall(r'Finding\("([a-z ]+)"', sources)}
    assert len(checks) > 10
    for check in checks:
        assert f"| `{check}` |" in text


def test_operations_names_every_setting() -> None:
    text = (DOCS / "operations.md").read_text()
    for setting in Settings.model_fields:
        assert f"`{environment_name(setting)}`" in text


def test_the_compute_page_has_every_region_warning_and_label() -> None:
    text = (DOCS / "how-to" / "compute.md").read_text()
    table = "".join(f"| `{r.code}` | {r.city} | {r.country} |\n" for r in TABLE.values())
    assert table in text
    codes = re.findall(r"^\| `([a-z_]+)` \| [a-z]", text, re.M)
    assert set(codes) == {code.value for code in AdviceCode}
    for label in (POOL, REGION, CPU_KIND, CPUS, MEMORY_MB):
        assert f"`{label}`" in text
    for count, enough in ((2, "8 for two"), (3, "15 for three"), (34, "273 for all 34")):
        assert enough in text
        assert enough.startswith(str(replicas_to_fill(count)))

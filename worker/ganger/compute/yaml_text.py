"""Documents as YAML that people can read: in the order given, without anchors."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import yaml

__all__ = ["yaml_text"]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Quoted also where other readers take for a number or a bool what YAML 1.1, which this
        library writes, takes for text: ``4e2``, ``089``, ``0o17``, ``y``."""
        style = "'" if _means_more(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Plain.add_representer(str, _Plain.represent_text)


def _means_more(text: str) -> bool:
    if text in ("y", "Y", "n", "N"):
        return True
    digits = text.replace("_", "")
    for read in (float, lambda given: int(given, 0)):
        with suppress(ValueError):
            read(digits)
            return True
    return False


def yaml_text(documents: Iterable[dict[str, Any]]) -> str:
    """Each begins with ``---``, so that texts can be put one after the other."""
    return yaml.dump_all(
        documents,
        Dumper=_Plain,
        explicit_start=True,
        sort_keys=False,
        allow_unicode=True,
        width=1_000,
    )

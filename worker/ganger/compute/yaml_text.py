"""Documents as YAML that people can read: in the order given, without anchors."""

from collections.abc import Iterable
from typing import Any

import yaml

__all__ = ["yaml_text"]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


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

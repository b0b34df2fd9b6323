"""``Compute``: what machine the workers of a step run on, checked where it is written."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from .regions import check_region

__all__ = ["Compute", "CpuKind", "memory_range"]

_LEFT_OUT: Any = object()
MAX_CPUS = 64
MAX_REPLICAS = 1_000


class CpuKind(StrEnum):
    """Whether a cpu is shared with others or one's own."""

    SHARED = "shared"
    PERFORMANCE = "performance"


_MEMORY_PER_CPU = {CpuKind.SHARED: (256, 2_048), CpuKind.PERFORMANCE: (2_048, 8_192)}
"""MB: least and most for each cpu."""


def memory_range(kind: CpuKind, cpus: int) -> tuple[int, int]:
    """The least and the most MB that so many cpus of this kind can have."""
    least, most = _MEMORY_PER_CPU[kind]
    return least * cpus, most * cpus


class Compute(BaseModel):
    """A machine, how many of it, and where: ``Compute(cpu_kind="shared", cpus=2,
    memory_mb=1024, num_replicas=3, regions=["fra", "iad"])``, or the same in this order without
    the names.

    Immutable, comparable and hashable: steps with equal ``Compute`` share one pool of workers.
    The order of the regions says nothing.

    Raises:
        pydantic.ValidationError: a ``ValueError`` that names every field that is wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_kind: CpuKind
    cpus: Annotated[int, Field(strict=True, ge=1, le=MAX_CPUS)]
    memory_mb: Annotated[int, Field(strict=True)]
    """MB of 2^20 bytes."""
    num_replicas: Annotated[int, Field(strict=True, ge=0, le=MAX_REPLICAS)] = 1
    """0: scaled to nothing."""
    regions: tuple[str, ...]

    def __init__(
        self,
        cpu_kind: CpuKind | str = _LEFT_OUT,
        cpus: int = _LEFT_OUT,
        memory_mb: int = _LEFT_OUT,
        num_replicas: int = 1,
        regions: Collection[str] = _LEFT_OUT,
        **others: Any,
    ) -> None:
        given = {
            "cpu_kind": cpu_kind,
            "cpus": cpus,
            "memory_mb": memory_mb,
            "num_replicas": num_replicas,
            "regions": regions,
        }
        # those that are left out, or that there are not, are told with all else that is wrong
        super().__init__(**{k: v for k, v in given.items() if v is not _LEFT_OUT}, **others)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same but for ``update``, which is checked, as all of it is."""
        return type(self)(**{**dict(self), **(update or {})})

    @field_validator("cpu_kind", mode="before")
    @classmethod
    def _is_a_text(cls, kind: Any) -> Any:
        if not isinstance(kind, str):
            raise ValueError(f"{kind!r} must be 'shared' or 'performance'")
        return kind

    @field_validator("memory_mb")
    @classmethod
    def _fits_the_cpus(cls, memory: int, info: ValidationInfo) -> int:
        kind, cpus = info.data.get("cpu_kind"), info.data.get("cpus")
        if kind is not None and cpus is not None:
            least, most = memory_range(kind, cpus)
            what = f"{cpus} {kind} cpu{'s' if cpus > 1 else ''}"
        else:  # those are wrong, and are told; what no machine has is wrong whatever they are
            least = min(each for each, _ in _MEMORY_PER_CPU.values())
            most = MAX_CPUS * max(each for _, each in _MEMORY_PER_CPU.values())
            what = "any machine"
        if not least <= memory <= most:
            raise ValueError(f"{memory:,} must be from {least:,} to {most:,} MB for {what}")
        return memory

    @field_validator("regions", mode="before")
    @classmethod
    def _are_regions(cls, given: Any) -> tuple[str, ...]:
        if not isinstance(given, Collection) or isinstance(given, str | bytes | Mapping):
            raise ValueError(f"{given!r} must be a list of regions, such as ['fra', 'iad']")
        if not given:
            raise ValueError("must name at least one region")
        codes, wrong = list(given), []
        for code in codes:
            try:
                check_region(code)
            except ValueError as exc:
                wrong.append(str(exc))
        twice = dict.fromkeys(str(code) for code in codes if codes.count(code) > 1)
        if twice:
            wrong.append(f"{', '.join(twice)} is named more than once")
        if wrong:
            raise ValueError("; ".join(dict.fromkeys(wrong)))
        return tuple(sorted(codes))

"""What machine the workers of a step run on."""

from .configs import Compute, CpuKind
from .regions import Region, add_region, regions

__all__ = ["Compute", "CpuKind", "Region", "add_region", "regions"]

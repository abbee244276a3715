"""How many processor cores there are to compute on: a job's or a container's share, not all that
the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may keep busy, at least 1: as SLURM binds it to them, or as a
    container's quota says (rounded up)."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = (
            _CGROUP_QUOTA.read_text().split()
        )  # cgroup v2: "200000 100000" is two cores, "max 100000" all
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores

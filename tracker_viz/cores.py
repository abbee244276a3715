"""Count the processor cores to compute on: a job's or a container's share, not the machine's."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return how many cores this process may keep busy, at least 1: as SLURM binds it to them, or
    as a container's quota allows (rounded up)."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        # cgroup v2: "200000 100000" is two cores, "max 100000" all
        quota, period = _CGROUP_QUOTA.read_text().split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, allowed))

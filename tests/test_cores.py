"""Threads are counted by what this process was given, not by what the machine has."""

from __future__ import annotations

import os

import pytest

from tracker_viz import cores


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [
        (8, "max 100000", 8),
        (8, "250000 100000", 3),
        (2, "800000 100000", 2),
        (8, "5000 100000", 1),
        (8, None, 8),
        (8, "", 8),
    ],
)
def test_the_smaller_of_affinity_and_quota_counts(monkeypatch, tmp_path, affinity, quota, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(affinity)))
    monkeypatch.setattr(cores, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cores.usable_cores() == expected


def test_a_process_bound_to_one_core_uses_one():
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everywhere)})
        assert cores.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everywhere)

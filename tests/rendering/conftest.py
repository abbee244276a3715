"""Made-up runs as files, made once for all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "synthetic_run", Path(__file__).with_name("synthetic_run.py")
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """What is kept for the next process is none of the user's, nor is what is kept when this
    process ends: so this is not undone."""
    os.environ["TRACKER_VIZ_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def synthetic():
    return synthetic_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """2 blocks x 3 heads, T = 24, two probe rows, 6 captures."""
    return synthetic_run.write_run(
        tmp_path_factory.mktemp("small"),
        6,
        blocks=2,
        heads=3,
        length=24,
        width=24,
        hidden=40,
        period=7,
    )


@pytest.fixture(scope="session")
def many_heads_run(tmp_path_factory):
    """32 blocks x 32 heads, T = 32."""
    return synthetic_run.write_run(
        tmp_path_factory.mktemp("many"),
        3,
        blocks=32,
        heads=32,
        length=32,
        width=16,
        hidden=24,
        period=9,
        probes=1,
    )

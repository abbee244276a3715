"""The pages of the benchmarks say what the JSON files beside them hold: no figure is edited by
hand, and none is out of date."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGES = {"capture": ROOT / "docs" / "pages" / "capture_cost.md"}
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_benchmark_is_what_it_reports_of_its_results(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, benchmark)
    spec.loader.exec_module(benchmark)
    found = json.loads((BENCHMARKS / f"{name}.json").read_text())
    page = PAGES.get(name, BENCHMARKS / f"{name}.md")
    assert page.read_text() == benchmark.report(found), "change the benchmark, not its page"


def test_a_benchmark_is_imported_without_what_only_its_measurements_need():
    code = (
        "import importlib, sys\n"
        "before = list(sys.path)\n"
        f"for name in {NAMES}: importlib.import_module(name)\n"
        "assert before == sys.path\n"
        "for heavy in ('playwright', 'mlflow', 'wandb', 'transformers'):\n"
        "    assert heavy not in sys.modules, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]

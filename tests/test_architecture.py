"""The shape of the package: what may import what, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tracker_viz

PACKAGE = Path(tracker_viz.__file__).parent

# Each layer may import from the layers below it, and from itself; two names in one layer never
# import each other.
LAYERS = [
    ["jobs", "integrations"],
    ["pipeline"],
    ["capture", "delivery", "rendering", "video", "comparison", "demo"],
    ["trackers"],
    ["capture_file", "metrics"],
    ["files", "types", "options"],
    ["plugins"],
    ["errors", "cores", "commands", "progress"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_stations(path: Path) -> set[str]:
    stations = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module]
                if node.module != "tracker_viz"
                else [f"tracker_viz.{alias.name}" for alias in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        stations |= {name.split(".")[1] for name in names if name.startswith("tracker_viz.")}
    return stations


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path):
    station = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if station in {"__init__", "__main__", "conf"}:
        return
    assert station in LEVEL, f"new station {station!r}: give it a layer here"
    for target in imported_stations(path) - {station, "__version__"}:
        assert LEVEL[target] > LEVEL[station], f"{station} must not import {target}"


def test_importing_the_package_loads_nothing_heavy():
    program = (
        "import sys, tracker_viz; print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    heavy = [
        "torch",
        "wandb",
        "mlflow",
        "cv2",
        "seaborn",
        "matplotlib",
        "hydra",
        "pydantic",
        "numpy",
        "transformers",
    ]
    loaded = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert loaded == "[]"


def test_every_public_name_is_there():
    for name in tracker_viz.__all__:
        assert getattr(tracker_viz, name) is not None


def test_unknown_public_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="watch"):
        _ = tracker_viz.wacth

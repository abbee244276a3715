"""The shape of the package: what may import what, and what importing it costs."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tracker_viz

PACKAGE = Path(tracker_viz.__file__).parent
REPOSITORY = Path(__file__).parent.parent

# Each layer may import from the layers below it, and from itself; two names in one layer never
# import each other.
LAYERS = [
    ["jobs", "integrations"],
    ["pipeline"],
    ["capture", "delivery", "rendering", "video", "comparison", "demo"],
    ["trackers"],
    ["capture_file", "metrics"],
    ["stored"],
    ["files", "types", "options"],
    ["plugins"],
    ["errors", "cores", "commands", "notice", "progress"],
    ["notebook"],
]

# The same within a package: of its modules and folders.
INNER_LAYERS = {
    "rendering": [
        ["export"],
        ["painting"],
        ["planning"],
        ["measuring", "subject"],
        ["layout", "plan", "storyboard"],
        ["role_key", "scales", "story", "text"],
        ["series", "sources", "theme"],
        ["backend", "kept"],
    ],
    "capture": [
        ["ablation", "checkpoints", "inspection", "options", "recorder"],
        ["camera", "governor"],
        ["budget", "loop_counter", "schedule"],
        ["checks"],
        ["routing", "signals"],
        ["discover"],
        ["attention", "weights"],
        ["isolation", "probe", "tracing"],
        ["distributed", "needs_torch", "offload", "spelling"],
    ],
    "trackers": [
        ["mlflow", "wandb"],  # the adapters, which know nothing of each other
        ["local", "testing"],
        ["download", "file_run", "registry", "sweep"],
        ["tracker"],
        ["base"],
        ["bounded", "capture_index", "redaction", "run_config", "values"],
    ],
    "delivery": [
        ["outbox", "push"],
        ["report"],
        ["uploader"],
        ["spool_writer", "transfer"],
        ["spool"],
        ["backlog", "delivery_status", "destinations", "journal", "points", "spool_lock", "taps"],
    ],
    "pipeline": [
        ["preview_process"],  # a program of its own, which follows a spool
        ["backfill", "compare", "follow", "inspect", "live", "sweep", "verify", "watch"],
        ["verify_subject"],
        ["verify_rows"],
        ["comparing", "following", "recording"],
        ["render"],
        ["results"],
        ["showing"],
        ["scoring"],
        ["load", "options"],
    ],
    "video": [
        ["growing", "small_copy"],
        ["writer"],
        ["read_back"],
        ["encoders"],
        ["opencv", "pyav"],
        ["protocol"],
    ],
}

# Third parties import these without a user in here.
INTERFACE = {"LoggerRun"}
# Their modules are what users import: a callback, a command.
WITHOUT_A_FACE = {"integrations", "jobs"}

PRODUCT = sorted(PACKAGE.rglob("*.py"))


def path_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def module_name(path: Path) -> str:
    """Return the module's name without ``tracker_viz.``; empty for the root and outside."""
    if PACKAGE not in path.parents:
        return ""
    return (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .strip(".")
    )


MODULES = {module_name(path): path for path in PRODUCT}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py" and name}


@cache
def imports(path: Path) -> frozenset[tuple[str, str]]:
    """Return (module without ``tracker_viz.``, name) of every import of ours, also within functions
    and for types only. The name is empty for ``import tracker_viz.module``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tracker_viz":
            module = node.module.removeprefix("tracker_viz").strip(".")
            found |= {(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.startswith("tracker_viz.")]
            found |= {(name.removeprefix("tracker_viz."), "") for name in ours}
    return frozenset(found)


def is_named_in(face: str, name: str) -> bool:
    """Return whether the module ``face`` imports ``name`` itself, as a face that exports it."""
    return any(imported == name for _, imported in imports(MODULES[face]))


def imported_modules(path: Path) -> set[str]:
    """Return the modules of ours that ``path`` imports."""
    modules = set()
    for module, name in imports(path):
        submodule = f"{module}.{name}".strip(".")
        is_submodule = submodule in MODULES and not (module and is_named_in(module, name))
        modules.add(submodule if is_submodule else module)
    return modules - {"", module_name(path)}


def check_layers(layers: list[list[str]], name: str, targets: set[str]) -> None:
    level = {each: number for number, layer in enumerate(layers) for each in layer}
    assert name in level, f"new station {name!r}: give it a layer here"
    for target in targets - {name}:
        assert level[target] > level[name], f"{name} must not import {target}"


@pytest.mark.parametrize("path", PRODUCT, ids=path_name)
def test_imports_point_down(path):
    station, _, inner = module_name(path).partition(".")
    if station in {"", "conf"}:
        return
    modules = imported_modules(path)
    check_layers(LAYERS, station, {module.split(".")[0] for module in modules})
    if inner and station in INNER_LAYERS:
        neighbors = {module.split(".")[1] for module in modules if module.startswith(f"{station}.")}
        check_layers(INNER_LAYERS[station], inner.split(".")[0], neighbors)


@pytest.mark.parametrize(
    "path", [*PRODUCT, REPOSITORY / "train.py", *REPOSITORY.glob("examples/*.py")], ids=path_name
)
def test_packages_are_entered_by_their_faces(path):
    if path == PACKAGE / "__init__.py":
        return  # lazy; for mypy it names the functions that are called as their modules
    others = PACKAGES - WITHOUT_A_FACE - {own_package(path)}
    for module in imported_modules(path):
        package, _, inner = module.partition(".")
        if package in others:
            assert not inner, f"import it from tracker_viz.{package}, not from {module}"


def test_faces_export_what_others_use():
    used = {
        (module.removeprefix("tracker_viz."), name) for name, module in tracker_viz._PUBLIC.items()
    }
    for folder in ("tracker_viz", "tests", "benchmarks", "examples"):
        for path in REPOSITORY.joinpath(folder).rglob("*.py"):
            used |= used_of_faces(path)
    used |= used_of_faces(REPOSITORY / "train.py")
    for face in PACKAGES:
        unused = {name for name in exported_names(face) if (face, name) not in used}
        assert unused <= INTERFACE, f"nobody outside uses these names of tracker_viz.{face}"


def exported_names(face: str) -> list[str]:
    for node in ast.parse(MODULES[face].read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def used_of_faces(path: Path) -> set[tuple[str, str]]:
    """Return (face, name) of what ``path`` imports from faces, or reads of them as an attribute."""
    used = {(module, name) for module, name in imports(path) if module != own_package(path)}
    whole = {name for module, name in imports(path) if module == "" and name in PACKAGES}
    if not whole:
        return used
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in whole:
            used.add((ast.unparse(node.value), node.attr))
    return used


def own_package(path: Path) -> str:
    """Return the package of ours that ``path`` is in; empty outside of them."""
    return path.relative_to(PACKAGE).parts[0] if PACKAGE in path.parents else ""


def test_temporary_places_are_made_where_their_removal_is_known():
    makes = re.compile(r"tempfile\.(mkdtemp|mkstemp|TemporaryDirectory|NamedTemporaryFile)")
    makers = [path for path in PRODUCT if makes.search(path.read_text())]
    assert makers == [PACKAGE / "files.py"]


def test_no_import_circle():
    graph = {name: imported_modules(path) for name, path in MODULES.items() if name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_contributing_draws_the_layers():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    picture = text.split("imports point down only")[1].split("`import tracker_viz`")[0]
    drawn = []
    for line in re.findall(r"^ {4,}(?:└─ )?(.+)$", picture, flags=re.MULTILINE):
        names = re.split(r"\s{2,}", line)[0]
        drawn.append([name for name in re.split(r" │ |, ", names) if name != "train.py"])
    assert drawn == LAYERS


def test_contributing_says_which_promise_each_test_file_holds():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    table = text.split("### Which test holds which promise")[1].split("\n## ")[0]
    patterns = []
    folder = ""
    for word in re.findall(r"`([^`]+)`", table):
        folder = f"{word.rpartition('/')[0]}/" if "/" in word else folder
        patterns.append(f"{folder}{word.rpartition('/')[2] or '*'}")
    files = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("tests/**/test_*.py")}
    for pattern in patterns:
        files -= set(fnmatch.filter(files, pattern))
    assert not files, "CONTRIBUTING.md: in the table, name which promise these hold"


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
        "IPython",
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

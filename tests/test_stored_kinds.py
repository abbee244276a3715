"""What earlier versions stored of models with adapters, experts and mixing maps is read and drawn.

``tests/stored/kinds/<version>/`` holds it; ``tests/stored/kinds.py`` says how a version adds its
own.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import tracker_viz as tv
from tracker_viz.metrics.score_file import read_score_file

STORED = Path(__file__).with_name("stored")
RUNS = sorted(path.parent for path in STORED.glob("kinds/*/*/run.json"))
LAYOUTS = {"adapters": "adapters", "mixture": "experts", "mixing": "heads"}
ARRAYS = {
    "adapters": "blocks.0.attn.w_q.lora_a",
    "mixture": "scores.expert.load",
    "mixing": "blocks.0.mixer.mixing",
}


def _arrays_sha256(capture: tv.Capture) -> str:
    spec = importlib.util.spec_from_file_location("stored_make", STORED / "make.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(STORED)  # it imports tiny_run
        spec.loader.exec_module(module)
    return module.arrays_sha256(capture)


@pytest.fixture(params=RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a stored run."""
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def expected(run: Path, version: str) -> dict:
    return json.loads((STORED / "kinds" / version / "expected.json").read_text())[run.name]


def test_the_corpus_has_every_kind():
    assert {path.name for path in RUNS} == set(LAYOUTS) == set(ARRAYS)


def test_captures_of_every_kind_are_read(run: Path, request: pytest.FixtureRequest):
    version = request.node.callspec.params["run"].parent.name
    known = expected(run, version)
    captures = list(tv.load_captures(f"local:{run}"))
    for capture, described in zip(captures, known["captures"], strict=True):
        assert capture.step == described["step"]
        assert _arrays_sha256(capture) == described["arrays_sha256"]
        assert {name: list(axes) for name, axes in capture.axes.items()} == known["axes"]
        assert {name: list(labels) for name, labels in capture.labels.items()} == known["labels"]
    assert ARRAYS[run.name] in known["axes"]
    scores = read_score_file(run / "scores/heads.safetensors")
    assert [ref.step for ref in scores.captures] == [capture.step for capture in captures]


def test_runs_of_every_kind_are_drawn(run: Path, tmp_path: Path):
    poster = tv.render(
        f"local:{run}",
        layout=LAYOUTS[run.name],
        format="poster",
        video={"size": "640x360"},
        upload=False,
        output=tmp_path / "poster.png",
        progress=False,
    )
    assert Image.open(poster).width >= 640

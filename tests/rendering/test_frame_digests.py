"""Pictures stay as they are, bit for bit, until somebody looks at new ones and records them.

A refactoring changes no pixel: the digests of first, middle and last frame say so, of every layout
and of a comparison, as their lossless video plays them. The fonts are those of matplotlib, so the
digests hold for the version of it that ``constraints.txt`` pins.

To look at the pictures as they are now, and to record them as they should be from now on:

    python tests/rendering/test_frame_digests.py <directory> [<case> ...]
    python tests/rendering/test_frame_digests.py <directory> [<case> ...] --record
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import pytest
from PIL import Image

import tracker_viz as tv
from tracker_viz import capture_file, trackers
from tracker_viz.rendering import LAYOUTS
from tracker_viz.types import CapturePath

DIGESTS = Path(__file__).with_name("frame_digests.json")
VIDEO = {
    "size": "720p",
    "encoder": "lossless",
    "seconds_per_capture": 0.05,
    "hold_s": 0.05,
    "workers": 1,
}
N_CAPTURES = 5
MOMENTS = {"first": 0, "middle": 2, "last": -1}

Runs = dict[str, tv.RunRef]
Pixels = np.ndarray  # uint8 [height, width, 3]
Case = Callable[[Runs, Path], Path]  # draws a video into a directory, and returns it

_spec = importlib.util.spec_from_file_location(
    "synthetic_run", Path(__file__).with_name("synthetic_run.py")
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)


def render(run: str, **options: Any) -> Case:
    video = VIDEO | options.pop("video", {})

    def draw(runs: Runs, directory: Path) -> Path:
        return tv.render(
            runs[run],
            video=video,
            upload=False,
            output=directory / "video.webm",
            progress=False,
            **options,
        )

    return draw


def compare(*names: str, **options: Any) -> Case:
    def draw(runs: Runs, directory: Path) -> Path:
        chosen = [runs[name] for name in names]
        return tv.compare(chosen, video=VIDEO, output=directory, progress=False, **options)

    return draw


CASES: dict[str, Case] = {
    f"{layout} {theme}": render("plain", layout=layout, theme=theme)
    for layout in LAYOUTS
    for theme in ("dark", "light")
} | {
    "overview of 24 x 16 heads": render("many heads"),
    "ffn of 24 blocks": render("many heads", layout="ffn"),
    "overview upright": render("plain", video={"size": "720x1280"}),
    "overview where values are missing": render("missing values"),
    "heads with a title, blended": render(
        "plain",
        layout="heads",
        video={"title_s": 0.05, "interpolate": 1, "seconds_per_capture": 0.1},
    ),
    "comparison by index": compare("plain", "other seed"),
    "comparison in matched order": compare(
        "plain", "other seed", "shorter", order="matched", axis="progress", theme="light"
    ),
}


def make_runs(directory: Path) -> Runs:
    small = {"blocks": 4, "heads": 4, "length": 32, "width": 32, "hidden": 48, "period": 9}
    many = {"blocks": 24, "heads": 16, "length": 24, "width": 16, "hidden": 24, "period": 7}
    made = {
        "plain": synthetic_run.captures(N_CAPTURES, **small),
        "other seed": synthetic_run.captures(N_CAPTURES, seed=1, **small),
        "shorter": synthetic_run.captures(N_CAPTURES, seed=2, last_step=600, **small),
        "many heads": synthetic_run.captures(N_CAPTURES, **many),
        "missing values": map(without_some, synthetic_run.captures(N_CAPTURES, **small)),
    }
    tracker = trackers.connect("local", directory=directory)
    return {name: put(tracker, name, captures, directory) for name, captures in made.items()}


def without_some(capture: tv.Capture) -> tv.Capture:
    """Put NaN and Inf where a training that diverges has them, from its second capture on."""
    if capture.step == 0:
        return capture
    arrays = {name: array.copy() for name, array in capture.arrays.items()}
    arrays["blocks.1.attn.pattern"][:, 2, 5:] = np.nan
    arrays["blocks.2.mlp.w_up"][:3] = np.inf
    arrays["scores.head.induction"][1, 2] = np.nan
    return dataclasses.replace(capture, arrays=arrays)


def put(tracker: Any, name: str, captures: Iterable[tv.Capture], directory: Path) -> tv.RunRef:
    run = tracker.create_run(name=name, config={"setting": name})
    for capture in captures:
        path = directory / capture.file_name
        capture_file.write(capture, path)
        run.put_captures([CapturePath(capture_file.file_ref(path, capture.step), path)])
    run.finish("finished")
    return run.ref


def frames(case: str, runs: Runs, directory: Path) -> dict[str, Pixels]:
    """Draw a case; returns moment -> its frame."""
    directory.mkdir(parents=True, exist_ok=True)
    with av.open(str(CASES[case](runs, directory))) as video:
        played = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return {moment: played[index] for moment, index in MOMENTS.items()}


def digests(drawn: dict[str, Pixels]) -> dict[str, str]:
    return {
        moment: hashlib.sha256(pixels.tobytes()).hexdigest() for moment, pixels in drawn.items()
    }


def save(case: str, drawn: dict[str, Pixels], directory: Path) -> list[Path]:
    """Save the frames of a case as pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{re.sub(r'[^a-z0-9]+', '-', case)}-{moment}.png" for moment in drawn]
    for path, pixels in zip(paths, drawn.values(), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


# -- tests ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_as_it_was_recorded(case: str, runs: Runs, tmp_path: Path):
    recorded = json.loads(DIGESTS.read_text())
    drawn = frames(case, runs, tmp_path)
    found = digests(drawn)
    before = recorded["cases"].get(case, {})
    changed = [moment for moment in found if found[moment] != before.get(moment)]
    if changed:
        shown = ", ".join(map(str, save(case, {at: drawn[at] for at in changed}, tmp_path)))
        version = recorded["matplotlib"]
        other = "" if version == matplotlib.__version__ else f" with matplotlib {version}"
        pytest.fail(
            f"{case!r}: the {' and the '.join(changed)} frame differ from what was "
            f"recorded{other}. "
            f"Look at {shown}; at the earlier ones by running {Path(__file__).name} in a checkout "
            f"of the commit that recorded them. If the new ones are right: "
            f"python tests/rendering/{Path(__file__).name} <directory> '{case}' --record",
            pytrace=False,
        )


def test_no_picture_is_recorded_that_is_not_drawn():
    assert set(json.loads(DIGESTS.read_text())["cases"]) <= set(CASES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path, help="where the pictures go")
    parser.add_argument("cases", nargs="*", help=f"all if none is given: {', '.join(CASES)}")
    parser.add_argument("--record", action="store_true", help="from now on they look so")
    chosen = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        made = make_runs(Path(directory))
        for case in chosen.cases or CASES:
            drawn = frames(case, made, Path(directory, "drawn", case))
            found[case] = digests(drawn)
            print(*save(case, drawn, chosen.directory), sep="\n")
    if chosen.record:
        known = json.loads(DIGESTS.read_text())["cases"] if DIGESTS.is_file() else {}
        kept = {case: (known | found)[case] for case in CASES if case in known | found}
        recorded = {"matplotlib": matplotlib.__version__, "cases": kept}
        DIGESTS.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()

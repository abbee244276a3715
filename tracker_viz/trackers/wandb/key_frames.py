"""Find out which key frames (pictures of a few training steps in one panel) a W&B run shows
already.

Each is a row of the history with its training step. Rows cannot be removed, so a picture is logged
only if the run does not show the same one at its step, and then waited for: a repeated call has to
see it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from tracker_viz.errors import ConfigError, TransientTrackerError
from tracker_viz.trackers.wandb.service import WandbService, translated
from tracker_viz.trackers.wandb.snapshot import LISTED_AT_ONCE, VISIBLE_S
from tracker_viz.types import RunRef


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A picture of one training step.

    Attributes:
        digest: the first characters of its sha256, which the client puts into the name of the
            stored file.
    """

    step: int
    digest: str
    nbytes: int


def read_frames(frames: Sequence[tuple[int, Path]]) -> dict[KeyFrame, Path]:
    """Read the pictures, ordered by step.

    Raises:
        ConfigError: there are none, or a step has two.
    """
    steps = sorted(step for step, _ in frames)
    if not steps or len(set(steps)) < len(steps):
        raise ConfigError(
            f"key frames are at least one picture, and one for a step; got steps {steps}"
        )
    contents = {step: picture.read_bytes() for step, picture in frames}
    by_step = dict(frames)
    keyed = {}
    for step in steps:
        # The client names a picture's file by the first 20 digits of its hash.
        digest = hashlib.sha256(contents[step]).hexdigest()[:20]
        keyed[KeyFrame(step, digest, len(contents[step]))] = by_step[step]
    return keyed


def frame_media(frame: KeyFrame, picture: Path) -> wandb.Image:
    return wandb.Image(str(picture), caption=f"step {frame.step}")


def shown_frames(service: WandbService, ref: RunRef, key: str) -> set[KeyFrame]:
    """Return the frames that the run's history has last for their steps, if the service has their
    files."""
    run = service.fetch_run(ref)
    if key not in run.summary_metrics:
        return set()
    paths: dict[int, str] = {}
    with translated(service.base_url, ref):
        for row in run.scan_history(keys=[key], use_cache=False):
            paths |= _paths_in(row[key])
        sizes = {}
        for file in run.files(list(paths.values()), per_page=LISTED_AT_ONCE):
            sizes[file.name] = file.size
    # The client names them <key>_<row>_<digest>.png.
    shown = set()
    for step, path in paths.items():
        shown.add(KeyFrame(step, Path(path).stem.rpartition("_")[2], sizes.get(path, 0)))
    return shown


def await_frames(
    service: WandbService, ref: RunRef, key: str, frames: Collection[KeyFrame]
) -> None:
    """Wait until the run shows ``frames``.

    Raises:
        TransientTrackerError: it does not within ``VISIBLE_S``.
    """
    deadline = time.monotonic() + VISIBLE_S
    while behind := set(frames) - shown_frames(service, ref, key):
        if time.monotonic() > deadline:
            steps = sorted(frame.step for frame in behind)
            raise TransientTrackerError(
                f"{ref} does not hold the key frames of steps {steps} as logged, {VISIBLE_S:.0f} s "
                "later"
            )
        time.sleep(0.5)


def _paths_in(value: Mapping[str, Any]) -> dict[int, str]:
    """Return step -> path for one row, which holds one picture, or several as a gallery."""
    if value["_type"] == "images/separated":
        return dict(zip(map(_step, value["captions"]), value["filenames"], strict=True))
    return {_step(value["caption"]): value["path"]}


def _step(caption: str) -> int:
    return int(caption.removeprefix("step "))

"""Name the media of a W&B run (videos, pages, pictures, tables, key frames) and make the client's
objects for them.

W&B makes one panel per key for all runs together. So keys contain no run id and no time, and each
kind has its own keys: W&B shows neither kind well in a panel whose key has two.

    video       tracker_viz/heads                 a new version each time, by tracker_viz/render
    page        tracker_viz/heads_html            the file's path in the run, and its suffix
    picture     tracker_viz/compare/poster_png
    table       tracker_viz/tables/head_roles
    key frames  tracker_viz/frames/heads          a picture per step, in order of tracker_viz/step
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from tracker_viz.errors import ConfigError
from tracker_viz.trackers.values import Cell, checked_artifact, checked_columns
from tracker_viz.trackers.wandb.artifacts import MAX_NAME_CHARACTERS, legal_name
from tracker_viz.trackers.wandb.service import SHARED

TABLE_TYPE = "tracker-viz-table"
_HASH_CHARACTERS = 7  # that the client puts behind a name from which it had to drop a character

VIDEO_SUFFIXES = (".webm", ".mp4", ".gif", ".ogg")

# Suffix -> the client's class for it. Image and Video take a path's bytes as they are; only arrays
# would be encoded.
_PANELS: Mapping[str, Callable[[str], Any]] = {
    ".html": lambda path: wandb.Html(path, inject=False),
    ".png": wandb.Image,
    ".jpg": wandb.Image,
    ".webp": wandb.Image,
    ".gif": wandb.Video,
}


def video_key(layout: str) -> str:
    return f"tracker_viz/{checked_artifact(layout)}"


def file_key(artifact: str) -> str:
    """Return a key without dots, which in a key mean a value inside another."""
    return f"tracker_viz/{checked_artifact(artifact).replace('.', '_')}"


def table_key(name: str) -> str:
    return f"tracker_viz/tables/{checked_artifact(name)}"


def frames_key(layout: str) -> str:
    return f"tracker_viz/frames/{checked_artifact(layout)}"


def has_panel(artifact: str) -> bool:
    """Return whether W&B can show such a file, and not only list it."""
    return Path(artifact).suffix in _PANELS


def panel_media(file: Path) -> Any:
    """Return the object that shows a file for which ``has_panel`` holds; its bytes are stored
    unchanged."""
    return _PANELS[file.suffix](str(file))


def video_media(video: Path) -> wandb.Video:
    """Return the video, stored byte for byte.

    Raises:
        ConfigError: W&B shows no such files.
    """
    if video.suffix not in VIDEO_SUFFIXES:
        raise ConfigError(f"W&B plays {', '.join(VIDEO_SUFFIXES)}; got {video.name!r}")
    return wandb.Video(str(video), format=video.suffix.removeprefix("."))  # type: ignore[arg-type]


def table_media(rows: Sequence[Mapping[str, Cell]], name: str) -> wandb.Table:
    """Return a table.

    W&B's columns have one type, and its tables are JSON: a column with texts and numbers becomes
    text, and NaN or infinity an empty cell.

    Raises:
        ConfigError: as ``put_table``.
    """
    columns = checked_columns(rows, name)
    cells = [_of_one_type([row[column] for row in rows]) for column in columns]
    return wandb.Table(columns=list(columns), data=[list(row) for row in zip(*cells, strict=True)])


def store_table(sdk_run: Any, table: wandb.Table, key: str) -> None:
    """Store a table that is about to be logged under ``key``, where the client cannot.

    The client makes an artifact ``run-<id>-<key>`` of every table that it logs, and fails where
    that name is too long. A table that is in an artifact already is left alone.
    """
    if len(f"run-{sdk_run.id}-{key}") + _HASH_CHARACTERS <= MAX_NAME_CHARACTERS:
        return
    suffix = "-" + key.rpartition("/")[2]
    artifact = wandb.Artifact(legal_name("table-", sdk_run.id, suffix), type=TABLE_TYPE)
    artifact.add(table, key)
    sdk_run.log_artifact(artifact)
    # In shared mode rows have no number.
    step = 0 if sdk_run.settings.mode == SHARED else sdk_run.step
    table.bind_to_run(sdk_run, key, step)


def table_artifact(table: wandb.Table) -> wandb.Artifact:
    """Return the artifact that holds a table that was logged, and from which its panel reads."""
    return table._artifact_target.artifact  # type: ignore[union-attr]


def _of_one_type(column: Sequence[Cell]) -> list[Cell]:
    finite: list[Cell] = [
        None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in column
    ]
    if any(isinstance(cell, str) for cell in finite):
        return [None if cell is None else str(cell) for cell in finite]
    return finite

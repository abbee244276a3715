"""Store tables and key frames so that MLflow's run page shows them as a table and behind a step
slider. Called by ``MlflowRun``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tracker_viz.errors import TrackerError
from tracker_viz.files import parsed_json, parsed_object
from tracker_viz.trackers.mlflow.artifacts import ArtifactStore
from tracker_viz.trackers.values import Cell, checked_artifact, checked_columns

_TABLES_TAG = "mlflow.loggedArtifacts"


def put_table(
    client: MlflowClient,
    files: ArtifactStore,
    run_id: str,
    rows: Sequence[Mapping[str, Cell]],
    artifact: str,
) -> None:
    """Store a table as ``MlflowClient.log_table`` would, but replace an earlier one: that method
    adds rows to it."""
    columns = checked_columns(rows, artifact)
    cells = [list(map(_json_cell, row.values())) for row in rows]
    files.put_bytes(json.dumps({"columns": columns, "data": cells}).encode(), artifact)

    tagged = parsed_json(client.get_run(run_id).data.tags.get(_TABLES_TAG, "[]"), _TABLES_TAG)
    if not isinstance(tagged, list):
        raise TrackerError(f"the tag {_TABLES_TAG} of {run_id} must be a list; got {tagged!r:.100}")
    entry = {"path": artifact, "type": "table"}
    if entry not in tagged:
        client.set_tag(run_id, _TABLES_TAG, json.dumps([*tagged, entry]), synchronous=True)


def put_key_frames(
    client: MlflowClient,
    files: ArtifactStore,
    run_id: str,
    frames: Sequence[tuple[int, Path]],
    layout: str,
) -> None:
    """Log pictures as images with the key ``layout``. MLflow keeps every image that it was ever
    given and shows the newest of a step."""
    from PIL import Image

    noted = checked_artifact(f"videos/{layout}/key_frames.json")
    there: dict[str, Any] = {}
    if noted in files.names(posixpath.dirname(noted)):
        with contextlib.suppress(TrackerError):  # then all of them are logged again
            there = parsed_object(files.read(noted), noted)
    digests = {
        str(step): hashlib.sha256(picture.read_bytes()).hexdigest() for step, picture in frames
    }
    for step, picture in frames:
        if there.get(str(step)) != digests[str(step)]:
            with Image.open(picture) as opened:
                client.log_image(run_id, opened, key=layout, step=step, synchronous=True)
    if not there.items() >= digests.items():
        files.put_bytes(json.dumps(there | digests).encode(), noted)


def _json_cell(cell: Cell) -> Cell:
    """Return a cell as JSON can hold it: without NaN and infinity, which become empty cells."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell

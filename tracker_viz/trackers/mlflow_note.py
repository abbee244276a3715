"""The Markdown that MLflow shows on a run's overview page: an animation, who among the heads became what, and links to the rest.

MLflow renders links and images there, and strips everything that could play a video.
"""

from __future__ import annotations

import csv
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tracker_viz.types import RunRef

HEAD_TABLE = "head_roles.csv"
MAX_HEADS = 16
MAX_INPUTS = 64

_ANIMATIONS = (".webp", ".gif")
_VIDEOS = (".webm", ".mp4")
_PAGES = (".html",)


def is_noted(artifact: str) -> bool:
    """Whether a file at the run's root changes what the note says."""
    return artifact == HEAD_TABLE or ("/" not in artifact and posixpath.splitext(artifact)[1] in (*_ANIMATIONS, *_VIDEOS, *_PAGES))


def run_note(
    files: Iterable[str], *, run_id: str, link: Callable[[str], str], head_table: Path | None, inputs: Sequence[RunRef] = ()
) -> str:
    """The note of a run with these ``files`` at its root.

    Args:
        link: a file's address in the UI, relative to where the UI is.
        head_table: ``head_roles.csv`` of the run, as the pipeline writes it.
        inputs: the runs that all this was made of, where they are others.
    """
    noted = sorted(file for file in files if is_noted(file))
    parts = ["**What this model's blocks looked like while it trained** (tracker_viz)"]
    # The UI folds a long note: what can be clicked comes first.
    links = {"Video": _VIDEOS, "Page to explore": _PAGES}
    parts.append(
        "\n".join(
            f"- {kind}: [{_stem(file)}]({link(file)})" for kind, suffixes in links.items() for file in noted if file.endswith(suffixes)
        )
    )
    if head_table is not None:
        parts.append(_heads(head_table) + f"\n\n[Every head's scores]({link(HEAD_TABLE)})")
    if inputs:
        parts.append(f"Made of the captures of {', '.join(map(_run_link, inputs))}.")
    parts += [
        f"![{stem}](get-artifact?path={urllib.parse.quote(file)}&run_uuid={run_id})"
        for file in noted
        for stem, suffix in [posixpath.splitext(file)]
        if suffix in _ANIMATIONS
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heads(table: Path) -> str:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    specialised = [row for row in rows if row["role"]]
    if not specialised:
        return f"None of the {len(rows)} heads has taken a role."
    lines = ["| head | role | since step | margin over chance |", "|---|---|---:|---:|"]
    ordered = sorted(specialised, key=lambda row: -float(row["margin"] or 0))
    for row in ordered[:MAX_HEADS]:
        lines.append(f"| {row['head']} | {row['role'].replace('_', ' ')} | {row['onset_step'] or ''} | {float(row['margin'] or 0):.2f} |")
    more = len(specialised) - MAX_HEADS
    return "\n".join(lines) + (f"\n\n... and {more} more of {len(rows)} heads." if more > 0 else "")


def _run_link(ref: RunRef) -> str:
    return f"[{ref.path[:8]}](#/runs/{ref.path})" if ref.scheme == "mlflow" else f"`{ref}`"


def _stem(file: str) -> str:
    return posixpath.splitext(file)[0]

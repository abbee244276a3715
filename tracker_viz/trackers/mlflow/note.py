"""The Markdown that MLflow shows on a run's overview page: links, who among the heads became what,
and an animation.

MLflow renders links, tables and images there, and strips everything that could play a video. It
folds a note to a height of five lines until somebody opens it, so the links are one line, the heads
with the clearest roles follow, and the picture comes last.
"""

from __future__ import annotations

import csv
import hashlib
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Sequence

from tracker_viz.types import RunRef

TAG = "mlflow.note.content"
HEAD_TABLE = "head_roles.csv"
MAX_HEADS = 16
MAX_INPUTS = 64

_ANIMATIONS = (".webp", ".gif")
_VIDEOS = (".webm", ".mp4")
_PAGES = (".html",)
_SIGNATURE = "\n<!-- tracker_viz "


def is_noted(artifact: str) -> bool:
    """Whether a file at the run's root changes what the note says."""
    return artifact == HEAD_TABLE or (
        "/" not in artifact and posixpath.splitext(artifact)[1] in (*_ANIMATIONS, *_VIDEOS, *_PAGES)
    )


def signed(markdown: str) -> str:
    """A note that can be told from one that a person wrote or edited: a comment at its end, which
    no page shows, has its digest."""
    return f"{markdown}{_SIGNATURE}{hashlib.sha256(markdown.encode()).hexdigest()[:16]} -->"


def is_ours(note: str) -> bool:
    return note == signed(note.rpartition(_SIGNATURE)[0])


def run_note(
    files: Iterable[str],
    *,
    run_id: str,
    link: Callable[[str], str],
    head_table: str | None,
    inputs: Sequence[RunRef] = (),
) -> str:
    """The note of a run with these ``files`` at its root.

    Args:
        link: a file's address in the UI, relative to where the UI is.
        head_table: contents of the run's ``head_roles.csv``, as the pipeline writes it.
        inputs: the runs that all this was made of, where they are others.
    """
    noted = sorted(file for file in files if is_noted(file))
    links = [
        f"{kind} {' '.join(f'[{_stem(file)}]({link(file)})' for file in found)}"
        for kind, suffixes in {"video": _VIDEOS, "page to explore": _PAGES}.items()
        if (found := [file for file in noted if file.endswith(suffixes)])
    ]
    if head_table is not None:
        links.append(f"[every head's scores]({link(HEAD_TABLE)})")
    parts = [
        f"**While {'these models' if inputs else 'this model'} trained** (tracker_viz): {' · '.join(links)}".removesuffix(
            ": "
        )
    ]
    if head_table is not None:
        parts.append(_heads(head_table))
    if inputs:
        more = f" and {len(inputs) - MAX_INPUTS} more" if len(inputs) > MAX_INPUTS else ""
        parts.append(
            f"Made of the captures of {', '.join(map(_run_link, inputs[:MAX_INPUTS]))}{more}."
        )
    parts += [
        f"![{_stem(file)}](get-artifact?path={urllib.parse.quote(file)}&run_uuid={run_id})"
        for file in noted
        if file.endswith(_ANIMATIONS)
    ]
    return "\n\n".join(parts) + "\n"


def _heads(table: str) -> str:
    rows = list(csv.DictReader(table.splitlines()))
    specialised = [row for row in rows if row["role"]]
    if not specialised:
        return f"None of the {len(rows)} heads has taken a role."
    lines = ["| head | role | since step | margin over chance |", "|---|---|---:|---:|"]
    ordered = sorted(specialised, key=lambda row: -float(row["margin"] or 0))
    for row in ordered[:MAX_HEADS]:
        lines.append(
            f"| {row['head']} | {row['role'].replace('_', ' ')} | {row['onset_step'] or ''} | "
            f"{float(row['margin'] or 0):.2f} |"
        )
    more = len(specialised) - MAX_HEADS
    return "\n".join(lines) + (f"\n\n... and {more} more of {len(rows)} heads." if more > 0 else "")


def _run_link(ref: RunRef) -> str:
    return f"[{ref.path[:8]}](#/runs/{ref.path})" if ref.scheme == "mlflow" else f"`{ref}`"


def _stem(file: str) -> str:
    return posixpath.splitext(file)[0]

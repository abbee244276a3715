"""What a comparison leaves on this machine: tables, the video of all runs, and pictures of how
alike they are. Called by ``comparing``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracker_viz.comparison import (
    Axis,
    ComparedRun,
    Correlation,
    cluster_heads,
    correlation_table,
    distance_matrix,
    write_table,
)
from tracker_viz.errors import MissingDependencyError
from tracker_viz.metrics import NO_ROLE, ROLES, head_roles
from tracker_viz.pipeline.compared_runs import HeadOrder, drawn_runs
from tracker_viz.pipeline.options import VideoOptions
from tracker_viz.pipeline.scored_runs import ScoredRun
from tracker_viz.progress import progress_bar

NAME = "compare"


def write_tables(
    rows: Sequence[Mapping[str, Any]], found: Sequence[Correlation], directory: Path
) -> tuple[Path, ...]:
    directory.mkdir(parents=True, exist_ok=True)
    tables = [write_table(rows, directory / "runs.csv")]
    with contextlib.suppress(
        MissingDependencyError
    ):  # the CSV holds the same, and nothing else here needs pyarrow
        tables.append(write_table(rows, directory / "runs.parquet"))
    if found:
        tables.append(write_table(correlation_table(found), directory / "correlations.csv"))
    return tuple(tables)


def write_compared_video(
    runs: Sequence[ScoredRun],
    labels: Mapping[str, str],
    title: str,
    notes: Sequence[str],
    directory: Path,
    options: VideoOptions,
    *,
    axis: Axis,
    order: HeadOrder,
    probe: str | int,
    theme: str,
    max_gb: float,
    cache: Path | None,
    progress: bool,
) -> tuple[Path, Path, float, list[str]]:
    """The video, its last picture, how long it lasts, and ``notes`` with what is to be said of what
    it shows."""
    from tracker_viz.rendering import storyboard
    from tracker_viz.rendering.compared import ComparedRenderer, write_compared_poster
    from tracker_viz.video import video_path, write_video

    drawn, timing, more_notes = drawn_runs(
        runs, labels, axis=axis, order=order, max_gb=max_gb, cache=cache, progress=progress
    )
    notes = [*notes, *more_notes]
    rows = runs[0].rows
    shown = (
        probe
        if isinstance(probe, str)
        else rows[probe]
        if 0 <= probe < len(rows)
        else f"probe {probe}"
    )
    subtitle = f"{len(runs)} runs · attention on {shown} tokens · heads {'in matched order' if order == 'matched' else 'by index'}"
    renderer = ComparedRenderer(
        drawn,
        timing,
        [role.name for role in ROLES],
        title=title,
        subtitle=subtitle,
        note=" ".join(
            re.sub(r" \([^)]*\)", "", note) for note in notes
        ),  # the lists in brackets are for the terminal
        probe=probe,
        matched=order == "matched",
        size=options.size,
        theme=theme,
    )
    # The pace is that of the longest run's steps, whatever the axis counts.
    scale = max(float(run.compared.series.steps[-1]) for run in runs) if axis == "progress" else 1.0
    shots = storyboard((timing.points * scale).tolist(), **options.pacing())
    with progress_bar("drawing", "frames", shown=progress) as advance:
        written = write_video(
            len(shots),
            lambda index: renderer.draw(shots[index]),
            video_path(directory / NAME, options.encoder),
            duration_s=[shot.duration_s for shot in shots],
            encoder=options.encoder,
            workers=options.workers,
            progress=advance,
            max_bytes=options.max_mb << 20,
        )
    return (
        written.path,
        write_compared_poster(renderer, directory / "poster.png"),
        written.duration_s,
        notes,
    )


def write_charts(
    runs: Sequence[ComparedRun], labels: Mapping[str, str], directory: Path, theme: str
) -> tuple[tuple[Path, ...], list[str]]:
    """The pictures of distances and of clusters, and what is to be said of them."""
    from tracker_viz.rendering.compared_charts import write_cluster_chart, write_distance_chart

    distances, clusters = distance_matrix(runs), cluster_heads(runs)
    at_end = {run.name: head_roles(run.series)[0][-1] for run in runs}
    roles = [at_end[run][head] for run, head in zip(clusters.runs, clusters.heads, strict=True)]
    n_heads = sum(int(np.isfinite(run.series.heads[clusters.scores[0]][-1]).sum()) for run in runs)
    notes = []
    if len(clusters.heads) < n_heads:
        notes.append(
            f"heads.png groups {len(clusters.heads):,} of the {n_heads:,} heads, the most "
            "specialised of each run."
        )
    charts = (
        write_distance_chart(
            directory / "distances.png",
            [labels[name] for name in distances.names],
            distances.overall,
            distances.by_depth,
            distances.shuffled,
            theme=theme,
        ),
        write_cluster_chart(
            directory / "heads.png",
            clusters.values,
            clusters.linkage,
            clusters.labels,
            [labels[name] for name in clusters.runs],
            clusters.scores,
            roles=[None if role == NO_ROLE else ROLES[role].name for role in roles],
            theme=theme,
        ),
    )
    return charts, notes

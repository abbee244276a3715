"""``tv.compare_steps``: compare two captures, of one run (before and after a spike) or of two runs
(a base model and its fine-tune), and rank what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker_viz import capture_file
from tracker_viz.comparison import write_table
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import (
    HeadChange,
    WeightChange,
    head_changes,
    map_of_head,
    weight_changes,
)
from tracker_viz.pipeline.comparing.probes import probe_ids, row_index
from tracker_viz.pipeline.load import TrackerOptions, open_run
from tracker_viz.pipeline.options import DEFAULT_THEME, ComparisonOptions, ThemeName
from tracker_viz.progress import progress_bar
from tracker_viz.trackers import Run, cache_directory, pull
from tracker_viz.types import Capture, RunRef

# Heads that the picture shows, the most changed ones.
_MOST_DRAWN = 8
_NAME = "changes"


@dataclass(frozen=True, slots=True)
class StepsResult:
    """The changes between two captures. Path-like: it is the path of the picture.

    Attributes:
        picture: the most changed heads before and after, a PNG on this machine.
        tables: ``heads.csv`` and ``weights.csv``, ranked.
        labels: names of the two captures.
        heads, weights: the most changed first.
        losses: at both captures; None if one was logged without a loss.
        url: where to see the picture; None if it was not uploaded.
    """

    picture: Path
    tables: tuple[Path, ...]
    labels: tuple[str, str]
    heads: tuple[HeadChange, ...]
    weights: tuple[WeightChange, ...]
    losses: tuple[float, float] | None
    url: str | None

    def __fspath__(self) -> str:
        return str(self.picture)

    def __str__(self) -> str:
        return str(self.picture)


def compare_steps(
    runs: Sequence[RunRef | str],
    steps: Sequence[int | None],
    *,
    probe: str | int = 0,
    into: RunRef | str | None = None,
    theme: ThemeName = DEFAULT_THEME,
    upload: bool = True,
    output: str | Path | None = None,
    cache: str | Path | None = None,
    tracker_options: TrackerOptions | None = None,
    progress: bool = True,
) -> StepsResult:
    """Show what changed between two captures, as ``tracker-viz compare runs=[...] steps=[...]``
    does: heads ranked by how differently they attend, weights by how far they moved.

    Args:
        runs: one run, or two: then the first step belongs to the first run, the second to the
            second.
        steps: two captured steps; None for the last.
        into: the run that gets the results; None: the run, if there is only one.
        probe, theme, upload, output, cache: see ``ComparisonOptions``.
        tracker_options: tracker -> options of its adapter.
        progress: show progress on standard error.

    Raises:
        ConfigError: not two steps of one or two runs; a step was not captured; or the captures have
            different probes or models.
        RunNotFoundError, TrackerError: a run cannot be read, or ``into`` cannot be written.
    """
    options = ComparisonOptions(probe=probe, theme=theme, upload=upload, output=output, cache=cache)
    _check(runs, steps)
    opened = [open_run(run, tracker_options) for run in runs]
    target = opened[0] if len(opened) == 1 else None
    if into is not None:
        target = open_run(into, tracker_options)

    first_run, last_run = opened[0], opened[-1]
    first = _captured(first_run, steps[0], options.cache, progress=progress)
    last = _captured(last_run, steps[1], options.cache, progress=progress)
    if len(opened) == 1 and first.step == last.step:
        raise ConfigError(f"steps are two captures of a run; got step {first.step} twice")
    rows = _rows_of(first, last)
    try:
        heads = head_changes(first, last)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not heads:
        raise ConfigError(
            f"no head is in both captures, of steps {first.step} and {last.step}; capture the "
            "attention of the same heads in both (only_heads, max_mb)"
        )
    weights = weight_changes(first, last)
    labels = _labels(opened, first, last)
    name = f"{_NAME}_{first.step}-{last.step}"
    directory = _directory(options, target) / name

    tables = [write_table(list(_head_rows(heads)), directory / "heads.csv")]
    if weights:
        tables.append(write_table(list(_weight_rows(weights)), directory / "weights.csv"))
    picture = _draw(first, last, heads, labels, rows, options, directory / f"{_NAME}.png")
    url = None
    if target is not None and options.upload:
        for table in tables:
            target.put_file(table, f"{name}/{table.name}")
        url = target.put_file(picture, f"{name}/{picture.name}")
        if into is not None:
            target.link_inputs([run.ref for run in opened])
    return StepsResult(
        picture=picture,
        tables=tuple(tables),
        labels=labels,
        heads=tuple(heads),
        weights=tuple(weights),
        losses=_losses(first, last),
        url=url,
    )


def _check(runs: Sequence[Any], steps: Sequence[Any]) -> None:
    """Refuse wrong arguments before anything is read."""
    if isinstance(runs, str | RunRef) or not 1 <= len(runs) <= 2:
        raise ConfigError(
            "with steps, runs is a list of one run, or of two with a step of each: runs=[<run>] "
            f"steps=[0,1000]; got {runs!r}"
        )
    are_steps = [step is None or (isinstance(step, int) and step >= 0) for step in steps]
    if len(steps) != 2 or not all(are_steps):
        raise ConfigError(
            "steps are the two captures to compare, [first,last], null for the run's last one; got "
            f"{list(steps)}"
        )


def _captured(run: Run, step: int | None, cache: Path | None, *, progress: bool) -> Capture:
    listed = run.list_captures()
    if not listed:
        raise ConfigError(f"{run.ref} has no captures: {run.why_no_captures()}")
    by_step = {ref.step: ref for ref in listed}
    wanted = listed[-1].step if step is None else step
    if wanted not in by_step:
        near = sorted(sorted(by_step, key=lambda each: abs(each - wanted))[:4])
        raise ConfigError(
            f"{run.ref} was not captured at step {wanted}; near it are the captures of steps "
            f"{', '.join(map(str, near))}"
        )
    with progress_bar("pulling", "captures", shown=progress, delay_s=0.5) as advance:
        pulled = pull(run, cache, refs=[by_step[wanted]], progress=advance)
    for error in pulled.damaged.values():
        raise error
    return capture_file.read(pulled.captures[0].path)


def _rows_of(first: Capture, last: Capture) -> list[str]:
    """Return the labels of the probe's rows that captures keep.

    Raises:
        ConfigError: the captures are of different probes.
    """
    if probe_ids(first.probe) != probe_ids(last.probe):
        raise ConfigError(
            "the two captures are of different probes, on which no attention can be compared; "
            "watch both trainings with the same probe= (tv.make_probe with the same arguments)"
        )
    return list(first.labels.get("probe", ()))


def _labels(runs: Sequence[Run], first: Capture, last: Capture) -> tuple[str, str]:
    labels = [f"step {capture.step:,}" for capture in (first, last)]
    if len(runs) == 2:
        names = [run.info().name for run in runs]
        labels = [f"{name}, {label}" for name, label in zip(names, labels, strict=True)]
    return labels[0], labels[1]


def _directory(options: ComparisonOptions, target: Run | None) -> Path:
    if options.output is not None:
        return options.output
    if target is not None:
        return cache_directory(target.ref, options.cache)
    return Path()


def _draw(
    first: Capture,
    last: Capture,
    heads: Sequence[HeadChange],
    labels: tuple[str, str],
    rows: Sequence[str],
    options: ComparisonOptions,
    path: Path,
) -> Path:
    from tracker_viz.rendering import ChangedHead, write_change_chart

    row = row_index(options.probe, rows, map_of_head(first, heads[0]).shape[0])
    drawn = []
    for change in heads[:_MOST_DRAWN]:
        block, head = change.head
        drawn.append(
            ChangedHead(
                name=f"L{block}H{head}",
                change=" · ".join(str(change).split("  ")[1:]),
                before=map_of_head(first, change)[row],
                after=map_of_head(last, change)[row],
                is_signed=change.kind == "mixing",
            )
        )
    shown_row = rows[row] if row < len(rows) else f"row {row}"
    explained = (
        f"The {len(drawn)} of {len(heads):,} heads that changed most, on {shown_row} tokens.\n"
        "0 bits: it looks where it looked; 1 bit: nowhere that it did."
    )
    if any(each.is_signed for each in drawn):
        explained += " Mixing maps: each on a scale of its own, around 0."
    return write_change_chart(
        path,
        drawn,
        title=f"What changed: {labels[0]} to {labels[1]}",
        explained=explained,
        before=labels[0],
        after=labels[1],
        theme=options.theme,
    )


def _head_rows(heads: Sequence[HeadChange]) -> Iterator[dict[str, Any]]:
    for rank, change in enumerate(heads, 1):
        block, head = change.head
        yield {
            "rank": rank,
            "block": block,
            "head": head,
            "map": change.kind,
            "bits": _number(change.attention),
            "query_weights": _number(change.query),
            "score": change.score or None,
            "before": _number(change.before),
            "after": _number(change.after),
        }


def _weight_rows(weights: Sequence[WeightChange]) -> Iterator[dict[str, Any]]:
    for rank, change in enumerate(weights, 1):
        share = _number(change.share)
        yield {"rank": rank, "block": change.block, "weight": change.name, "change": share}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _losses(first: Capture, last: Capture) -> tuple[float, float] | None:
    if "loss" in first.metrics and "loss" in last.metrics:
        return first.metrics["loss"], last.metrics["loss"]
    return None

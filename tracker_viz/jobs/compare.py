"""``tracker-viz compare``: make one video, pictures, tables and sentences that compare several
runs, and put them into the run above them; or rank what changed between two captures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tracker_viz import pipeline
from tracker_viz.errors import ConfigError
from tracker_viz.jobs.application import application
from tracker_viz.jobs.report import aligned_table
from tracker_viz.jobs.settings.config import TrackerSettings
from tracker_viz.metrics import role_label
from tracker_viz.options import LegalValues
from tracker_viz.pipeline import CompareResult, ComparisonOptions, StepsResult
from tracker_viz.plugins import tracker_classes
from tracker_viz.types import RunRef

_MOST_ROWS = 64
# Heads, and weights, that are printed of a comparison of two captures.
_MOST_CHANGES = 16
_OF_WHOLE_RUNS = ("axis", "order", "shown", "max_gb", "video")


class CompareSettings(TrackerSettings, ComparisonOptions):
    """Shows side by side which roles the heads of several runs took, and when: a video, the onsets
    of the roles, the distances between the runs, all heads grouped by behavior, tables, and
    sentences on how much the settings explain. Uploads them to the sweep's parent run, or to the
    run given by into. With steps, ranks what changed between two captures."""

    usage = (
        "runs=[<RunRef>,<RunRef>,...] [key=value ...]",
        "sweep=<RunRef of the parent> [key=value ...]",
        "runs=[<RunRef>] steps=[<first>,<last>] [key=value ...]",
    )
    groups: ClassVar = {"video": "default"}

    runs: Annotated[
        tuple[str, ...], LegalValues("a list, like [mlflow:<id>,wandb:<entity>/<project>/<id>]")
    ] = ()
    """Two or more runs, of one tracker or of several:
    [mlflow:<run_id>,wandb:<entity>/<project>/<run_id>,local:<directory>]."""

    sweep: str | None = None
    """Alternatively, all runs of a sweep, by its parent run."""

    steps: Annotated[
        tuple[int | None, ...] | None, LegalValues("two captured steps, like [0,1000]")
    ] = None
    """Rank what changed between two captures: two steps of one run, or one step from each of two
    runs (a base model and its fine-tune). null is a run's last capture: [0,null]."""

    into: str | None = None
    """The run that gets the results; null: the sweep's parent, or with steps the run itself, else
    none."""

    def tracker_options(self) -> dict[str, dict[str, Any]]:
        """Return tracker -> its options, the same for all of its runs.

        Raises:
            ConfigError: an option of a tracker that has none of the runs.
        """
        named = [str(ref) for ref in (*self.runs, self.sweep, self.into) if ref]
        options: dict[str, dict[str, Any]] = {RunRef.parse(ref).scheme: {} for ref in named}
        for name, value in self.tracker_addresses().items():
            takers = _trackers_with(name)
            asked = [scheme for scheme in takers if scheme in options]
            if named and not asked:
                raise ConfigError(
                    f"{name} is an option of {' and '.join(takers)}, and none of "
                    f"these runs is stored there: {', '.join(named)}"
                )
            for scheme in asked:
                options[scheme][name] = value
        return options


def _trackers_with(option: str) -> list[str]:
    """Return the schemes of the trackers that take an option."""
    trackers = tracker_classes()
    return [scheme for scheme in trackers if option in trackers[scheme].option_names()]


@application(CompareSettings, name="compare")
def main(settings: CompareSettings) -> None:
    if settings.steps is not None:
        _compare_steps(settings, settings.steps)
        return
    options = {name: getattr(settings, name) for name in ComparisonOptions.model_fields}
    result = pipeline.compare(
        settings.runs,
        sweep=settings.sweep,
        into=settings.into,
        tracker_options=settings.tracker_options(),
        **options,
    )
    print(table_text(result.rows[:_MOST_ROWS]))
    if len(result.rows) > _MOST_ROWS:
        print(f"and {len(result.rows) - _MOST_ROWS:,} more in {result.tables[0]}")
    print()
    for finding in result.findings:
        print(finding)
    print()
    for note in result.notes:
        print(f"Note: {note}")
    _print_places(result, upload=settings.upload)


def _compare_steps(settings: CompareSettings, steps: Sequence[int | None]) -> None:
    """Rank what changed between two captures, and print it.

    Raises:
        ConfigError: options of a comparison of whole runs are set.
    """
    defaults = ComparisonOptions()
    unused = [name for name in _OF_WHOLE_RUNS if getattr(settings, name) != getattr(defaults, name)]
    if settings.sweep:
        unused.append("sweep")
    if unused:
        raise ConfigError(
            f"steps= compares two captures, and {', '.join(unused)} does not "
            "apply to them; leave it out"
        )
    result = pipeline.compare_steps(
        settings.runs,
        steps,
        probe=settings.probe,
        into=settings.into,
        theme=settings.theme,
        upload=settings.upload,
        output=settings.output,
        cache=settings.cache,
        tracker_options=settings.tracker_options(),
    )
    print("\n".join(changes_text(result)))


def changes_text(result: StepsResult) -> list[str]:
    """Return the lines for a terminal: heads and weights, the most changed first."""
    lines = [f"What changed: {result.labels[0]} to {result.labels[1]}"]
    if result.losses is not None:
        before, after = result.losses
        lines.append(f"loss {before:.3f} -> {after:.3f}")
    head_rows = [["head", "map", "bits", "query weights", "score that moved most"]]
    for head in result.heads[:_MOST_CHANGES]:
        block, number = head.head
        query = f"{head.query:.1%}" if math.isfinite(head.query) else "–"
        score = "–"
        if head.score:
            score = f"{head.score.replace('_', ' ')} {head.before:.2f} -> {head.after:.2f}"
        row = [f"L{block}H{number}", head.kind, f"{head.attention:.3f}", query, score]
        head_rows.append(row)
    lines += ["", *aligned_table(head_rows, text_columns={0, 1, 4})]
    lines += _and_more(len(result.heads), result.tables[0])

    if result.weights:
        weight_rows = [["weight", "changed"]]
        for weight in result.weights[:_MOST_CHANGES]:
            weight_rows.append([f"L{weight.block} {weight.name}", f"{weight.share:.1%}"])
        lines += ["", *aligned_table(weight_rows, text_columns={0})]
        lines += _and_more(len(result.weights), result.tables[1])
    names = ", ".join(path.name for path in result.tables)
    lines += ["", f"Picture: {result.picture}", f"Beside it: {names}"]
    if result.url:
        lines.append(f"See it in the run: {result.url}")
    return lines


def _and_more(n_rows: int, table: Path) -> list[str]:
    if n_rows <= _MOST_CHANGES:
        return []
    return [f"and {n_rows - _MOST_CHANGES:,} more in {table}"]


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table for a terminal: the run, its loss, and for each role that some run
    formed how many heads have it and when the strongest took it."""
    roles = []
    for name in rows[0]:
        role = name.removeprefix("heads/")
        if role != name and any(_has_role(row, role) for row in rows):
            roles.append(role)

    lines = [["run", "loss", *(role_label(role) for role in roles)]]
    for row in rows:
        loss = "–"
        if row["loss"] is not None:
            loss = f"{row['loss']:.3f}"
        lines.append([row["label"], loss, *(_role_cell(row, role) for role in roles)])

    table = aligned_table(lines, text_columns={0})
    if roles:
        table.append(
            "(heads that have a role at the end, and the steps between which the strongest took it)"
        )
    return "\n".join(table)


def _has_role(row: Mapping[str, Any], role: str) -> bool:
    return bool(row[f"heads/{role}"]) or row[f"onset/{role}"] is not None


def _role_cell(row: Mapping[str, Any], role: str) -> str:
    """Return ``4 from 470–480``: how many heads, and the interval of the onset."""
    heads = row[f"heads/{role}"] or 0
    onset, after = row[f"onset/{role}"], row[f"onset_after/{role}"]
    if onset is None:
        return str(heads)
    if after is None:
        return f"{heads} from {onset:,}"
    return f"{heads} from {after:,}–{onset:,}"


def _print_places(result: CompareResult, *, upload: bool) -> None:
    """Print the files, and the links to the video."""
    size_mb = result.video.stat().st_size / 1e6
    print(
        f"Made of {len(result.rows)} runs: {result.video} ({size_mb:.1f} MB, "
        f"{result.duration_s:.0f} s long)"
    )
    print(f"Beside it: {', '.join(path.name for path in (*result.pictures, *result.tables))}")
    if result.url:
        print(f"Watch it in the run: {result.url}")
    if result.in_step:
        print(f"The runs' own videos in step: {result.in_step}")
    if upload and not result.url:
        print("Not uploaded: pass into=<RunRef> to put the results into a run.")
    if result.url and result.ui_command:
        print(f"  with the UI running: {result.ui_command}")

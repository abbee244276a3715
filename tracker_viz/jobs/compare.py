"""``tracker-viz compare``: several runs -> one video, pictures and a table of how they compare. The
work is ``pipeline.compare_runs``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tracker_viz import pipeline
from tracker_viz.comparison import Axis
from tracker_viz.errors import ConfigError
from tracker_viz.jobs.application import application
from tracker_viz.jobs.config import Settings
from tracker_viz.options import LegalValues
from tracker_viz.pipeline.compared_runs import HeadOrder
from tracker_viz.pipeline.options import ThemeName
from tracker_viz.types import RunRef

# option of the command -> the tracker that it is of
_TRACKER_OF = {"tracking_uri": "mlflow", "ui_url": "mlflow", "base_url": "wandb"}
_MOST_CORRELATIONS = 5
_MOST_ROWS = 64


class CompareSettings(Settings):
    """Shows side by side what the heads of several runs became, and when: a video, how far the runs
    are from each other, all heads grouped by what they did, and a table. Puts them into the sweep's
    parent run, or the one called into."""

    usage = (
        "runs=[<RunRef>,<RunRef>,...] [key=value ...]",
        "sweep=<RunRef of the parent> [key=value ...]",
    )
    groups: ClassVar = {"video": "default"}

    runs: Annotated[
        tuple[str, ...], LegalValues("a list, like [mlflow:<id>,wandb:<entity>/<project>/<id>]")
    ] = ()
    """Two or more runs, of one tracker or of several:
    [mlflow:<run_id>,wandb:<entity>/<project>/<run_id>,local:<directory>]."""

    sweep: str | None = None
    """Or all runs of a sweep, by its parent run."""

    axis: Axis = "step"
    """What is shown together: the same step, as many tokens, or the same progress (share) of each
    run's own training."""

    order: HeadOrder = "index"
    """Heads by their index, or matched: heads that behaved alike below each other."""

    probe: Annotated[str | int, LegalValues("a row by its label or its index from 0")] = 0
    """The row of the probe whose attention is shown."""

    shown: int = 64
    """Most runs that are drawn, 2 to 64; of more runs those spread from the lowest loss to the
    highest. The table has all."""

    max_gb: float = 50.0
    """Most gigabytes of captures to pull; the video shows fewer points of time rather than exceed
    it."""

    into: str | None = None
    """The run that gets the results; null: the sweep's parent, else none."""

    tracking_uri: str | None = None
    """Where MLflow is; null: MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""

    ui_url: str | None = None
    """Where MLflow's UI is, if it is not at tracking_uri; only links need it."""

    base_url: str | None = None
    """Where W&B is; null: WANDB_BASE_URL, else what the wandb client is set to."""

    theme: ThemeName = "dark"
    """Colors of the pictures."""

    upload: bool = True
    """Whether the results are put into a run; false: only make the files."""

    output: Path | None = None
    """Directory for the files; null: among the downloads of into, else ./compare."""

    cache: Path | None = None
    """Directory for downloads; null: TRACKER_VIZ_CACHE, else the user's cache directory."""

    video: pipeline.VideoOptions = pipeline.VideoOptions()

    def tracker_options(self) -> dict[str, dict[str, Any]]:
        """Tracker -> what was said of it; the same for all of its runs.

        Raises:
            ConfigError: something is said of a tracker that has none of the runs.
        """
        named = [str(ref) for ref in (*self.runs, self.sweep, self.into) if ref]
        options: dict[str, dict[str, Any]] = {RunRef.parse(ref).scheme: {} for ref in named}
        for name, scheme in _TRACKER_OF.items():
            if (value := getattr(self, name)) is not None:
                if named and scheme not in options:
                    raise ConfigError(
                        f"{name} is an option of {scheme}, and none of these runs is there: "
                        f"{', '.join(named)}"
                    )
                options.setdefault(scheme, {})[name] = value
        return options


@application(CompareSettings, name="compare")
def main(settings: CompareSettings) -> None:
    result = pipeline.compare_runs(
        settings.runs,
        sweep=settings.sweep,
        axis=settings.axis,
        order=settings.order,
        probe=settings.probe,
        shown=settings.shown,
        max_gb=settings.max_gb,
        into=settings.into,
        theme=settings.theme,
        video=settings.video,
        upload=settings.upload,
        output=settings.output,
        cache=settings.cache,
        tracker_options=settings.tracker_options(),
    )
    print(table_text(result.rows[:_MOST_ROWS]))
    if len(result.rows) > _MOST_ROWS:
        print(f"and {len(result.rows) - _MOST_ROWS:,} more in {result.tables[0]}")
    for each in result.correlations[:_MOST_CORRELATIONS]:
        print(
            f"{each.setting} and {each.outcome}: {each.kind} {each.coefficient:+.2f}, p = "
            f"{each.p_value:.3f} ({each.n_runs} runs)"
        )
    for note in result.notes:
        print(f"Note: {note}")
    print(
        f"Made of {len(result.rows)} runs: {result.video} ({result.video.stat().st_size / 1e6:.1f} "
        f"MB, {result.duration_s:.0f} s)"
    )
    print(f"Beside it: {', '.join(path.name for path in (*result.pictures, *result.tables))}")
    if result.url:
        print(f"Watch it in the run: {result.url}")
    if result.in_step:
        print(f"The runs' own videos in step: {result.in_step}")
    if settings.upload and not result.url:
        print(
            "In no run yet: these runs have none above them that was named. into=<RunRef> puts the "
            "results into one."
        )
    if result.url and result.ui_command:
        print(f"  with the UI running: {result.ui_command}")


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a terminal: who, the loss, and of every role that some head took its first onset
    and how many heads have it."""
    roles = [name.removeprefix("heads/") for name in rows[0] if name.startswith("heads/")]
    roles = [
        role
        for role in roles
        if any(row[f"heads/{role}"] or row[f"onset/{role}"] is not None for row in rows)
    ]
    lines = [["run", "loss", *(role.replace("_", " ") for role in roles)]]
    for row in rows:
        cells = [row["label"], "–" if row["loss"] is None else f"{row['loss']:.3f}"]
        for role in roles:
            heads, onset = row[f"heads/{role}"] or 0, row[f"onset/{role}"]
            cells.append(f"{heads} from {onset:,.0f}" if onset is not None else str(heads))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    ruled = [aligned[0], ["─" * width for width in widths], *aligned[1:]]
    explained = (
        [
            "",
            "(heads that have a role at the end, and the step from which the first of them had it)",
        ]
        if roles
        else []
    )
    return "\n".join(["  ".join(line).rstrip() for line in ruled] + explained[1:])

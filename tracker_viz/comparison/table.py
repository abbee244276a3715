"""Build the tables of a comparison (a row per run, per setting, per test), and write them as CSV or
Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tracker_viz.comparison.correlation import Correlation
from tracker_viz.comparison.groups import SettingGroup, final_loss
from tracker_viz.comparison.onsets import RoleOnset, role_onsets
from tracker_viz.comparison.runs import ComparedRun, check_runs, differing_settings, run_labels
from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.files import write_atomically
from tracker_viz.metrics import CURVE_THRESHOLDS, ROLES, onset_table, run_summary

Row = Mapping[str, Any]
# Column of a role in the table of settings -> field of ``OnsetTimes``.
_TIMES_COLUMNS = {
    "formed": "n_formed",
    "onset_median": "median",
    "onset_median_low": "median_low",
    "onset_median_high": "median_high",
    "onset_first": "first",
    "onset_last": "last",
}
_OVERALL = ("heads_specialised", "share_specialised", "index_mean")


def run_table(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return one row per run, for a file or a tracker's table; every row has the same columns, None
    where there is no value.

    Columns: ``run``, ``label``, ``state``, one per setting in which the runs differ (its dotted
    name), ``steps``, ``captures``, ``loss`` (at the last capture that has one), ``onset/<role>``
    (step of the first capture with the role), ``onset_after/<role>`` (step of the last capture
    without it; of a run that did not form it the last at which that could have been seen),
    ``heads/<role>`` and ``heads_specialised`` (at the last capture), ``share_specialised``,
    ``index_mean``, ``max/<role>`` (highest score of any head), ``onset_curve/<role>`` (the onset at
    other thresholds: ``0.1:120 0.2:130 ... 0.9:–``).
    """
    check_runs(runs)
    settings, labels = differing_settings(runs), run_labels(runs)
    onsets = [role_onsets(run.series, axis="step") for run in runs]
    measured: set[str] = set().union(*onsets)
    names = [role.name for role in ROLES if role.name in measured]
    rows = []
    for run, found in zip(runs, onsets, strict=True):
        row: dict[str, Any] = {"run": run.name, "label": labels[run.name], "state": run.state}
        row |= settings[run.name]
        row["steps"] = int(run.series.steps[-1])
        row["captures"] = run.series.n_captures
        row["loss"] = final_loss(run)
        row |= _onset_columns(found, names)
        row |= _summary_columns(run, names)
        row |= _curve_columns(run, names)
        rows.append(row)
    return rows


def group_table(groups: Sequence[SettingGroup]) -> list[dict[str, Any]]:
    """Return one row per setting, its seeds taken together; None where there is no value.

    Columns: ``setting``, one per setting in which the groups differ, ``runs``, ``loss`` and
    ``loss_sd`` (mean and standard deviation over the runs), and for each role ``formed/<role>``
    (number of runs), ``onset_median/<role>`` (Kaplan-Meier), ``onset_median_low/<role>`` and
    ``onset_median_high/<role>`` (95 % interval), ``onset_first/<role>``, ``onset_last/<role>``.
    """
    roles: dict[str, None] = {}
    for group in groups:
        roles |= dict.fromkeys(group.times)

    rows = []
    for group in groups:
        row: dict[str, Any] = {"setting": group.label, **group.settings, "runs": len(group.runs)}
        row["loss"] = getattr(group.loss, "mean", None)
        row["loss_sd"] = getattr(group.loss, "sd", None)
        for role in roles:
            times = group.times.get(role)
            for column, name in _TIMES_COLUMNS.items():
                row[f"{column}/{role}"] = getattr(times, name, None)
        rows.append(row)
    return rows


def correlation_table(found: Sequence[Correlation]) -> list[dict[str, Any]]:
    """Return one row per test, with the fields of ``Correlation`` as columns."""
    return [asdict(each) | {"same_as": ", ".join(each.same_as)} for each in found]


def table_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV text: a header line, then one line per row; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_table(rows: Sequence[Row], path: Path) -> Path:
    """Write rows as ``.csv`` or ``.parquet``, by the path's ending.

    Raises:
        ConfigError: another ending, or the file cannot be written.
        MissingDependencyError: Parquet without pyarrow (MLflow brings it).
    """
    if path.suffix == ".csv":
        return write_file(table_csv(rows).encode(), path)
    if path.suffix != ".parquet":
        raise ConfigError(f"a table is written as .csv or .parquet; got {path.name!r}")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "a Parquet table needs pyarrow; install it with: pip install pyarrow (or write .csv)"
        ) from error

    # A column holds one type: see _one_type.
    names = list(rows[0]) if rows else []
    columns = {name: _one_type([row[name] for row in rows]) for name in names}
    contents = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), contents)
    return write_file(contents.getvalue().to_pybytes(), path)


def write_file(contents: bytes, path: Path) -> Path:
    """Write a result of a comparison, whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_atomically(contents, path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error}; choose another place with output=..."
        ) from error
    return path


def _onset_columns(found: Mapping[str, RoleOnset], names: Sequence[str]) -> dict[str, int | None]:
    """Return ``onset/<role>`` and ``onset_after/<role>`` in steps, for the roles ``names``."""
    columns: dict[str, int | None] = {}
    for name in names:
        onset = found.get(name)
        columns[f"onset/{name}"] = _whole(getattr(onset, "at", None))
        columns[f"onset_after/{name}"] = _whole(getattr(onset, "after", None))
    return columns


def _summary_columns(run: ComparedRun, names: Sequence[str]) -> dict[str, float | int | None]:
    summary = run_summary(run.series)
    columns: dict[str, float | int | None] = {}
    for name in names:
        columns[f"heads/{name}"] = summary.get(f"specialisation/{name}_heads")
    for name in _OVERALL:
        columns[name] = summary.get(f"specialisation/{name}")
    for name in names:
        columns[f"max/{name}"] = summary.get(f"specialisation/{name}_max")
    return columns


def _curve_columns(run: ComparedRun, names: Sequence[str]) -> dict[str, str | None]:
    """Return ``onset_curve/<role>``, so that no conclusion depends on one threshold."""
    columns: dict[str, str | None] = dict.fromkeys(f"onset_curve/{name}" for name in names)
    for onsets in onset_table(run.series):
        words = []
        for threshold in CURVE_THRESHOLDS:
            step = onsets[f"onset_at_{threshold}"]
            words.append(f"{threshold}:{'–' if step is None else step}")
        columns[f"onset_curve/{onsets['role']}"] = " ".join(words)
    return columns


def _whole(step: float | None) -> int | None:
    return None if step is None else int(step)


def _one_type(values: list[Any]) -> list[Any]:
    """Return a Parquet column, which holds one type: a setting that is a number here and a word
    there becomes text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds <= {int, float}:
        return values
    return [None if value is None else str(value) for value in values]

"""One row per run: its settings, its loss, and what its heads became and when; and which settings
go with which outcome."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.comparison.runs import ComparedRun, check_runs, differing_settings, run_labels
from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.files import write_atomically
from tracker_viz.metrics import ROLES, Role, run_summary

Row = Mapping[str, Any]
# With fewer runs than this any pairing of two lists looks like a relation.
MIN_RUNS_TO_CORRELATE = 6
N_PERMUTATIONS = 10_000
MAX_PERMUTED = 2_000_000  # values: of a thousand runs fewer permutations, which tell as much
_OUTCOME_PREFIXES = ("onset/", "heads/", "max/")
_OUTCOMES = ("loss", "heads_specialised", "share_specialised", "index_mean")


@dataclass(frozen=True, slots=True)
class Correlation:
    """How far one setting and one outcome go together over the runs of a sweep. No proof that one
    causes the other.

    Attributes:
        coefficient: Spearman's rank correlation, -1..1, of a setting that is a number; else the
            correlation ratio eta, 0..1, between the setting's values (how much of the spread of the
            outcome's ranks lies between them).
        kind: ``spearman`` or ``eta``.
        p_value: share of random reassignments of the outcomes that give a coefficient at least as
            far from 0. Of m correlations about m / 20 lie below 0.05 by chance alone.
        n_runs: runs that have both values.
    """

    setting: str
    outcome: str
    coefficient: float
    kind: str
    p_value: float
    n_runs: int


def run_table(runs: Sequence[ComparedRun], roles: tuple[Role, ...] = ROLES) -> list[dict[str, Any]]:
    """Rows for a CSV, a Parquet file or a tracker's table; every row has the same columns, None
    where there is no value.

    Columns: ``run``, ``label``, ``state``, one per setting in which the runs differ (its dotted
    name), ``steps``, ``captures``, ``loss`` (at the last capture that has one), ``onset/<role>``
    (step of the first head that took the role for good), ``heads/<role>`` and ``heads_specialised``
    (at the last capture), ``share_specialised``, ``index_mean``, ``max/<role>`` (highest score of
    any head).
    """
    check_runs(runs)
    settings, labels = differing_settings(runs), run_labels(runs)
    names = [role.name for role in roles if any(role.name in run.series.heads for run in runs)]
    rows = []
    for run in runs:
        summary = {
            name.removeprefix("specialisation/"): value
            for name, value in run_summary(run.series, roles).items()
        }
        losses = run.series.metrics.get("loss", np.zeros(0))
        known = losses[np.isfinite(losses)]
        rows.append(
            {
                "run": run.name,
                "label": labels[run.name],
                "state": run.state,
                **settings[run.name],
                "steps": int(run.series.steps[-1]),
                "captures": run.series.n_captures,
                "loss": float(known[-1]) if known.size else None,
                **{f"onset/{name}": summary.get(f"{name}_onset_step") for name in names},
                **{f"heads/{name}": summary.get(f"{name}_heads") for name in names},
                **{
                    name: summary.get(name)
                    for name in ("heads_specialised", "share_specialised", "index_mean")
                },
                **{f"max/{name}": summary.get(f"{name}_max") for name in names},
            }
        )
    return rows


def correlations(
    runs: Sequence[ComparedRun], rows: Sequence[Row], *, seed: int = 0
) -> list[Correlation]:
    """Every setting that varies against every outcome that does, the strongest first; empty with
    too few runs.

    Only runs that have both values count, and a pair is left out where those are fewer than
    ``MIN_RUNS_TO_CORRELATE``: a run that never took a role has no onset, and putting a number in
    its place would invent one.
    """
    settings = next(iter(differing_settings(runs).values()), {})
    outcomes = (
        [name for name in rows[0] if name in _OUTCOMES or name.startswith(_OUTCOME_PREFIXES)]
        if rows
        else []
    )
    found = [
        _correlation(rows, setting, outcome, seed) for setting in settings for outcome in outcomes
    ]
    return sorted(
        (each for each in found if each is not None),
        key=lambda each: (each.p_value, -abs(each.coefficient), each.setting, each.outcome),
    )


def table_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV text: a header line, then one line per row; None is an empty cell."""
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
        return _write_whole(table_csv(rows).encode(), path)
    if path.suffix != ".parquet":
        raise ConfigError(f"a table is written as .csv or .parquet; got {path.name!r}")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "a Parquet table needs pyarrow; install it with: pip install pyarrow (or write .csv)"
        ) from error
    columns = {name: _one_type([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    contents = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), contents)
    return _write_whole(contents.getvalue().to_pybytes(), path)


def _write_whole(contents: bytes, path: Path) -> Path:
    try:
        write_atomically(contents, path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error}; choose another place with output=..."
        ) from error
    return path


def _correlation(rows: Sequence[Row], setting: str, outcome: str, seed: int) -> Correlation | None:
    pairs = [
        (row[setting], row[outcome])
        for row in rows
        if row[setting] is not None and row[outcome] is not None
    ]
    if len(pairs) < MIN_RUNS_TO_CORRELATE:
        return None
    values, outcomes = (
        [value for value, _ in pairs],
        _ranks(np.array([result for _, result in pairs], np.float64)),
    )
    if len({repr(value) for value in values}) < 2 or np.ptp(outcomes) == 0:
        return None
    numeric = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    statistic = (
        _spearman(np.array(values, np.float64))
        if numeric
        else _eta([repr(value) for value in values])
    )
    generator = np.random.default_rng(seed)
    n_permutations = min(N_PERMUTATIONS, max(1000, MAX_PERMUTED // len(pairs)))
    shuffled = generator.permuted(np.tile(outcomes, (n_permutations, 1)), axis=1)
    coefficient = float(statistic(outcomes[None])[0])
    as_far = np.count_nonzero(np.abs(statistic(shuffled)) >= abs(coefficient) - 1e-12)
    p_value = (as_far + 1) / (n_permutations + 1)
    return Correlation(
        setting, outcome, coefficient, "spearman" if numeric else "eta", p_value, len(pairs)
    )


def _spearman(values: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    ranks = _ranks(values) - _ranks(values).mean()

    def of(outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = outcomes - outcomes.mean(-1, keepdims=True)
        return np.asarray(centred @ ranks / np.sqrt((centred**2).sum(-1) * (ranks**2).sum()))

    return of


def _eta(values: Sequence[str]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    members = np.array(
        [[value == kind for value in values] for kind in sorted(set(values))], np.float64
    )

    def of(outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = outcomes - outcomes.mean(-1, keepdims=True)
        between = ((centred @ members.T) ** 2 / members.sum(-1)).sum(-1)
        return np.asarray(np.sqrt(between / (centred**2).sum(-1)))

    return of


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks 1..n; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _one_type(values: list[Any]) -> list[Any]:
    """A Parquet column holds one type: a setting that is a number here and a word there becomes
    text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds <= {int, float}:
        return values
    return [None if value is None else str(value) for value in values]

"""Store the results of ``verify`` in a run, and read them back to mark the table of heads.

    verify.json              everything
    verify.csv               the table, for a spreadsheet; also as the table ``verified_heads``
    verify/<role>_loss_rise  in the summary, and ``verify/<role>_others_rise``: of the last step

``delivering`` marks the table of heads with the verdicts whenever it writes that table again.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tracker_viz.errors import ConfigError, TrackerError, TransientTrackerError
from tracker_viz.files import read_json, temporary_directory, write_json
from tracker_viz.metrics import (
    VERDICT_COLUMNS,
    Ablations,
    ScoreSeries,
    ablations,
    head_table,
    judged_by,
    marked_rows,
    sentences,
)
from tracker_viz.pipeline.options import VerifyOptions
from tracker_viz.pipeline.scoring import HEAD_TABLE
from tracker_viz.trackers import Cell, Run

log = logging.getLogger(__name__)

JSON_FILE = "verify.json"
_NOT_RESULTS = (ConfigError, KeyError, TypeError, ValueError, AttributeError, OverflowError)
CSV_FILE = "verify.csv"
TABLE = "verified_heads"
SCHEMA_VERSION = 1
RULE = (
    "a label holds if the loss without its heads rises, less two standard errors over rows, by "
    "more than .01 nats, and by more than without any compared set of equally many other heads; "
    "the label of a head that shows nothing alone holds with its set if the loss falls by as much "
    "when it is the only head of its role that is kept"
)

Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one or several checkpoints.

    Attributes:
        table: see ``metrics.verdict_rows``, ordered by step.
        labels_steps: step -> step of the capture whose labels were judged; None: there were none.
        settings: must be equal for results to share a table.
    """

    table: tuple[Row, ...]
    labels_steps: Mapping[int, int | None]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        table: Sequence[Row],
        labels_steps: Mapping[int, int | None],
        settings: Mapping[str, Any],
    ) -> Self:
        return cls(tuple(table), dict(labels_steps), settings)

    @property
    def sentences(self) -> dict[int, tuple[str, ...]]:
        """Return step -> the verdict on each role."""
        return {step: tuple(sentences(self._rows_of(step))) for step in sorted(self.labels_steps)}

    def with_earlier(self, earlier: Results | None) -> Results:
        """Return these results with those of other steps that were measured in the same way."""
        if earlier is None or earlier.settings != self.settings:
            return self
        kept = [row for row in earlier.table if row["step"] not in self.labels_steps]
        table = sorted([*kept, *self.table], key=lambda row: int(row["step"] or 0))
        return replace(
            self, table=tuple(table), labels_steps={**earlier.labels_steps, **self.labels_steps}
        )

    def summary(self) -> dict[str, float]:
        """Return the values of the last step that a tracker's table of runs can sort by."""
        values: dict[str, float] = {}
        for row in self._rows_of(max(self.labels_steps)):
            role = row["role"]
            if role is None or row["what"] != role:
                continue
            found = {"loss_rise": row[f"{judged_by(str(role))}_change"]}
            found["others_rise"] = row["others_change"]
            for name, value in found.items():
                if isinstance(value, float):
                    values[f"verify/{role}_{name}"] = value
        return values

    def marked(self, heads: Sequence[Row], labels_step: int) -> list[dict[str, Cell]] | None:
        """Return the rows of the table of heads with their verdicts; None where no checkpoint was
        judged by the labels of ``labels_step``."""
        steps = [step for step, of in self.labels_steps.items() if of == labels_step]
        if not steps:
            return None
        verified = {str(row["what"]): row for row in self._rows_of(max(steps))}
        return marked_rows(heads, verified)

    def ablations(self) -> Ablations | None:
        """Return what the pictures mark: heads without which the last checkpoint loses more than
        by chance."""
        return ablations(self.table)

    def description(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "rule": RULE,
            "settings": dict(self.settings),
            "labels_steps": {str(step): of for step, of in self.labels_steps.items()},
            "sentences": {str(step): list(found) for step, found in self.sentences.items()},
            "table": [dict(row) for row in self.table],
        }

    def _rows_of(self, step: int) -> list[Row]:
        return [row for row in self.table if row["step"] == step]


@dataclass(frozen=True, slots=True)
class StoredResults:
    """Results together with earlier ones, the files and links they were put to, and ``notes`` for
    the user."""

    results: Results
    path: Path
    url: str | None
    notes: tuple[str, ...]


def put_results(
    run: Run,
    results: Results,
    series: ScoreSeries,
    options: VerifyOptions,
    downloads: Path,
) -> StoredResults:
    """Write the files of the results on this machine and put them into the run.

    Raises:
        TrackerError: the run could not be written; the files are here.
    """
    if options.upload:
        # Other checkpoints may have been verified before; their rows stay in the table.
        results = results.with_earlier(stored_results(run))
    directory = options.output or downloads / "verify"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / CSV_FILE
    write_csv(results.table, path)
    write_json(results.description(), directory / JSON_FILE)
    if not options.upload:
        return StoredResults(results, path, None, ())
    try:
        run.put_file(directory / JSON_FILE, JSON_FILE)
        run.put_file(path, CSV_FILE)
        url = run.put_table(results.table, TABLE)
        if summary := results.summary():
            run.set_summary(summary)
        notes = _mark_heads(run, results, series)
    except TrackerError as error:
        raise type(error)(
            f"the results are in {path}, but could not be put into the run: {error}"
        ) from error
    return StoredResults(results, path, url, notes)


def stored_results(run: Run) -> Results | None:
    """Return the results that a run holds, or None."""
    with temporary_directory() as directory:
        try:
            stored = read_json(run.get_file(JSON_FILE, directory))
        except TransientTrackerError:
            raise
        except TrackerError:
            return None
    try:
        if stored["schema"] != SCHEMA_VERSION:
            raise ConfigError(f"schema {stored['schema']}")
        labels_steps = {int(step): of for step, of in stored["labels_steps"].items()}
        rows = []
        for row in stored["table"]:
            if int(row["step"]) in labels_steps:
                rows.append({column: row.get(column) for column in VERDICT_COLUMNS})
        return Results.of(rows, labels_steps, stored["settings"])
    except _NOT_RESULTS as error:
        log.warning("%s: %s is left out, because it cannot be read (%r)", run.ref, JSON_FILE, error)
        return None


def put_head_table(run: Run, rows: Sequence[Row], last_step: int) -> None:
    """Put every head's role, onset and scores into the run, as a table and as a file for a
    spreadsheet. Heads that were verified are marked.

    Args:
        last_step: of the capture whose labels these are.
    """
    results = stored_results(run)
    marked = results.marked(rows, last_step) if results else None
    rows = marked or rows
    with temporary_directory() as directory:
        table = directory / f"{HEAD_TABLE}.csv"
        write_csv(rows, table)
        run.put_file(table, table.name)
    run.put_table(rows, HEAD_TABLE)


def _mark_heads(run: Run, results: Results, series: ScoreSeries) -> tuple[str, ...]:
    rows = head_table(series)
    if not rows:
        return ()
    last_step = int(series.steps[-1])
    if results.marked(rows, last_step) is None:
        return (
            f"The table of heads is not marked: its labels are of step {last_step}, which no "
            "measured checkpoint belongs to.",
        )
    put_head_table(run, rows, last_step)
    return ()


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows that all have the columns of the first one."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

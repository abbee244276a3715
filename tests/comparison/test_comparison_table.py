"""Rows per run, per setting and per test, to CSV and Parquet."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys

import numpy as np
import pytest

from tracker_viz.comparison import (
    ComparedRun,
    correlation_table,
    correlations,
    group_table,
    run_table,
    setting_groups,
    table_csv,
    write_table,
)
from tracker_viz.errors import ConfigError, MissingDependencyError
from tracker_viz.metrics import ScoreSeries

STEPS = np.arange(0, 1000, 50)


def make_run(seed, n_heads, *, onset, optimizer="adam"):
    """A run with one induction head from ``onset`` on (None: never)."""
    induction = np.full((len(STEPS), 2, n_heads), 0.05, np.float32)
    if onset is not None:
        induction[onset <= STEPS, 1, 0] = 0.9
    loss = np.linspace(5, 1 + 0.01 * 3**seed, len(STEPS))
    series = ScoreSeries(
        STEPS, {"induction": induction}, uniform={"induction": 0.05}, metrics={"loss": loss}
    )
    return ComparedRun(
        f"mlflow:{seed}-{n_heads}",
        series,
        {"seed": seed, "model": {"n_heads": n_heads}, "optimizer": optimizer},
    )


def sweep():
    return [
        make_run(seed, n_heads, onset=100 * n_heads // 4 + 50 * seed)
        for seed in range(4)
        for n_heads in (4, 8, 16)
    ]


def test_every_run_has_a_row_with_settings_loss_onsets_and_heads():
    rows = run_table([make_run(0, 4, onset=300), make_run(1, 8, onset=None)])
    assert rows[0] == {
        "run": "mlflow:0-4",
        "label": "n_heads=4 seed=0",
        "state": "finished",
        "model.n_heads": 4,
        "seed": 0,
        "steps": 950,
        "captures": 20,
        "loss": pytest.approx(1.01),
        "onset/induction": 300,
        "onset_after/induction": 250,
        "heads/induction": 1,
        "heads_specialised": 1,
        "share_specialised": 1 / 8,
        "index_mean": None,
        "max/induction": pytest.approx(0.9),
        "onset_curve/induction": " ".join(f"0.{digit}:300" for digit in range(1, 9)) + " 0.9:–",
    }
    assert list(rows[1]) == list(rows[0])
    assert rows[1]["onset/induction"] is None
    assert rows[1]["onset_after/induction"] >= 850, "until when it was watched"
    assert rows[1]["heads/induction"] == 0


def test_csv_has_the_same_values_and_empty_cells_for_none():
    rows = run_table([make_run(0, 4, onset=300), make_run(1, 8, onset=None)])
    back = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert [row["onset/induction"] for row in back] == ["300", ""]
    assert [row["label"] for row in back] == ["n_heads=4 seed=0", "n_heads=8 seed=1"]


def test_table_is_written_as_csv_and_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = run_table([make_run(0, 4, onset=300), make_run(1, 8, onset=None)])
    rows[1]["model.n_heads"] = "many"
    back = parquet.read_table(write_table(rows, tmp_path / "runs.parquet")).to_pylist()
    assert [row["onset/induction"] for row in back] == [300, None]
    assert [row["model.n_heads"] for row in back] == ["4", "many"]
    assert write_table(rows, tmp_path / "runs.csv").read_text() == table_csv(rows)
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet; got 'runs\.xlsx'"):
        write_table(rows, tmp_path / "runs.xlsx")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        write_table([{"run": "a"}], tmp_path / "runs.parquet")


def test_a_setting_has_one_row_with_its_seeds_taken_together():
    rows = group_table(setting_groups(sweep()))
    assert [row["setting"] for row in rows] == ["n_heads=4", "n_heads=8", "n_heads=16"]
    first = rows[0]
    assert first["model.n_heads"] == 4
    assert (first["runs"], first["formed/induction"]) == (4, 4)
    assert first["onset_first/induction"] == 100
    assert first["onset_last/induction"] == 250
    assert first["onset_median/induction"] == 150
    assert first["onset_median_low/induction"] is None, "four runs bound no median"
    assert first["loss_sd"] > 0
    assert len({tuple(row) for row in rows}) == 1


def test_every_test_has_a_row(tmp_path):
    runs = sweep()
    found = correlations(runs, run_table(runs))
    rows = correlation_table(found)
    assert [row["setting"] for row in rows] == ["model.n_heads"] * 2
    assert {row["n_tests"] for row in rows} == {2}
    back = list(csv.DictReader(write_table(rows, tmp_path / "correlations.csv").open()))
    assert [row["outcome"] for row in back] == [each.outcome for each in found]


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_a_table_that_cannot_be_written_leaves_nothing_half_done(tmp_path, name, monkeypatch):
    write_table([{"run": "a", "loss": 1.0}], tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ConfigError,
        match=r"runs\.\w+ cannot be written: .*No space left on device; choose another place",
    ):
        write_table([{"run": "b", "loss": 2.0}], tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]

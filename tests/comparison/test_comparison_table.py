"""One row per run, to CSV and Parquet, and which settings go with which onsets."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from tracker_viz.comparison import ComparedRun, correlations, run_table, table_csv, write_table
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
        "heads/induction": 1,
        "heads_specialised": 1,
        "share_specialised": 1 / 8,
        "index_mean": None,
        "max/induction": pytest.approx(0.9),
    }
    assert list(rows[1]) == list(rows[0])
    assert rows[1]["onset/induction"] is None
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


def test_a_setting_that_moves_the_onset_is_found_first():
    runs = sweep()
    found = correlations(runs, run_table(runs))
    assert {(each.setting, each.outcome) for each in found} >= {
        ("model.n_heads", "onset/induction"),
        ("seed", "onset/induction"),
        ("seed", "loss"),
    }
    strongest = {(each.setting, each.outcome): each for each in found}
    heads = strongest["model.n_heads", "onset/induction"]
    assert heads.coefficient > 0.8
    assert heads.p_value < 0.01
    assert heads.n_runs == 12
    assert heads.kind == "spearman"
    assert strongest["seed", "loss"].coefficient == pytest.approx(1)


def test_chance_gives_no_small_p_value_more_often_than_it_says():
    runs = [make_run(seed, 4, onset=300) for seed in range(8)]
    outcomes = np.random.default_rng(0).integers(1, 15, size=(100, 8))
    rows = [
        {"seed": seed} | {f"onset/{trial}": outcomes[trial, seed].item() for trial in range(100)}
        for seed in range(8)
    ]
    p_values = np.array([each.p_value for each in correlations(runs, rows)])
    assert p_values.size == 100
    for level in (0.1, 0.25, 0.5):
        assert np.mean(p_values < level) == pytest.approx(level, abs=0.12)


def test_a_setting_in_words_is_correlated_by_groups():
    runs = [
        make_run(seed, 4, onset=200 if seed < 4 else 600, optimizer="adam" if seed < 4 else "sgd")
        for seed in range(8)
    ]
    found = {(each.setting, each.outcome): each for each in correlations(runs, run_table(runs))}
    assert found["optimizer", "onset/induction"].kind == "eta"
    assert found["optimizer", "onset/induction"].coefficient == pytest.approx(1)
    assert found["optimizer", "loss"].coefficient < 1


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_are_scipys_and_those_of_the_definition(seed):
    """Ties among the settings and the outcomes; some runs without an outcome."""
    rng = np.random.default_rng(seed)
    runs = [make_run(number, 4, onset=300, optimizer="adam") for number in range(20)]
    settings = [
        {"seed": int(rng.integers(5)), "optimizer": str(rng.choice(["adam", "sgd", "lion"]))}
        for _ in runs
    ]
    runs = [
        ComparedRun(run.name, run.series, setting)
        for run, setting in zip(runs, settings, strict=True)
    ]
    onsets = [int(step) if step < 8 else None for step in rng.integers(0, 10, 20)]
    rows = [
        {**setting, "onset/induction": onset}
        for setting, onset in zip(settings, onsets, strict=True)
    ]
    found = {each.setting: each for each in correlations(runs, rows)}
    known = [index for index, onset in enumerate(onsets) if onset is not None]
    assert {each.n_runs for each in found.values()} == {len(known)}
    seeds, outcomes = (
        [settings[index]["seed"] for index in known],
        [onsets[index] for index in known],
    )
    ours, scipys = found["seed"], spearmanr(seeds, outcomes)
    assert (ours.kind, ours.coefficient) == ("spearman", pytest.approx(scipys.statistic))
    assert ours.p_value == pytest.approx(scipys.pvalue, abs=0.03)
    ranks = rankdata(outcomes)
    groups = [
        ranks[[settings[index]["optimizer"] == name for index in known]]
        for name in ("adam", "sgd", "lion")
    ]
    between = sum(len(group) * (group.mean() - ranks.mean()) ** 2 for group in groups if len(group))
    assert found["optimizer"].coefficient == pytest.approx(
        np.sqrt(between / ((ranks - ranks.mean()) ** 2).sum())
    )


def test_few_runs_and_runs_without_an_onset_are_not_correlated():
    few = sweep()[:5]
    assert correlations(few, run_table(few)) == []
    runs = [make_run(seed, 4, onset=300 + 50 * seed if seed < 5 else None) for seed in range(8)]
    assert not any(
        each.outcome == "onset/induction" for each in correlations(runs, run_table(runs))
    ), "five onsets are too few"


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_a_table_that_cannot_be_written_leaves_nothing_half_done(tmp_path, name, monkeypatch):
    write_table([{"run": "a", "loss": 1.0}], tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ConfigError,
        match=r"runs\.\w+ cannot be written: .*No space left on device; choose another place with output=",
    ):
        write_table([{"run": "b", "loss": 2.0}], tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]

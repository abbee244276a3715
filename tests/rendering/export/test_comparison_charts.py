"""Pictures of onsets, distances and clusters: nothing is clipped, rows keep their labels, and no
figure is left open."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image
from scipy.cluster.hierarchy import leaves_list, linkage

from tracker_viz.rendering.export.cluster_chart import write_cluster_chart
from tracker_viz.rendering.export.distance_chart import write_distance_chart
from tracker_viz.rendering.export.onset_chart import OnsetRow, OnsetSpan, write_onset_chart
from tracker_viz.rendering.theme import rgb, theme

GROUND = rgb(theme("dark").ground)


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def edge(pixels):
    return np.concatenate(
        [
            pixels[:4].reshape(-1, 3),
            pixels[-4:].reshape(-1, 3),
            pixels[:, :4].reshape(-1, 3),
            pixels[:, -4:].reshape(-1, 3),
        ]
    )


def distances(n_runs, n_depths=4):
    rng = np.random.default_rng(0)
    found = rng.uniform(0.05, 0.2, (n_depths + 1, n_runs, n_runs))
    found = (found + found.transpose(0, 2, 1)) / 2
    found[:, np.arange(n_runs), np.arange(n_runs)] = 0
    shares = found / 0.25
    return found[0], shares[0], shares[1:], shares[0] < 0.5


def draw_distances(path, labels, distances, *, caption="Seeds of one setting 0.05 to 0.08."):
    return write_distance_chart(path, labels, *distances, caption=caption)


@pytest.mark.parametrize(("n_runs", "n_depths"), [(2, 4), (7, 5), (26, 1)])
def test_nothing_of_the_distance_picture_is_clipped(tmp_path, n_runs, n_depths):
    labels = [f"learning_rate=0.003 n_heads=8 seed={seed}" for seed in range(n_runs)]
    caption = "A caption that is far longer than any line of the picture. " * 5
    path = draw_distances(
        tmp_path / "distances", labels, distances(n_runs, n_depths), caption=caption
    )
    assert path.name == "distances.png"
    assert (edge(pixels_of(path)) == GROUND).all()


def test_the_distance_picture_shows_the_distances(tmp_path):
    shown = distances(3)
    first = pixels_of(draw_distances(tmp_path / "a", ["a", "b", "c"], shown))
    same = pixels_of(draw_distances(tmp_path / "b", ["a", "b", "c"], shown))
    assert np.array_equal(first, same)
    shown[1][0, 1] = shown[1][1, 0] = 0.9
    other = pixels_of(draw_distances(tmp_path / "c", ["a", "b", "c"], shown))
    assert (first != other).any(2).mean() > 0.02


def test_pairs_that_are_alike_are_marked(tmp_path):
    shown = distances(3)
    first = pixels_of(draw_distances(tmp_path / "a", ["a", "b", "c"], shown))
    shown[3][:] = ~shown[3]
    assert (first != pixels_of(draw_distances(tmp_path / "b", ["a", "b", "c"], shown))).any()


def test_runs_without_heads_in_common_still_make_a_picture(tmp_path):
    nothing = np.full((2, 2), np.nan)
    shown = nothing, nothing, nothing[None], np.zeros((2, 2), bool)
    assert draw_distances(tmp_path / "nan", ["a", "b"], shown).stat().st_size > 0


def onset_row(label, *spans, median=None, low=None, high=None):
    return OnsetRow(label, spans, median, low, high, "5 of 6 · 480 (460 to 633)")


def some_panels(n_roles=2, n_rows=3):
    spans = [OnsetSpan(470, 480, False), OnsetSpan(None, 0, True), OnsetSpan(1000, None, False)]
    roles = ("previous_token", "induction", "duplicate_token", "current_token", "sink")[:n_roles]
    rows = [
        onset_row(f"learning_rate={index} a_long_setting=True", *spans, median=480, low=460)
        for index in range(n_rows)
    ]
    return dict.fromkeys(roles, rows)


@pytest.mark.parametrize(
    ("n_roles", "n_rows", "axis"), [(1, 1, "step"), (5, 3, "tokens"), (1, 40, "progress")]
)
def test_nothing_of_the_onset_picture_is_clipped(tmp_path, n_roles, n_rows, axis):
    path = write_onset_chart(tmp_path / "onsets", some_panels(n_roles, n_rows), axis)
    assert path.name == "onsets.png"
    assert (edge(pixels_of(path)) == GROUND).all()


def test_every_run_interval_and_median_shows_in_the_onset_picture(tmp_path):
    def drawn(name, **changes):
        row = onset_row("a", OnsetSpan(300, 480, False), median=480, low=460, high=500)
        panels = {"induction": [dataclasses.replace(row, **changes)]}
        return pixels_of(write_onset_chart(tmp_path / name, panels, "step"))

    first = drawn("first")
    assert np.array_equal(first, drawn("same"))
    for name, changes in {
        "interval": {"spans": (OnsetSpan(470, 480, False),)},
        "near": {"spans": (OnsetSpan(300, 480, True),)},
        "median": {"median": 470},
        "unbounded": {"high": None},
        "summary": {"summary": "1 of 1 · 480"},
    }.items():
        assert (first != drawn(name, **changes)).any(), name


@pytest.mark.parametrize(("n_runs", "heads_each"), [(2, 8), (6, 16), (24, 16)])
def test_nothing_of_the_cluster_picture_is_clipped_and_no_figure_stays_open(
    tmp_path, n_runs, heads_each
):
    rng = np.random.default_rng(0)
    values = rng.random((n_runs * heads_each, 30), np.float32)
    labels = [
        f"learning_rate=0.003 seed={run} L{head // 4:02d}H{head % 4:02d}"
        for run in range(n_runs)
        for head in range(heads_each)
    ]
    runs = [f"learning_rate=0.003 seed={run}" for run in range(n_runs) for _ in range(heads_each)]
    roles = [("induction", "sink", None)[index % 3] for index in range(len(runs))]
    path = write_cluster_chart(
        tmp_path / "heads",
        values,
        linkage(values, "average"),
        labels,
        runs,
        ("induction", "sink", "duplicate_token"),
        roles=roles,
    )
    assert (edge(pixels_of(path)) == GROUND).all()
    assert pyplot.get_fignums() == []


def test_rows_stand_in_the_order_of_the_tree_with_their_roles_beside_them(tmp_path):
    values = (
        np.repeat([[0.0], [1.0]], 8, 0).astype(np.float32)[[0, 8, 1, 9, 2, 10, 3, 11]].repeat(6, 1)
    )
    tree = linkage(values, "average")
    roles = ["induction" if row[0] else None for row in values]
    path = write_cluster_chart(
        tmp_path / "heads",
        values,
        tree,
        [f"head {n}" for n in range(8)],
        ["a", "b"] * 4,
        ("induction",),
        roles=roles,
    )
    pixels = pixels_of(path)
    has_role = (pixels == rgb(theme("dark").roles["induction"])).all(2)
    bright = (pixels.astype(int).sum(2) > 650) & (np.abs(np.ptp(pixels.astype(int), axis=2)) < 60)
    rows = np.flatnonzero(
        has_role[:, 250:330].any(1)
    )  # the strip of roles, right of the strip of runs
    ordered = values[leaves_list(tree), 0]
    assert len(rows) > 100
    top_half = rows.mean() < pixels.shape[0] * 0.55
    assert top_half == (ordered[:4].mean() > 0.5)
    assert bright[rows][:, 400:900].mean() > 0.9

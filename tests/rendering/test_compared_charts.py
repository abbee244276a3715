"""Distance and cluster pictures: nothing is clipped, rows keep their labels, and no figure is left
open."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image
from scipy.cluster.hierarchy import leaves_list, linkage

from tracker_viz.rendering.compared_charts import write_cluster_chart, write_distance_chart
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
    return found[0], found[1:], np.full((n_runs, n_runs), 0.25)


@pytest.mark.parametrize(("n_runs", "n_depths"), [(2, 4), (6, 1), (24, 12)])
def test_nothing_of_the_distance_picture_is_clipped(tmp_path, n_runs, n_depths):
    overall, by_depth, shuffled = distances(n_runs, n_depths)
    labels = [f"learning_rate=0.003 n_heads=8 seed={seed}" for seed in range(n_runs)]
    path = write_distance_chart(tmp_path / "distances", labels, overall, by_depth, shuffled)
    assert path.name == "distances.png"
    assert (edge(pixels_of(path)) == GROUND).all()


def test_the_distance_picture_shows_the_distances(tmp_path):
    overall, by_depth, shuffled = distances(3)
    first = pixels_of(
        write_distance_chart(tmp_path / "a", ["a", "b", "c"], overall, by_depth, shuffled)
    )
    same = pixels_of(
        write_distance_chart(tmp_path / "b", ["a", "b", "c"], overall, by_depth, shuffled)
    )
    overall[0, 1] = overall[1, 0] = 0.01
    other = pixels_of(
        write_distance_chart(tmp_path / "c", ["a", "b", "c"], overall, by_depth, shuffled)
    )
    assert np.array_equal(first, same)
    assert (first != other).any(2).mean() > 0.02


def test_runs_without_heads_in_common_still_make_a_picture(tmp_path):
    nothing = np.full((2, 2), np.nan)
    path = write_distance_chart(tmp_path / "nan", ["a", "b"], nothing, nothing[None], nothing)
    assert path.stat().st_size > 0


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

"""Each box shows the numbers that it says: against the slow and obvious way, cell by cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracker_viz.rendering import LAYOUTS, Series
from tracker_viz.rendering.planning.make_plan import make_plan
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.sources import (
    HeadMap,
    Moment,
    Mosaic,
    WeightMap,
    WeightSummary,
    max_pool,
    order_by_norm,
    pool,
)


def windows(length, n):
    return [slice(cell * length // n, (cell + 1) * length // n) for cell in range(n)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("length", "size"), [(12, 1), (12, 3), (13, 4), (7, 2), (5, 9)])
def test_a_pooled_attention_map_keeps_the_largest_of_every_window(dtype, length, size):
    pattern = np.random.default_rng(length).random((3, length, length)).astype(dtype)
    pooled = max_pool(pattern, size)
    starts = range(0, length, size)
    expected = [
        [[head[y : y + size, x : x + size].max() for x in starts] for y in starts]
        for head in pattern
    ]
    assert pooled.dtype == dtype
    assert np.array_equal(pooled, np.array(expected, dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_nan_is_never_pooled_away(dtype, sign):
    pattern = np.full((8, 8), 0.5, dtype)
    pattern[5, 2] = np.copysign(dtype(np.nan), dtype(sign))
    pattern[0, 0], pattern[7, 7] = -0.25, np.inf
    pooled = max_pool(pattern, 4)
    assert np.isnan(pooled[1, 0])
    assert np.array_equal(np.delete(pooled.reshape(-1), 2), np.array([0.5, 0.5, np.inf], dtype))


@pytest.mark.parametrize("reduce", ["mean", "rms"])
@pytest.mark.parametrize(
    ("matrix_shape", "shape"),
    [
        ((64, 176), (32, 51)),
        ((176, 64), (32, 51)),
        ((7, 9), (7, 4)),
        ((10, 9), (1, 1)),
        ((5, 5), (5, 5)),
    ],
)
def test_a_pooled_matrix_averages_every_entry_of_its_windows_once(matrix_shape, shape, reduce):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=matrix_shape).astype(np.float32)
    order = tuple(rng.permutation(length) for length in matrix_shape)
    wide = matrix.astype(np.float64)[order[0]][:, order[1]]
    expected = [
        [
            np.sqrt(np.mean(wide[y, x] ** 2)) if reduce == "rms" else np.mean(wide[y, x])
            for x in windows(matrix_shape[1], shape[1])
        ]
        for y in windows(matrix_shape[0], shape[0])
    ]
    assert np.allclose(pool(matrix, shape, reduce, order), expected, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_stays_in_its_own_cell():
    matrix = np.zeros((12, 12), np.float32)
    matrix[4, 7], matrix[11, 0] = np.nan, np.inf
    pooled = pool(matrix, (4, 4), "rms", (np.arange(12), np.arange(12)))
    assert np.argwhere(np.isnan(pooled)).tolist() == [[1, 2]]
    assert np.argwhere(np.isinf(pooled)).tolist() == [[3, 0]]


@pytest.fixture
def moment():
    rng = np.random.default_rng(1)
    keys = [("blocks.0.attn.pattern", 1), "blocks.1.attn.pattern"]
    return Moment(
        *({key: rng.random((5, 8, 8)).astype(np.float16) for key in keys} for _ in range(3))
    )


@pytest.mark.parametrize("show", ["value", "change", "step"])
def test_a_head_map_is_its_own_head_of_its_own_row_compared_with_the_capture_it_says(moment, show):
    source = HeadMap("blocks.0.attn.pattern", 1, 3, 8, 2, show)
    assert source.needs == (("blocks.0.attn.pattern", 1),)
    here, other = (
        moment.arrays[source.needs[0]][3],
        {"value": None, "change": moment.first, "step": moment.previous}[show],
    )
    if other is not None:
        here = np.abs(here.astype(np.float32) - other[source.needs[0]][3].astype(np.float32))
    assert np.array_equal(source.values(moment), max_pool(here, 2))


def test_a_weighted_map_is_what_its_head_writes_of_each_token_as_shares(moment):
    name, norms = "blocks.0.attn.pattern", ("blocks.0.attn.value_norm", 1)
    moment.arrays[norms] = np.random.default_rng(2).random((9, 8)).astype(np.float16)
    source = HeadMap(name, 1, 3, 8, weighted_by=(0, 2, 4, 6, 8))
    assert source.needs == ((name, 1), norms)
    written = moment.arrays[name, 1][3].astype(float) * moment.arrays[norms][6].astype(float)
    expected = written / written.sum(1, keepdims=True)
    np.testing.assert_allclose(source.values(moment), expected, atol=1e-3)
    pooled = HeadMap(name, 1, 3, 8, 2, weighted_by=(0, 2, 4, 6, 8))
    assert np.array_equal(pooled.values(moment), max_pool(source.values(moment), 2))


@pytest.mark.parametrize("show", ["value", "step"])
def test_a_mosaic_puts_each_head_in_its_own_place(moment, show):
    heads = {
        (row, head): HeadMap(name, probe, head, 8, 2, show)
        for row, (name, probe) in enumerate(
            [("blocks.0.attn.pattern", 1), ("blocks.1.attn.pattern", None)]
        )
        for head in range(5)
    }
    mosaic = Mosaic(
        ((heads[0, 4], None, heads[0, 0]), (heads[1, 2], heads[1, 3], heads[1, 1])), gap=1
    )
    shown = mosaic.values(moment)
    assert shown.shape == mosaic.shape == (9, 14)
    for row, sources in enumerate(mosaic.maps):
        for column, source in enumerate(sources):
            cells = shown[row * 5 : row * 5 + 4, column * 5 : column * 5 + 4]
            assert np.array_equal(cells, source.values(moment) if source else np.zeros((4, 4))), (
                row,
                column,
            )
    assert mosaic.mask()[0:4, 5:9].all(), "no head is there"
    assert mosaic.mask()[4].all(), "the gap"
    assert np.array_equal(mosaic.mask()[0:4, 0:4], np.triu(np.ones((4, 4), bool), 1))


def test_a_weight_map_is_sorted_pooled_and_compared(moment):
    rng = np.random.default_rng(2)
    name = "blocks.0.mlp.w_up"
    now, first = (rng.normal(size=(6, 8)).astype(np.float32) for _ in range(2))
    rows, columns = order_by_norm(now - first)
    source = WeightMap(name, (3, 4), (rows, columns), "change", "rms")
    change = (now - first)[rows][:, columns]
    assert np.allclose(
        source.values(Moment({name: now}, {name: first}, {})),
        pool(change, (3, 4), "rms", (np.arange(6), np.arange(8))),
        atol=1e-6,
    )
    assert np.square(change).sum(1).argmax() == 0, "the row that changed most comes first"
    summary = WeightSummary(((name, None),), "change").values(
        Moment({name: now}, {name: first}, {})
    )
    assert summary[0, 0] == pytest.approx(np.sqrt(np.mean((now - first) ** 2)), rel=1e-5)
    assert np.isnan(summary[0, 1])


@pytest.mark.parametrize("layout", ["overview", "heads", "changes"])
def test_each_box_of_a_layout_reads_the_probe_row_that_its_name_says(synthetic, tmp_path, layout):
    captures = list(
        synthetic.captures(3, blocks=2, heads=2, length=16, width=16, hidden=24, period=5)
    )
    series = Series([synthetic.write_capture(tmp_path, capture) for capture in captures])
    shown = [heatmap for heatmap in make_plan(LAYOUTS[layout], series).heatmaps if heatmap.head]
    assert shown
    for heatmap in shown:
        (key,) = heatmap.source.needs
        row = 0 if "repeated" in heatmap.name else 1
        assert np.array_equal(
            series.read(1, [key])[key], captures[1].arrays[heatmap.source.name][row]
        ), heatmap.name
    assert layout != "heads" or any("repeated" not in heatmap.name for heatmap in shown), (
        "both rows are shown"
    )


def test_values_beyond_float16_keep_the_color_of_the_scales_end():
    scale = ColorScale("x", "mako", 0.0, 1.0)
    drawn = scale.drawn(np.array([1e6, -1e6, np.inf, np.nan, 0.25], np.float32))
    assert drawn[:2].tolist() == [65504.0, -65504.0]
    assert np.isnan(drawn[2:4]).all()
    assert drawn[4] == 0.25
    table = scale.table()
    assert np.array_equal(
        table[drawn[:1].view(np.uint16)[0]], table[np.float16(1.0).view(np.uint16)]
    )
    assert not np.array_equal(
        table[drawn[:1].view(np.uint16)[0]], table[drawn[3:4].view(np.uint16)[0]]
    )


def test_arrays_that_a_capture_lacks_are_left_out(synthetic, tmp_path):
    capture = next(
        synthetic.captures(1, blocks=1, heads=2, length=16, width=16, hidden=24, period=5)
    )
    series = Series([synthetic.write_capture(tmp_path, replace(capture, step=7))])
    assert list(series.read(0, ["no.such", ("blocks.0.attn.pattern", 1), ("nor.this", 0)])) == [
        ("blocks.0.attn.pattern", 1)
    ]

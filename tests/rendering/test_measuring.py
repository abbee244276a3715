"""Color scales follow from every capture, exactly, whatever the number of threads, and each
capture is read once for all scales."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest

from tracker_viz.rendering import LAYOUTS, Renderer, Series, make_plan
from tracker_viz.rendering.measuring import ValueRange, measure
from tracker_viz.rendering.plan import Box, Heatmap
from tracker_viz.rendering.sources import Moment, WeightMap
from tracker_viz.types import Capture

N_CAPTURES, PEAK = 70, 35


@pytest.fixture(scope="module")
def runs(synthetic, tmp_path_factory):
    """Seventy captures; in the second run the middle one, and no other, jumps."""
    captures = list(
        synthetic.captures(
            N_CAPTURES, blocks=2, heads=2, length=16, width=12, hidden=20, period=5, last_step=6900
        )
    )
    directory = tmp_path_factory.mktemp("steady")
    steady = [synthetic.write_capture(directory, capture) for capture in captures]
    peak = captures[PEAK]
    rng = np.random.default_rng(0)
    for name, array in peak.arrays.items():
        if ".mlp." in name:
            peak.arrays[name] = (array.astype(np.float32) + rng.normal(0, 3.0, array.shape)).astype(
                np.float16
            )
        elif name.endswith("attn.pattern"):
            peak.arrays[name] = array[..., ::-1, :].copy()
    directory = tmp_path_factory.mktemp("peak")
    return {
        "steady": steady,
        "peak": [synthetic.write_capture(directory, capture) for capture in captures],
    }


@pytest.fixture
def run(runs):
    return runs["peak"]


def expected_largest(plan, series, key, quantile):
    """The slow way: every capture, every cell, sorted."""
    largest = 0.0
    keys = [key for heatmap in plan.heatmaps for key in heatmap.source.needs]
    for index in range(len(series)):
        capture, first, previous = (series.read(at, keys) for at in (index, 0, max(0, index - 1)))
        moment = Moment(capture, first, previous)
        cells = []
        for heatmap in plan.heatmaps:
            if heatmap.scale == key:
                values = np.abs(heatmap.source.values(moment).astype(np.float32))
                cells.append(values.reshape(-1) if heatmap.mask is None else values[~heatmap.mask])
        largest = max(largest, float(np.quantile(np.concatenate(cells), quantile)))
    return largest


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("layout", ["changes", "ffn"])
@pytest.mark.parametrize("run", ["steady", "peak"])
def test_a_scale_reaches_to_the_capture_that_is_farthest_out(
    runs, run, layout, n_threads, monkeypatch
):
    monkeypatch.setattr("tracker_viz.rendering.measuring.usable_cores", lambda: n_threads)
    series = Series(runs[run])
    plan = make_plan(LAYOUTS[layout], series)
    assert len(plan.scales) == 2
    for key, scale in plan.scales.items():
        assert scale.maximum == expected_largest(
            plan, series, key, 0.9999 if key.startswith("attention") else 0.995
        ), key
        assert scale.clipped[1]


def test_all_scales_of_a_layout_need_one_reading_of_each_capture(run, monkeypatch):
    monkeypatch.setattr("tracker_viz.rendering.measuring.usable_cores", lambda: 1)
    series = Series(run)
    read = collections.Counter()
    original = Series.read

    def counting(self, index, keys):
        names = [key if isinstance(key, str) else key[0] for key in keys]
        if any(".mlp." in name for name in names) and any("pattern" in name for name in names):
            read[index] += 1
        return original(self, index, keys)

    monkeypatch.setattr(Series, "read", counting)
    make_plan(LAYOUTS["changes"], series)
    assert set(read) == set(range(N_CAPTURES))
    assert read.total() == N_CAPTURES + 1, (
        "the first capture is also what the first is compared with"
    )


def test_ends_that_are_given_stay_and_the_values_beyond_them_are_known(run):
    given = {"attention": {"minimum": 1e-3, "maximum": 1e-2}}
    plan = Renderer(Series(run), "changes", size="720p", scales=given).plan
    scale = plan.scales["attention_step"]
    assert (scale.minimum, scale.maximum) == (1e-3, 1e-2)
    assert scale.clipped[1], "the color bar says that values lie beyond its end"


def test_a_run_in_which_nothing_changes_can_be_drawn(synthetic, tmp_path):
    captures = synthetic.write_run(
        tmp_path, 1, blocks=1, heads=2, length=16, width=12, hidden=20, period=5
    )
    scales = make_plan(LAYOUTS["changes"], Series(captures)).scales
    assert {scale.maximum for scale in scales.values()} == {1.0}
    assert not any(scale.clipped[1] for scale in scales.values())


@pytest.mark.parametrize("n_threads", [1, 3])
def test_ends_are_exact_for_any_number_of_cells_and_any_quantile(
    synthetic, tmp_path, n_threads, monkeypatch
):
    """Values with ties, some of them not finite, and the quantile between, at and beside two of
    them."""
    monkeypatch.setattr("tracker_viz.rendering.measuring.usable_cores", lambda: n_threads)
    rng = np.random.default_rng(7)
    sizes = (1, 2, 3, 5, 10, 11, 20, 21, 22, 41, 101)
    runs = [
        {
            f"blocks.{n}.mlp.w_up": (rng.integers(-9, 9, (1, n)) / 64).astype(np.float16)
            for n in sizes
        }
        for _ in range(6)
    ]
    runs[4]["blocks.41.mlp.w_up"][0, ::5] = np.nan
    runs[5]["blocks.41.mlp.w_up"][0, 3] = -np.inf
    captures = [Capture(step=step, arrays=arrays, axes={}) for step, arrays in enumerate(runs)]
    series = Series([synthetic.write_capture(tmp_path, capture) for capture in captures])
    shows = {"value": lambda at: None, "change": lambda at: 0, "step": lambda at: max(0, at - 1)}
    wanted, expected = {}, {}
    for n, quantile, (show, then) in itertools.product(
        sizes, (0.5, 0.8, 0.9, 0.95, 0.995), shows.items()
    ):
        key, name = f"{n} {quantile} {show}", f"blocks.{n}.mlp.w_up"
        source = WeightMap(name, (1, n), (np.arange(1), np.arange(n)), show, "rms")
        wanted[key] = quantile, [Heatmap(key, source, Box(0, 0, n, 1), "weights")]
        cells = []
        for at, arrays in enumerate(runs):
            before = 0.0 if then(at) is None else runs[then(at)][name].astype(np.float32)
            with np.errstate(invalid="ignore"):
                change = np.abs(arrays[name].astype(np.float32) - before)
            cells.append(change[np.isfinite(change)])
        expected[key] = ValueRange(
            max(float(np.quantile(each, quantile)) for each in cells),
            max(float(each.max()) for each in cells),
        )
    assert measure(series, wanted) == expected

"""Pictures of hybrids: blocks without a softmax show their mixing maps beside attention, signed,
in the row of their block, and never with a head's role."""

from __future__ import annotations

import numpy as np

from tracker_viz import capture_file
from tracker_viz.rendering import Renderer, Series
from tracker_viz.rendering.sources import HeadMap, Moment, extreme_pool
from tracker_viz.types import Capture, CapturePath

T = 16
ATTENDING, MIXING = (1, 3), (0, 2)


def written(folder, step, *, attending=ATTENDING, axis="head"):
    rng = np.random.default_rng(step)
    arrays, axes = {}, {}
    for block in attending:
        weights = np.tril(rng.random((1, 4, T, T))) + 1e-3 * np.eye(T)
        name = f"blocks.{block}.attn.pattern"
        arrays[name] = (weights / weights.sum(-1, keepdims=True)).astype(np.float16)
        axes[name] = ("probe", "head", "query", "key")
    for block in MIXING:
        name = f"blocks.{block}.mixer.mixing"
        arrays[name] = np.tril(rng.normal(0, 0.2, (1, 4, T, T))).astype(np.float16)
        axes[name] = ("probe", axis, "query", "key")
    arrays["scores.mixing.memory"] = np.full((4, 4), 0.5, np.float32)
    axes["scores.mixing.memory"] = ("block", "mixing_head")
    labels = {"probe": ("repeated",)}
    labels |= {f"blocks.{block}.mixing_{axis}": tuple("0369") for block in MIXING}
    model = {"name": "hybrid", "n_blocks": 4}
    path = folder / f"step-{step:08}.safetensors"
    ref = capture_file.write(Capture(step, arrays, axes, labels, model=model), path)
    return CapturePath(ref, path)


def drawn(folder, layout="heads", **options):
    series = Series([written(folder, step, **options) for step in (0, 10)])
    return Renderer(series, layout, size="720p")


def test_blocks_that_mix_stand_in_their_own_rows_beside_those_that_attend(tmp_path):
    plan = drawn(tmp_path).plan
    tops = {}
    for heatmap in plan.heatmaps:
        tops.setdefault(int(heatmap.source.name.split(".")[1]), set()).add(heatmap.box.y)
    assert [len(tops[block]) for block in range(4)] == [1, 1, 1, 1]
    assert sorted(tops, key=lambda block: max(tops[block])) == [0, 1, 2, 3]
    assert any(label.text.startswith("Mixing") for label in plan.labels)


def test_mixing_maps_are_signed_around_0_and_have_no_role(tmp_path):
    plan = drawn(tmp_path).plan
    of_mixing = [each for each in plan.heatmaps if each.source.name.endswith(".mixing")]
    assert len(of_mixing) == 8
    scale = plan.scales[of_mixing[0].scale]
    assert scale.minimum == -scale.maximum
    assert scale.maximum > 0.2
    assert all(heatmap.head is None for heatmap in of_mixing)
    assert all(heatmap.head for heatmap in plan.heatmaps if heatmap not in of_mixing)
    assert "L2H9" in {heatmap.corner for heatmap in of_mixing}


def test_a_model_without_attention_is_drawn_by_its_mixing_maps(tmp_path):
    renderer = drawn(tmp_path, attending=(), axis="channel")
    assert renderer.frame(1).pixels.any()
    names = {heatmap.source.name for heatmap in renderer.plan.heatmaps}
    assert names == {"blocks.0.mixer.mixing", "blocks.2.mixer.mixing"}


def test_a_model_that_only_mixes_has_an_overview_of_maps_and_their_scores(tmp_path, caplog):
    with caplog.at_level("INFO"):
        plan = drawn(tmp_path, "overview", attending=(), axis="channel").plan
    names = {heatmap.source.name for heatmap in plan.heatmaps}
    assert {name for name in names if name.startswith("scores.")} == {"scores.mixing.memory"}
    assert "shows no feed-forward weights: the captures hold none" in caplog.text


def test_a_pooled_mixing_map_keeps_the_largest_entry_with_its_sign():
    values = np.zeros((1, 4, 4), np.float16)
    values[0, 1, 0], values[0, 0, 1], values[0, 3, 2] = -3.0, 2.0, 0.5
    assert extreme_pool(values, 2).tolist() == [[[-3.0, 0.0], [0.0, 0.5]]]
    source = HeadMap("blocks.0.mixer.mixing", None, 0, 4, pool=2)
    moment = Moment({"blocks.0.mixer.mixing": values}, {}, {})
    assert source.values(moment).tolist() == [[-3.0, 0.0], [0.0, 0.5]]

"""Where things stand: inside the picture, apart from each other, large enough, in whole even
pixels, whatever the model's shape."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from tracker_viz.errors import LayoutError
from tracker_viz.metrics import HEAD_SCORES, WEIGHT_SCORES, RoleEvent
from tracker_viz.rendering import (
    LAYOUTS,
    THEMES,
    Attention,
    Layout,
    Scores,
    Series,
    Weights,
    make_plan,
    picture_size,
)
from tracker_viz.rendering.plan import Box
from tracker_viz.rendering.planning.grid import fit_map, fit_matrix
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.planning.timeline import timeline
from tracker_viz.rendering.scales import bar_ticks
from tracker_viz.rendering.sources import HeadMap, Moment, Mosaic, ScoreMap
from tracker_viz.rendering.subject import one_run
from tracker_viz.rendering.text import fitted_px, text_width

SHAPES = {
    "1x1": (1, 1, 16),
    "2x2": (2, 2, 64),
    "4x4": (4, 4, 64),
    "6x6": (6, 6, 64),
    "8x2": (8, 2, 32),
    "1x16": (1, 16, 64),
    "2x12": (2, 12, 32),
    "48x1": (48, 1, 32),
    "12x12": (12, 12, 64),
    "80x4": (80, 4, 32),
    "32x32": (32, 32, 32),
    "80x64": (80, 64, 16),
    "126x8": (126, 8, 16),
}
SMALL = {"blocks": 4, "heads": 4, "length": 32, "width": 32, "hidden": 48, "period": 9}
# In the order in which they came.
NEWEST = ("adapters", "experts", "circuit", "lens")
# One block reads no earlier one, and of more than 512 heads no pairs are kept.
WITHOUT_CIRCUIT = {(shape, "circuit") for shape in ("1x1", "1x16", "32x32", "80x64", "126x8")}
SIZES = ("1080p", "square", "720p", "1080x1920", "2560x1080", "4k")


def newness(name):
    return NEWEST.index(name) + 1 if name in NEWEST else 0


@pytest.fixture(scope="session")
def series_of(synthetic, tmp_path_factory):
    """shape -> its Series, with every score that there is."""

    @functools.cache
    def series(shape):
        blocks, heads, length = (
            SHAPES[shape] if shape in SHAPES else (*map(int, shape.split("x")), 16)
        )
        options = {
            "blocks": blocks,
            "heads": heads,
            "length": length,
            "width": 32,
            "hidden": 48,
            "period": 7,
            "last_step": 12_000,
        }
        folder = tmp_path_factory.mktemp("shape")
        captures = synthetic.captures(3, **options)
        run = [
            synthetic.write_capture(folder, with_all_scores(capture, blocks, heads))
            for capture in captures
        ]
        return Series(run, title="llama-mini · repeated tokens · run 7f3a")

    return series


def with_all_scores(capture, blocks, heads):
    rng = np.random.default_rng(capture.step)
    more = {
        f"scores.head.{name}": (rng.uniform(0, 1, (blocks, heads)), ("block", "head"))
        for name in HEAD_SCORES
    }
    more |= {
        f"scores.weight.{name}": (rng.uniform(-0.25, 9, (blocks, 7)), ("block", "projection"))
        for name in WEIGHT_SCORES
    }
    arrays = {
        name: values.astype(np.float32)
        for name, (values, _) in more.items()
        if name not in capture.arrays
    }
    return replace(
        capture,
        arrays={**capture.arrays, **arrays},
        axes={**capture.axes, **{name: axes for name, (_, axes) in more.items()}},
    )


def texts_of(plan):
    """(text, Box, font size in pixels) of all that is written, roughly: its advance wide, from
    ascender to descender high."""
    for label in plan.labels:
        wide = text_width(label.text, label.size_px, bold=label.bold, mono=label.mono)
        if label.rotation:
            yield (
                label.text,
                Box(
                    round(label.x - label.size_px * 0.76),
                    round(label.y),
                    round(label.size_px * 0.9),
                    wide,
                ),
                label.size_px,
            )
            continue
        x = label.x - {"left": 0, "center": wide / 2, "right": wide}[label.align]
        top = label.y - label.size_px * (0.5 if label.baseline == "center" else 0.76)
        yield (
            label.text,
            Box(round(x), round(top), wide, round(label.size_px * 0.95)),
            label.size_px,
        )
    for bar in plan.bars:
        scale, tick_px = plan.scales[bar.scale], bar.font_px
        if bar.titled:
            title_px = fitted_px(scale.label, bar.font_px, bar.box.width)
            baseline, wide = bar.box.y - bar.font_px * 0.4, text_width(scale.label, title_px)
            yield (
                scale.label,
                Box(bar.box.x, round(baseline - title_px * 0.76), wide, round(title_px * 0.95)),
                title_px,
            )
        for position, text in bar_ticks(scale, bar.box.width / tick_px):
            wide = text_width(text, tick_px)
            x = (
                bar.box.x
                + position * bar.box.width
                - (0 if position < 0.02 else wide if position > 0.98 else wide / 2)
            )
            yield (
                f"tick {text}",
                Box(
                    round(x),
                    round(bar.box.bottom + bar.font_px * 0.36),
                    wide,
                    round(bar.font_px * 0.8),
                ),
                tick_px,
            )
    for readout in plan.readouts:
        digit = text_width("0", readout.size_px, bold=True, mono=True)
        top = round(readout.baseline - readout.size_px * 0.75)
        yield (
            readout.quantity,
            Box(
                readout.x - (digit * readout.width_chars if readout.align == "right" else 0),
                top,
                digit * readout.width_chars,
                round(readout.size_px * 0.76),
            ),
            readout.size_px,
        )


def overlaps(ones, others=None):
    """Pairs of names whose boxes overlap; of ``ones`` among each other when there are no
    ``others``. Each: [(name, Box)]."""
    pairs = ones if others is None else others
    if not ones or not pairs:
        return []
    left, top, right, bottom = np.array(
        [(box.x, box.y, box.right, box.bottom) for _, box in ones]
    ).T[:, :, None]
    x, y, x_end, y_end = np.array([(box.x, box.y, box.right, box.bottom) for _, box in pairs]).T[
        :, None
    ]
    found = (left < x_end) & (x < right) & (top < y_end) & (y < bottom)
    if others is None:
        found = np.triu(found, 1)
    return [(ones[i][0], pairs[j][0]) for i, j in np.argwhere(found)]


def framed(plan, box):
    reach = plan.roles.line_px + 1
    return Box(box.x - reach, box.y - reach, box.width + 2 * reach, box.height + 2 * reach)


@pytest.mark.parametrize(
    ("shape", "name", "size"),
    [
        # Each shape in each layout, and each layout in each size: the sizes go round.
        *(
            (shape, name, SIZES[(row + 2 * column) % 6])
            for row, shape in enumerate(SHAPES)
            # The newest layouts come last, so that the others keep their sizes.
            for column, name in enumerate(sorted(LAYOUTS, key=newness))
            if (shape, name) not in WITHOUT_CIRCUIT
        ),
        *((shape, "overview", size) for shape in ("4x4", "32x32") for size in SIZES),
        *(
            (shape, name, size)
            for shape in ("4x4", "80x64")
            for name in ("head", "heads", "weights")
            for size in ("square", "1080x1920")
        ),
    ],
)
def test_all_is_in_the_picture_and_apart_and_large_enough_to_be_read(series_of, shape, name, size):
    plan = make_plan(LAYOUTS[name], series_of(shape), size=size)
    texts = [(text, box) for text, box, _ in texts_of(plan)]
    boxes = [(heatmap.name, heatmap.box) for heatmap in plan.heatmaps] + [
        (f"bar {bar.scale}", bar.box) for bar in plan.bars
    ]
    if plan.timeline:
        boxes.append(("timeline", plan.timeline.box))
    swatches = [
        (f"swatch {swatch.color}", swatch.box)
        for swatch in plan.swatches
        if swatch.box.width == swatch.box.height
    ]
    outside = [
        each
        for each, box in (*texts, *boxes)
        if box.x < 0 or box.y < 0 or box.right > plan.width or box.bottom > plan.height
    ]
    assert outside == []
    end = (
        plan.width - 29 * plan.unit
    )  # the margin, less what a centred name may reach beyond its map
    assert [each for each, box in (*texts, *boxes) if box.right > end] == [], "in the margin"
    painted = sum(heatmap.box.width * heatmap.box.height for heatmap in plan.heatmaps)
    if plan.graph:
        painted += plan.graph.box.width * plan.graph.box.height
    # Two dozen maps of 80 rows each in a square leave rows of one pixel between their names.
    least = 0.08 if len(plan.heatmaps) < 24 or plan.width > plan.height else 0.065
    assert painted >= least * plan.width * plan.height, "most of the picture is empty"
    assert overlaps(texts) == []
    assert overlaps(boxes) == []
    assert overlaps(texts, boxes + swatches) == []
    heads = [(heatmap.name, framed(plan, heatmap.box)) for heatmap in plan.heatmaps if heatmap.head]
    assert overlaps(heads) == [], "a frame covers its neighbor's"
    assert [
        (text, size_px) for text, _, size_px in texts_of(plan) if size_px < 19.99 * plan.unit
    ] == []
    assert [text for text, _ in texts if text.endswith("…")] == [], "cut"
    ticks = {
        bar.scale: [at for at, _ in bar_ticks(plan.scales[bar.scale], bar.box.width / bar.font_px)]
        for bar in plan.bars
    }
    assert [scale for scale, (*_, end) in ticks.items() if end < 1.0] == [], (
        "a bar that does not say how far it goes"
    )
    assert [
        heatmap.name
        for heatmap in plan.heatmaps
        if min(heatmap.box.width, heatmap.box.height) < 12 * plan.unit
    ] == []


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", ["1080p", "square", "1080x1920"])
def test_step_loss_and_subject_are_read_where_the_picture_is_640_pixels_wide(series_of, name, size):
    plan = make_plan(LAYOUTS[name], series_of("12x12"), size=size)
    shrunk = 640 / plan.width
    assert {"step", "loss"} <= {
        readout.quantity for readout in plan.readouts if readout.size_px * shrunk >= 15
    }
    bold = sorted(
        label.size_px * shrunk for label in plan.labels if label.bold and label.text != "loss"
    )
    assert bold[0] >= 8, "titles of the parts"
    assert bold[-1] >= 12, "title of the run"


def test_the_axes_of_every_map_are_said(series_of):
    for shape, name in itertools.product(("4x4", "12x12", "32x32"), LAYOUTS):
        if (shape, name) in WITHOUT_CIRCUIT:
            continue
        plan = make_plan(LAYOUTS[name], series_of(shape))
        written = {label.text for label in plan.labels}
        names = [heatmap.name for heatmap in plan.heatmaps]
        if any(heatmap.head for heatmap in plan.heatmaps):
            assert any(text.startswith("query ↓ key →") for text in written), (shape, name)
        if any(
            "blocks" in each and not each.startswith(("Weight", "Signed", "Adapter"))
            for each in names
        ):
            assert any(text.startswith("block ↓ head →") for text in written), (shape, name)
        if any(each.startswith("score") for each in names):
            assert any(text.startswith("block ↓") for text in written), (shape, name)
        if any(each.startswith(("Weight", "Signed")) for each in names):
            axes = ("output ↓ input →", "out ↓ in →")
            assert any(each in text for text in written for each in axes), (shape, name)


def test_in_a_portrait_probe_rows_stand_below_each_other_in_one_size(series_of):
    wide, tall = (
        make_plan(LAYOUTS["heads"], series_of("4x4"), size=size).heatmaps
        for size in ("1080p", "1080x1920")
    )
    assert len({heatmap.box.y for heatmap in wide}) == 4
    assert len({heatmap.box.y for heatmap in tall}) == 8
    assert len({heatmap.box.width for heatmap in tall}) == 1


def test_a_weight_score_that_stays_small_has_a_scale_of_its_own_and_scores_of_heads_share_theirs(
    synthetic, tmp_path
):
    run = []
    for capture in synthetic.captures(2, blocks=2, heads=2, length=16, period=7):
        arrays = {
            "scores.weight.small": np.full((2, 7), 0.2),
            "scores.weight.large": np.full((2, 7), 0.8),
            "scores.head.faint": np.full((2, 2), 0.2),
        }
        arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
        run.append(
            synthetic.write_capture(tmp_path, replace(capture, arrays={**capture.arrays, **arrays}))
        )
    plan = make_plan(LAYOUTS["scores"], Series(run))
    scales = {
        heatmap.source.name.rpartition(".")[2]: plan.scales[heatmap.scale]
        for heatmap in plan.heatmaps
    }
    assert scales["small"].maximum == pytest.approx(0.2, rel=1e-3)
    assert scales["large"].maximum == scales["faint"].maximum == scales["induction"].maximum == 1.0


def test_matrices_that_would_be_dots_become_one_map_of_how_much_each_changed(series_of):
    plan = make_plan(LAYOUTS["ffn"], series_of("126x8"), size="640x480")
    assert [heatmap.source.shape for heatmap in plan.heatmaps] == [(126, 3)]


def test_the_title_of_a_bar_says_less_before_it_becomes_small(series_of):
    weights = Weights(show="step")
    labels = {
        len(panels): {
            scale.label
            for scale in make_plan(
                Layout(name="mine", panels=panels), series_of("4x4"), size="square"
            ).scales.values()
        }
        for panels in ((weights,), (Attention(), weights, Scores()))
    }
    assert "weight change since the previous capture (RMS) · log scale" in labels[1]
    assert "weight change · log scale" in labels[3]


def test_every_token_of_the_probe_is_written_beside_a_large_head(series_of):
    plan = make_plan(LAYOUTS["head"], series_of("4x4"))
    upright = [label.text for label in plan.labels if label.align == "right" and not label.rotation]
    assert upright.count("t3") == 9, "64 tokens of period 7"


def test_a_head_stands_beside_its_value_weighted_map_where_captures_hold_norms(synthetic, tmp_path):
    run = []
    for capture in synthetic.captures(2, blocks=2, heads=2, length=16, period=5, width=8, hidden=8):
        norms = {
            f"blocks.{b}.attn.value_norm": np.full((2, 2, 16), b + 1, np.float32) for b in range(2)
        }
        axes = {**capture.axes, **dict.fromkeys(norms, ("probe", "head", "key"))}
        capture = replace(capture, arrays={**capture.arrays, **norms}, axes=axes)
        run.append(synthetic.write_capture(tmp_path, capture))
    series = Series(run, title="weighted")
    raw, weighted = _large_maps(series, LAYOUTS["head"])
    assert (raw.weighted_by, weighted.weighted_by) == ((), (0, 1))
    assert (raw.name, raw.probe, raw.head) == (weighted.name, weighted.probe, weighted.head)
    panel = LAYOUTS["head"].panels[0].model_copy(update={"beside": "rows"})
    rows = _large_maps(series, Layout(name="rows", panels=(panel,)))
    assert [(source.probe, source.weighted_by) for source in rows] == [(0, ()), (1, ())]
    of_all = Layout(name="all", panels=(Attention(weighted=True),))
    assert all(source.weighted_by for source in _large_maps(series, of_all))


@pytest.fixture(scope="module")
def indexed_series(synthetic, tmp_path_factory):
    """3 blocks of 2 heads; only block 1 has an indexer, of 5 keys."""
    directory = tmp_path_factory.mktemp("indexed")
    made = synthetic.captures(2, blocks=3, heads=2, length=16, period=5, width=8, hidden=8)
    run = [synthetic.write_capture(directory, synthetic.with_indexer(each)) for each in made]
    return Series(run, title="indexed")


def test_a_head_stands_beside_the_keys_that_the_indexer_of_its_block_chose(indexed_series):
    layout = _large(block=1, head=1)
    plan = make_plan(layout, indexed_series)
    attention, chosen = [each for each in plan.heatmaps if isinstance(each.source, HeadMap)]
    assert (attention.head, chosen.head) == ((1, 1), None), "a choice of keys has no role"
    scale = plan.scales[chosen.scale]
    assert (scale.minimum, scale.maximum, len(np.unique(scale.table()[:0x7C00], axis=0))) == (
        0,
        1,
        2,
    )
    arrays = indexed_series.read(1, chosen.source.needs)
    expected = indexed_series.read(1, ["blocks.1.attn.indexer"])["blocks.1.attn.indexer"][0]
    assert np.array_equal(chosen.source.values(Moment(arrays, {}, {})), expected)
    assert not chosen.source.blends, "between two captures no key is half chosen"
    assert {"Keys the indexer chose", "query ↓ key → · top 5"} <= {
        each.text for each in plan.labels
    }


def test_a_head_is_only_shown_with_an_indexer_that_captures_hold(indexed_series, series_of):
    without = _large_maps(indexed_series, _large(block=0))
    assert [(source.name, source.probe) for source in without] == [
        ("blocks.0.attn.pattern", 0),
        ("blocks.0.attn.pattern", 1),
    ]
    names = [source.name for source in _large_maps(indexed_series, _large(beside="indexer"))]
    assert names == ["blocks.1.attn.pattern", "blocks.1.attn.indexer"]
    with pytest.raises(LayoutError, match=r"no blocks\.2\.attn\.indexer .* hold blocks\.1\."):
        make_plan(_large(block=2, beside="indexer"), indexed_series)
    with pytest.raises(LayoutError, match="they hold none: only models with sparse attention"):
        make_plan(_large(beside="indexer"), series_of("2x2"))


def _large(**options):
    panel = LAYOUTS["head"].panels[0].model_copy(update=options)
    return Layout(name="indexed", panels=(panel,))


def test_below_a_large_head_are_the_words_that_it_raises_most(synthetic, tmp_path):
    shape = (2, 2, 4, 3)  # block, head, position, rank
    run = []
    for capture in synthetic.captures(2, blocks=2, heads=2, length=16, period=5, width=8, hidden=8):
        ids = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        added = {"write.top": ids, "write.top_logit": ids / 10, "write.right": ids[1, 0, :, 2]}
        axes = {**capture.axes, "write.right": ("position",)}
        axes |= dict.fromkeys(
            ("write.top", "write.top_logit"), ("block", "head", "position", "rank")
        )
        texts = {
            "write.top": tuple(f"w{round(each)}" for each in ids.flat),
            "write.token": tuple("abcd"),
            "write.right": tuple("bcde"),
        }
        capture = replace(
            capture,
            arrays={**capture.arrays, **added},
            axes=axes,
            labels={**capture.labels, **texts},
        )
        run.append(synthetic.write_capture(tmp_path, capture))
    panel = LAYOUTS["head"].panels[0].model_copy(update={"block": 1, "head": 0})
    layout, series = Layout(name="words", panels=(panel,)), Series(run, title="words")
    (words,) = make_plan(layout, series).words
    assert words.texts[-1] == tuple(
        tuple(f"w{24 + 3 * position + rank}" for position in range(4)) for rank in range(3)
    )
    assert words.marked[-1].tolist() == [[False] * 4, [False] * 4, [True] * 4]
    assert not make_plan(layout, series, size="square").words, "maps and scores need the room"


def _large_maps(series, layout):
    sources = [heatmap.source for heatmap in make_plan(layout, series).heatmaps]
    return [source for source in sources if isinstance(source, HeadMap)]


def test_weighting_by_values_that_captures_lack_is_refused_with_what_to_do(series_of):
    layout = Layout(name="weighted", panels=(Attention(weighted=True),))
    with pytest.raises(LayoutError, match="capture with signals="):
        make_plan(layout, series_of("2x2"))


def test_tokens_are_as_large_as_other_labels_where_they_can_take_turns_in_two_columns(series_of):
    plan = make_plan(LAYOUTS["head"], series_of("4x4"))
    tokens = [
        label for label in plan.labels if label.text.startswith("t") and label.text[1:].isdigit()
    ]
    assert {label.size_px for label in tokens} == {20.0}
    beside = [label.x for label in tokens if not label.rotation]
    assert len(set(beside)) == 2
    assert max(heatmap.box.width for heatmap in plan.heatmaps) >= 576, "at little cost for the maps"


def test_scores_of_very_many_heads_stand_below_a_large_one_in_a_narrow_picture(series_of):
    plan = make_plan(LAYOUTS["head"], series_of("90x128"), size="square")
    scores = [heatmap.box for heatmap in plan.heatmaps if heatmap.name.startswith("score")]
    assert len(scores) == 4
    assert min(box.y for box in scores) > max(
        heatmap.box.bottom for heatmap in plan.heatmaps if heatmap.head
    )


@pytest.mark.parametrize(
    ("shape", "size", "lines"),
    [("1x16", "1080p", 4), ("1x16", "1080x1920", 8), ("2x12", "1080p", 6)],
)
def test_many_heads_of_few_blocks_stand_in_several_lines_each_with_its_name(
    series_of, shape, size, lines
):
    plan = make_plan(LAYOUTS["heads"], series_of(shape), size=size)
    boxes = {heatmap.head: heatmap.box for heatmap in plan.heatmaps if "repeated" in heatmap.name}
    assert len({box.y for box in boxes.values()}) == lines
    above = [(label.text, label.x) for label in plan.labels if label.text.startswith("head ")]
    corners = {heatmap.box: heatmap.corner for heatmap in plan.heatmaps}
    for (block, head), box in boxes.items():
        is_above = (f"head {head}", box.x + box.width / 2) in above
        assert is_above or corners[box] == f"L{block}H{head}"


def test_a_matrix_fills_its_room_and_small_ones_keep_a_cell_for_each_entry(series_of):
    builder = PlanBuilder(LAYOUTS["ffn"], one_run(series_of("4x4")), 1920, 1080, THEMES["dark"])
    box, cells = fit_matrix(builder, (176, 64), Box(0, 0, 236, 88))
    assert box.width >= 0.95 * 236
    assert box.height == 88
    box, cells = fit_matrix(builder, (16, 64), Box(0, 0, 236, 88))
    assert cells[0] == 16
    assert fit_matrix(builder, (1, 1), Box(0, 0, 8, 8)) == (Box(0, 0, 8, 8), (1, 1))


@pytest.mark.parametrize("size", ["1080p", "square", "1080x1920"])
def test_very_many_blocks_and_their_weights_take_the_height_of_the_picture(series_of, size):
    plan = make_plan(LAYOUTS["changes"], series_of("126x8"), size=size)
    top, end = min(heatmap.box.y for heatmap in plan.heatmaps), plan.timeline.box.y
    for kind, least in (("blocks", 0.55), ("weights", 0.7)):
        bottom = max(heatmap.box.bottom for heatmap in plan.heatmaps if kind in heatmap.name)
        assert bottom - top >= least * (end - top), kind


@pytest.mark.parametrize("shape", ["80x64", "126x8"])
def test_very_many_blocks_fit_into_the_smallest_picture_that_is_hardly_wider_than_high(
    series_of, shape
):
    for name in ("overview", "changes"):
        assert len(make_plan(LAYOUTS[name], series_of(shape), size="640x480").heatmaps) >= 10


def test_scores_that_find_no_room_beside_many_heads_are_named(series_of, caplog):
    plan = make_plan(
        Layout(name="mine", panels=(Attention(), Scores(names=("head.*",)))),
        series_of("32x32"),
        size="640x360",
    )
    shown = {
        heatmap.name.removeprefix("score · ")
        for heatmap in plan.heatmaps
        if heatmap.name.startswith("score")
    }
    missed = {
        message.partition("no room for the map of ")[2].partition(" at 640x360")[0]
        for message in caplog.messages
    }
    assert missed
    assert not missed & shown
    assert len(missed | shown) == len(HEAD_SCORES)


def plan_of(synthetic, tmp_path, name, *, size="1080p", model=None, **options):
    captures = synthetic.captures(2, width=12, hidden=16, **options)
    written = []
    for capture in captures:
        described = {**capture.model, **(model or {})}
        written.append(synthetic.write_capture(tmp_path, replace(capture, model=described)))
    return make_plan(LAYOUTS[name], Series(written), size=size)


def pools_of(plan):
    """How many entries share a side of a cell, of all maps of heads."""
    maps = [heatmap.source for heatmap in plan.heatmaps]
    firsts = [source.maps[0][0] if isinstance(source, Mosaic) else source for source in maps]
    return {source.pool for source in firsts if isinstance(source, HeadMap)}


@pytest.mark.parametrize("size", ["1080p", "square", "640x360"])
@pytest.mark.parametrize(
    ("shape", "layout"), [("6x6", "overview"), ("12x12", "heads"), ("32x32", "heads")]
)
def test_a_pooled_map_says_how_it_is_pooled_whatever_the_room(series_of, shape, layout, size):
    plan = make_plan(LAYOUTS[layout], series_of(shape), size=size)
    said = " ".join(label.text for label in plan.labels)
    for pool in pools_of(plan) - {1}:
        assert f"max of {pool} × {pool}" in said or f"max {pool}×{pool}" in said


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"n_heads": 32}, "3 of 32 heads"),
        (
            {"n_heads": 3, "cut": {"positions": 16, "of": {"positions": 128}}},
            "first 16 of 128 positions",
        ),
    ],
)
def test_a_heading_says_which_part_of_the_model_is_shown(synthetic, tmp_path, model, words):
    shape = {"blocks": 1, "heads": 3, "length": 16, "period": 5, "probes": 1}
    plan = plan_of(synthetic, tmp_path, "heads", model=model, **shape)
    assert any(words in label.text for label in plan.labels)


@pytest.mark.parametrize(
    ("size", "words"), [("1080p", "share keys and values"), ("640x360", "share keys")]
)
def test_brackets_join_heads_that_share_keys_and_values_and_say_so(
    synthetic, tmp_path, size, words
):
    model = {"n_heads": 4, "n_kv_heads": 2}
    shape = {"blocks": 2, "heads": 4, "length": 16, "period": 5}
    plan = plan_of(synthetic, tmp_path, "heads", model=model, size=size, **shape)
    maps = {map.head: map.box for map in plan.heatmaps if map.name.startswith("Attention · rep")}
    assert [label.text for label in plan.labels if words in label.text]
    for first in (0, 2):
        left, right = maps[1, first], maps[1, first + 1]
        below = [swatch.box for swatch in plan.swatches if 0 < swatch.box.y - left.bottom < 30]
        assert {left.x, right.right} <= {side for box in below for side in (box.x, box.right)}
    assert not any(label.y < maps[1, 0].bottom + 4 for label in plan.labels if words == label.text)


def test_one_head_alone_has_numbers_for_scores(synthetic, tmp_path):
    plan = plan_of(synthetic, tmp_path, "overview", blocks=1, heads=1, length=16, period=5)
    numbers = [each.quantity for each in plan.readouts if each.quantity.startswith("scores.")]
    assert "scores.head.induction" in numbers
    assert not [map for map in plan.heatmaps if isinstance(map.source, ScoreMap)]


def test_the_copies_of_repeated_tokens_are_bracketed(synthetic, tmp_path):
    plan = plan_of(synthetic, tmp_path, "head", blocks=1, heads=2, length=30, period=10)
    repeated = next(map.box for map in plan.heatmaps if "repeated" in map.name)
    brackets = [
        swatch.box
        for swatch in plan.swatches
        if 0 < repeated.y - swatch.box.y < 12 and swatch.box.width > 40
    ]
    assert len(brackets) == 3
    assert all(abs(box.width - repeated.width / 3) < 8 for box in brackets[:2])
    texts = {label.text for label in plan.labels}
    assert {"copy 1", "copy 2", "copy 3"} <= texts


@pytest.mark.parametrize("size", ["1080p", "square", "1080x1920"])
@pytest.mark.parametrize("name", ["overview", "heads", "changes"])
def test_every_zoom_is_named(series_of, name, size):
    for shape in ("32x32", "126x8"):
        plan = make_plan(LAYOUTS[name], series_of(shape), size=size)
        captions = {label.text for label in plan.labels if re.fullmatch(r"L\d+H\d+", label.text)}
        zooms = [map.head for map in plan.heatmaps if map.name.startswith("zoom")]
        assert captions == {f"L{block}H{head}" for block, head in zooms}
        assert len(zooms) >= 8


def test_captions_of_many_zooms_stand_apart(series_of):
    plan = make_plan(
        Layout(name="mine", panels=(Attention(zooms=24), Weights(), Scores())),
        series_of("126x8"),
        size="square",
    )
    captions = [(text, box) for text, box, _ in texts_of(plan) if text.startswith("L")]
    assert captions
    assert overlaps(captions) == []


def test_scores_of_very_many_blocks_get_the_width_that_their_columns_need(series_of):
    plan = make_plan(LAYOUTS["weights"], series_of("126x8"))
    scores = [heatmap for heatmap in plan.heatmaps if heatmap.name.startswith("weights ·")]
    assert scores
    assert all(heatmap.box.width >= 8 * heatmap.source.shape[1] for heatmap in scores)


def test_a_heading_leaves_out_what_a_change_is_since_before_the_axes_of_its_maps(series_of):
    written = {label.text for label in make_plan(LAYOUTS["changes"], series_of("12x12")).labels}
    assert {"Attention · change · repeated", "query ↓ key → · max 3×3"} <= written


@pytest.mark.parametrize(
    ("shape", "name"),
    [("4x4", "overview"), ("8x2", "heads"), ("12x12", "ffn"), ("80x4", "overview")],
)
def test_boxes_begin_at_even_pixels_and_hold_whole_cells(series_of, shape, name):
    for heatmap in make_plan(LAYOUTS[name], series_of(shape)).heatmaps:
        rows, columns = heatmap.source.shape
        assert heatmap.box.height % rows == 0, heatmap.name
        assert heatmap.box.width % columns == 0, heatmap.name
        if not heatmap.name.startswith(("score", "weights ·")):
            assert heatmap.box.y % 2 == 0, heatmap.name
            assert heatmap.box.x % 2 == 0, heatmap.name


def test_every_color_has_a_bar(series_of):
    for name in LAYOUTS:
        plan = make_plan(LAYOUTS[name], series_of("4x4"))
        assert {heatmap.scale for heatmap in plan.heatmaps} <= {bar.scale for bar in plan.bars}, (
            name
        )


@pytest.mark.parametrize("many_heads", ["roles", "mosaic"])
def test_a_thousand_heads_become_one_map_with_zooms_of_different_roles(many_heads_run, many_heads):
    panels = (Attention(many_heads=many_heads), Weights(), Scores())
    plan = make_plan(Layout(name="mine", panels=panels), Series(many_heads_run))
    mosaics = [heatmap for heatmap in plan.heatmaps if "blocks" in heatmap.name]
    zooms = [heatmap for heatmap in plan.heatmaps if heatmap.name.startswith("zoom")]
    assert len(mosaics) == (many_heads == "mosaic")
    assert len(zooms) >= 8
    held = plan.roles.held[-1]
    assert len({held.get(zoom.head) for zoom in zooms}) >= 4, (
        "zooms of the same role tell nothing new"
    )


@pytest.mark.parametrize(
    ("length", "room", "expected"),
    [
        (64, 192, (1, 3)),
        (64, 128, (1, 2)),
        (64, 150, (1, 2)),
        (64, 400, (1, 6)),
        (128, 260, (1, 2)),
    ],
)
def test_maps_take_whole_cells_and_even_ones_where_that_costs_little(length, room, expected):
    assert fit_map(length, room) == expected


@pytest.mark.parametrize("length", [24, 32, 64, 100, 128])
def test_more_room_never_gives_fewer_cells(length):
    cells = [-(-length // fit_map(length, room)[0]) for room in range(4, 600)]
    assert cells == sorted(cells)
    assert cells[-1] == length


def test_gpt_2s_shape_keeps_22_cells_a_map(series_of):
    plan = make_plan(LAYOUTS["overview"], series_of("12x12"), size="1080p")
    maps = [heatmap.source.shape[0] for heatmap in plan.heatmaps if heatmap.head]
    assert len(maps) == 144
    assert min(maps) >= 22


def test_maps_that_do_not_fit_are_pooled():
    pool, cell_px = fit_map(1024, 100)
    assert -(-1024 // pool) * cell_px <= 100
    assert cell_px >= 2


def test_sizes_have_names_and_pixels():
    assert picture_size("4K") == (3840, 2160)
    assert picture_size("1600x900") == picture_size((1600, 900)) == (1600, 900)


@pytest.mark.parametrize("size", ["square", "640x360"])
def test_events_that_crowd_stay_in_the_picture(series_of, size):
    series = series_of("4x4")
    steps = series.steps[0], series.steps[1]
    events = [RoleEvent(*steps, heads=((3, 11),), role=role) for role in THEMES["dark"].roles]
    builder = PlanBuilder(LAYOUTS["scores"], one_run(series), *picture_size(size), THEMES["dark"])
    timeline(builder, Box(30, builder.height - 130, builder.width // 2, 126), events)
    texts = [
        box
        for text, box, _ in texts_of(builder.plan())
        if any(role.replace("_", " ") in text for role in THEMES["dark"].roles)
    ]
    assert texts
    assert all(box.x >= 0 and box.right <= builder.width for box in texts)
    assert overlaps([("", box) for box in texts]) == []
    lines = [
        swatch.box.x
        for swatch in builder.swatches
        if swatch.color in THEMES["dark"].roles.values() and swatch.box.height > 20
    ]
    assert len(set(lines)) == len(events), "each event has a line of its own, also at one step"


@pytest.mark.parametrize("layout", ["overview", "changes", "ffn", "heads"])
def test_one_capture_has_no_change_and_no_timeline(synthetic, tmp_path, layout):
    series = Series(synthetic.write_run(tmp_path, 1, **SMALL))
    plan = make_plan(LAYOUTS[layout], series)
    assert plan.heatmaps
    assert plan.timeline is None
    assert [each.source.compares for each in plan.heatmaps] == [None] * len(plan.heatmaps)
    assert not any("change" in label.text.lower() for label in plan.labels)


def test_brackets_alone_say_which_heads_share_keys_and_values(synthetic, tmp_path):
    run = []
    for capture in synthetic.captures(2, **SMALL):
        model = {**capture.model, "n_kv_heads": 2}
        run.append(synthetic.write_capture(tmp_path, replace(capture, model=model)))
    plan = make_plan(LAYOUTS["overview"], Series(run))
    said = [label.text for label in plan.labels if "share keys" in label.text]
    assert said == ["share keys and values"] * 2


def test_every_row_of_a_score_is_numbered_where_the_numbers_have_room(synthetic, tmp_path):
    series = Series(synthetic.write_run(tmp_path, 2, **SMALL | {"blocks": 14, "heads": 8}))
    plan = make_plan(LAYOUTS["scores"], series)
    scores = [each for each in plan.heatmaps if each.name.startswith("score")]
    assert all(20 <= each.box.height / 14 < 25 for each in scores)
    numbers = [label.text for label in plan.labels]
    assert numbers.count("12") >= len(scores)
    assert numbers.count("12") == numbers.count("13")


def test_the_title_of_weights_is_upright_and_touches_no_name_of_a_column(series_of):
    plan = make_plan(LAYOUTS["changes"], series_of("4x4"))
    assert not any(label.rotation for label in plan.labels)
    row = [label for label in plan.labels if label.text in ("Weight change", "FFN gate")]
    title, name = sorted(row, key=lambda label: label.text, reverse=True)
    title_px = text_width(title.text, title.size_px, bold=True)
    assert title.x + title_px + 10 <= name.x - text_width(name.text, name.size_px)


@pytest.mark.parametrize("size", ["1080p", "720p", "square"])
def test_the_caption_stands_clear_of_the_titles_below_it(series_of, size):
    plan = make_plan(LAYOUTS["overview"], series_of("4x4"), size=size)
    caption = plan.caption
    titles = [label for label in plan.labels if label.text.startswith("Attention")]
    pitch = 39 * plan.unit * (caption.n_lines - 1)
    below = caption.baseline + pitch + 0.24 * caption.size_px
    above = min(label.y - 0.73 * label.size_px for label in titles)
    assert above - below >= 3 * plan.unit

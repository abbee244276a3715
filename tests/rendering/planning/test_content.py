"""Which arrays the panels of a layout mean in a run, by runs whose arrays are made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.errors import LayoutError
from tracker_viz.rendering import Attention, Layout, Scores, Series, Weights, make_plan
from tracker_viz.rendering.plan import Roles
from tracker_viz.rendering.planning import content
from tracker_viz.rendering.planning.cards import resolve_scores, score_cards
from tracker_viz.rendering.planning.plan_builder import PlanBuilder
from tracker_viz.rendering.sources import Moment
from tracker_viz.rendering.subject import one_run
from tracker_viz.rendering.theme import THEMES
from tracker_viz.types import Capture

LENGTH = 8


def causal(rng, *lead):
    attention = np.tril(rng.random((*lead, LENGTH, LENGTH)))
    return (attention / attention.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def series_of(synthetic, tmp_path):
    def make(*arrays_of_captures, axes=None, labels=None):
        captures = [
            Capture(step=10 * index, arrays=arrays, axes=axes or {}, labels=labels or {})
            for index, arrays in enumerate(arrays_of_captures)
        ]
        return Series([synthetic.write_capture(tmp_path, capture) for capture in captures])

    return make


def builder_of(series, *panels, theme="dark"):
    return PlanBuilder(
        Layout(name="mine", panels=panels), one_run(series), 1920, 1080, THEMES[theme]
    )


def attention_of(rng, blocks=(0,), heads=2, probes=None):
    lead = (heads,) if probes is None else (probes, heads)
    return {f"blocks.{block}.attn.pattern": causal(rng, *lead) for block in blocks}


def test_blocks_come_in_the_order_of_their_numbers_and_heads_by_the_numbers_of_their_labels(
    series_of,
):
    rng = np.random.default_rng(0)
    arrays = attention_of(rng, (2, 0), heads=3) | attention_of(rng, (10,), heads=2)
    series = series_of(
        arrays,
        labels={"blocks.2.head": ("h7", "h1", "h30"), "blocks.0.head": ("one", "two", "three")},
    )
    panel = Attention()
    (heads,) = content.resolve_attention(builder_of(series, panel), panel)
    assert heads.indices == [(0, (0, 1, 2)), (2, (7, 1, 30)), (10, (0, 1))]
    assert [
        [(source.name, source.probe, source.head) for source in block] for block in heads.blocks
    ] == [
        [(f"blocks.{block}.attn.pattern", None, head) for head in range(n)]
        for block, n in ((0, 3), (2, 3), (10, 2))
    ]
    assert (heads.columns, heads.length, heads.title) == (3, LENGTH, "Attention")


@pytest.mark.parametrize("second", ["7", "5"])
def test_each_map_is_named_by_its_own_head_where_blocks_kept_others(series_of, second):
    arrays = attention_of(np.random.default_rng(0), (0, 1), heads=2)
    labels = {"blocks.0.head": ("3", "7"), "blocks.1.head": ("3", second)}
    series = series_of(arrays, arrays, labels=labels)
    plan = make_plan(Layout(name="mine", panels=(Attention(),)), series)
    assert [heatmap.corner for heatmap in plan.heatmaps] == [
        "L0H3",
        "L0H7",
        "L1H3",
        f"L1H{second}",
    ]


@pytest.mark.parametrize(
    ("labels", "wanted", "expected"),
    [
        (
            ("repeated", "text"),
            None,
            [(0, "Attention · repeated tokens"), (1, "Attention · text tokens")],
        ),
        (("repeated", "text"), "text", [(1, "Attention · text tokens")]),
        (("repeated", "text"), 1, [(1, "Attention · text tokens")]),
        ((), None, [(0, "Attention · probe 0"), (1, "Attention · probe 1")]),
        (("1", "0"), "1", [(0, "Attention · probe 1")]),
    ],
)
def test_probe_rows_are_chosen_by_label_or_index_and_named(series_of, labels, wanted, expected):
    series = series_of(
        attention_of(np.random.default_rng(1), probes=2), labels={"probe": labels} if labels else {}
    )
    panel = Attention(probe=wanted)
    found = content.resolve_attention(builder_of(series, panel), panel)
    assert [(heads.blocks[0][0].probe, heads.title) for heads in found] == expected


def test_a_probe_of_one_unnamed_row_needs_no_name_and_rows_that_are_not_there_are_refused(
    series_of,
):
    series = series_of(attention_of(np.random.default_rng(2), probes=1))
    assert (
        content.resolve_attention(builder_of(series, Attention()), Attention())[0].title
        == "Attention"
    )
    for wanted in (1, "text"):
        with pytest.raises(LayoutError, match="probe rows 0; got"):
            content.resolve_attention(builder_of(series, Attention()), Attention(probe=wanted))


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 1, 1), (0, 2, 1), (1, 0, 0)])
def test_attention_to_the_future_in_the_first_or_last_block_at_the_start_or_the_end_leaves_no_mask(
    series_of, place
):
    capture, block, head = place
    runs = [attention_of(np.random.default_rng(seed), (0, 1, 2)) for seed in range(2)]
    (heads,) = content.resolve_attention(builder_of(series_of(*runs), Attention()), Attention())
    assert heads.causal
    assert np.array_equal(heads.mask(4), np.triu(np.ones((4, 4), bool), 1))
    pattern = runs[capture][f"blocks.{block}.attn.pattern"]
    pattern[head, 2, 3] = 0.002
    looks_ahead = block != 1
    (heads,) = content.resolve_attention(builder_of(series_of(*runs), Attention()), Attention())
    assert heads.causal != looks_ahead
    pattern[head, 2, 3] = np.nan
    (heads,) = content.resolve_attention(builder_of(series_of(*runs), Attention()), Attention())
    assert heads.causal, "a NaN is no attention"


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_the_heads_that_changed_most_are_taken_of_one_role_after_the_other(series_of, n):
    rng = np.random.default_rng(3)
    first, last = (attention_of(rng, (0, 3), heads=3, probes=2) for _ in range(2))
    series = series_of(
        first,
        attention_of(rng, (0, 3), heads=3, probes=2),
        last,
        labels={"blocks.3.head": ("4", "5", "9")},
    )
    (heads,) = content.resolve_attention(builder_of(series, Attention()), Attention(probe=1))
    change = {
        (row, column): np.square(last[name][1, column] - first[name][1, column]).sum()
        for row, name in enumerate(["blocks.0.attn.pattern", "blocks.3.attn.pattern"])
        for column in range(3)
    }
    roles = {(0, 0): "sink", (0, 2): "induction", (3, 5): "sink", (3, 9): "sink"}
    role_of = {
        (row, column): roles.get(((0, 3)[row], ((0, 1, 2), (4, 5, 9))[row][column]), "")
        for row, column in change
    }
    left, expected = sorted(change, key=lambda place: -change[place]), []
    order = list(dict.fromkeys(role_of[place] for place in left))
    while left:
        for role in order:
            for place in [place for place in left if role_of[place] == role][:1]:
                expected.append(place)
                left.remove(place)
    assert content.most_changed(series, heads, n, roles) == expected[:n]


def test_matrices_come_in_the_order_of_the_computation_and_only_matrices_do(series_of):
    rng = np.random.default_rng(4)
    kinds = ["mlp.w_down", "mlp.w_extra", "attn.w_o", "mlp.w_gate", "attn.w_q", "mlp.w_up"]
    arrays = {
        f"blocks.{block}.{kind}": rng.normal(size=(4, 6)).astype(np.float32)
        for block in (10, 9)
        for kind in kinds[block == 10 :]
    }
    arrays |= {"blocks.9.mlp.w_bias": np.ones(4, np.float32)}
    axes = {name: ("out", "in") for name, array in arrays.items() if array.ndim == 2}
    series = series_of(arrays, arrays, axes=axes)
    panel = Weights(matrices=("mlp.w_*", "attn.w_*"), order="stored")
    matrices = content.resolve_weights(builder_of(series, panel), panel)
    assert matrices.kinds == [
        "attn.w_q",
        "attn.w_o",
        "mlp.w_gate",
        "mlp.w_up",
        "mlp.w_down",
        "mlp.w_extra",
    ]
    assert [sorted(block) for block in matrices.blocks] == [sorted(kinds), sorted(kinds[1:])], (
        "block 9 stands above block 10"
    )
    assert matrices.blocks[0]["mlp.w_up"] == "blocks.9.mlp.w_up"
    assert matrices.columns == 6
    assert matrices.axes == ("output ↓ input →", "out ↓ in →")
    with pytest.raises(
        LayoutError,
        match=r"named attn\.k or moe\.\*, .* they hold: attn\.w_o, attn\.w_q, mlp\.w_bias",
    ):
        content.resolve_weights(builder_of(series, panel), Weights(matrices=("attn.k", "moe.*")))


@pytest.mark.parametrize(
    ("show", "reduce", "title"),
    [
        ("change", "rms", "Weight change since step 0"),
        ("change", "mean", "Signed weight change since step 0"),
        ("step", "mean", "Signed weight change since the previous capture"),
        ("value", "mean", "Weights"),
    ],
)
def test_the_title_of_weights_says_what_is_shown(series_of, show, reduce, title):
    arrays = {"blocks.0.mlp.w_up": np.ones((4, 6), np.float32)}
    panel = Weights(show=show, reduce=reduce)
    assert (
        content.resolve_weights(builder_of(series_of(arrays, arrays), panel), panel).title == title
    )


def test_rows_and_columns_stand_as_the_panel_says(series_of):
    rng = np.random.default_rng(8)
    name = "blocks.0.mlp.w_up"
    first, last = (rng.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
    change = np.square(last - first)
    left, _, right = np.linalg.svd(last - first)
    builder = builder_of(series_of({name: first}, {name: last}), Weights())
    ordered = {}
    for order in ("stored", "norm", "direction"):
        source = content.weight_source(
            builder, Weights(order=order, show="value"), name, (5, 7), (first, last)
        )
        ordered[order] = source.values(Moment({name: last}, {}, {}))
    assert np.array_equal(ordered["stored"], np.abs(last)), (
        "the root mean square of one entry is its size"
    )
    by_norm = np.abs(last)[np.argsort(-change.sum(1))][:, np.argsort(-change.sum(0))]
    assert np.array_equal(ordered["norm"], by_norm)
    by_direction = np.abs(last)[np.argsort(left[:, 0])][:, np.argsort(right[0])]
    flips = (by_direction, by_direction[::-1, ::-1])  # a direction has no sign
    assert any(np.array_equal(ordered["direction"], flip) for flip in flips)


def test_a_weight_scale_reaches_to_the_largest_change_and_is_signed_where_entries_are(series_of):
    rng = np.random.default_rng(5)
    runs = [{"blocks.0.mlp.w_up": rng.normal(size=(12, 12)).astype(np.float16)} for _ in range(3)]
    change, step = (
        np.abs(
            runs[2]["blocks.0.mlp.w_up"].astype(np.float32)
            - runs[then]["blocks.0.mlp.w_up"].astype(np.float32)
        )
        for then in (0, 1)
    )
    earlier = np.abs(
        runs[1]["blocks.0.mlp.w_up"].astype(np.float32)
        - runs[0]["blocks.0.mlp.w_up"].astype(np.float32)
    )
    for show, reduce, norm, low, others in (
        ("change", "rms", "linear", 0.0, change),
        ("change", "mean", "linear", -1.0, change),
        ("step", "rms", "log", 10**-1.5, step),
    ):
        (scale,) = make_plan(
            Layout(name="mine", panels=(Weights(show=show, reduce=reduce),)), series_of(*runs)
        ).scales.values()
        largest = max(np.quantile(others, 0.995), np.quantile(earlier, 0.995))
        assert scale.maximum == pytest.approx(largest, rel=1e-3)
        assert (scale.norm, scale.minimum) == (norm, pytest.approx(low * largest, rel=1e-3))
        assert scale.clipped == (low == -1.0 or norm == "log", True), (
            "half a percent of the cells lies beyond"
        )


def test_attention_has_a_scale_from_0_to_1_and_its_changes_two_and_a_half_decades_below_the_largest(
    series_of,
):
    runs = [attention_of(np.random.default_rng(seed), heads=3) for seed in range(3)]
    names, seen = list(runs[0]), np.tril(np.ones((LENGTH, LENGTH), bool))
    change = [
        np.quantile(np.abs(run[names[0]] - runs[0][names[0]])[:, seen], 0.9999) for run in runs
    ]
    (scale,) = make_plan(
        Layout(name="mine", panels=(Attention(show="change"),)), series_of(*runs)
    ).scales.values()
    assert (scale.norm, scale.title) == ("log", "attention change since step 0")
    assert (scale.minimum, scale.maximum) == (
        pytest.approx(max(change) * 10**-2.5, rel=1e-3),
        pytest.approx(max(change), rel=1e-3),
    )
    assert scale.clipped[0], "no change at all lies below every logarithm"
    (scale,) = make_plan(
        Layout(name="mine", panels=(Attention(),)), series_of(*runs)
    ).scales.values()
    assert (scale.minimum, scale.maximum, scale.norm, scale.gamma, scale.clipped) == (
        0.0,
        1.0,
        "power",
        0.5,
        (False, False),
    )


def test_a_pattern_of_scores_leaves_out_what_not_every_capture_has(series_of):
    whole, one = np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32)
    names = ("b", "a", "late", "wide")
    first = {f"scores.head.{name}": whole for name in names if name != "late"}
    last = {f"scores.head.{name}": one if name == "wide" else whole for name in names}
    series = series_of(first, last)
    builder = builder_of(series, Scores())
    assert resolve_scores(builder, Scores(names=("head.*", "head.a"))) == [
        "scores.head.a",
        "scores.head.b",
    ]
    assert resolve_scores(builder, Scores(names=("head.b", "head.*"))) == [
        "scores.head.b",
        "scores.head.a",
    ]
    assert resolve_scores(builder, Scores(names=("head.late",))) == ["scores.head.late"], (
        "asked for by name: refused when it is drawn"
    )
    with pytest.raises(LayoutError, match=r"head\.no, .* they hold: head\.a, head\.b"):
        resolve_scores(builder, Scores(names=("head.no",)))
    bare = {"blocks.0.mlp.w_up": whole}
    with pytest.raises(
        LayoutError,
        match="they hold: no scores at all, which the layouts heads, ffn and changes do without",
    ):
        resolve_scores(builder_of(series_of(bare, bare), Scores()), Scores(names=("head.*",)))


def test_a_role_is_shown_by_the_score_on_the_rows_that_it_speaks_about(series_of):
    """Its card says which rows these are; the mean over all rows stands for the role only in
    captures that hold nothing else."""
    values = np.full((2, 2), 0.5, np.float32)
    scores = {f"scores.head.{name}": values for name in ("sink", "sink_repeated", "sink_text")}
    builder = builder_of(series_of(scores, scores), Scores())
    builder.run_roles = [Roles(("sink", "sink_text"))]
    names = resolve_scores(builder, Scores(names=("role.sink*", "head.sink")))
    assert names == ["scores.head.sink_repeated", "scores.head.sink_text", "scores.head.sink"]
    cards = {card.title: card.role for card in score_cards(builder, names)}
    expected = {"sink (repeats)": "sink", "sink (text)": "sink_text", "sink (all rows)": ""}
    assert cards == expected

    old = {"scores.head.sink": values}
    builder = builder_of(series_of(old, old), Scores())
    builder.run_roles = [Roles(("sink",))]
    names = resolve_scores(builder, Scores(names=("role.*",)))
    assert [(card.title, card.role) for card in score_cards(builder, names)] == [("sink", "sink")]


def test_cards_go_to_the_roles_that_heads_hold_and_then_to_the_usual_ones(series_of):
    values = np.full((2, 2), 0.5, np.float32)
    names = ("previous_token", "induction", "duplicate_token", "current_token", "sink")
    scores = {f"scores.head.{name}": values for name in names}
    builder = builder_of(series_of(scores, scores), Scores())

    def cards(*held):
        at_the_end = {(0, number): role for number, role in enumerate(held)}
        builder.run_roles = [Roles(names, held=[{}, at_the_end])]
        found = resolve_scores(builder, Scores(names=("role.held",)))
        return [name.removeprefix("scores.head.") for name in found]

    assert cards() == ["previous_token", "induction", "sink"]
    assert cards("current_token") == ["previous_token", "induction", "current_token"]
    assert cards("current_token", "duplicate_token", "sink") == [
        "duplicate_token",
        "current_token",
        "sink",
    ]


@pytest.mark.parametrize("show", ["change", "value"])
def test_a_scale_whose_ends_the_user_gave_says_what_lies_beyond_them(series_of, show):
    small, large = np.zeros((4, 4), np.float32), np.full((4, 4), 3.0, np.float32)
    series = series_of({"blocks.0.mlp.w_up": small}, {"blocks.0.mlp.w_up": large})
    layout = Layout(name="mine", panels=(Weights(show=show),))
    clipped = []
    for maximum in (2.0, 4.0):
        ends = {"weights": {"minimum": 0.0, "maximum": maximum}}
        (scale,) = make_plan(layout, series, scales=ends).scales.values()
        clipped.append(scale.clipped)
    assert clipped == [(False, True), (False, False)]


def test_a_block_without_a_number_is_refused(series_of):
    arrays = {"blocks.first.attn.pattern": causal(np.random.default_rng(6), 2)}
    with pytest.raises(LayoutError, match=r"blocks\.<i>\.<what>'; got 'blocks\.first"):
        content.resolve_attention(builder_of(series_of(arrays), Attention()), Attention())


def test_matrices_have_names_that_are_read():
    assert [
        content.matrix_title(kind)
        for kind in ("mlp.w_gate", "attn.w_q", "mlp.experts.1.w_up", "w_in")
    ] == [
        "FFN gate",
        "attention q",
        "mlp.experts.1 up",
        "in",
    ]

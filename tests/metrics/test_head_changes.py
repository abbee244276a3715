"""Heads ranked by how much their attention changed between two captures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracker_viz.metrics import head_changes, weight_changes
from tracker_viz.types import Capture

LENGTH, WIDTH = 8, 4
LOOKS_BACK = np.eye(LENGTH, k=-1, dtype=np.float16)
LOOKS_BACK[0, 0] = 1
LOOKS_AT_ITSELF = np.eye(LENGTH, dtype=np.float16)


def capture(step, heads, *, query=None, **options):
    """One block whose heads attend as given, one row of the probe."""
    arrays = {"blocks.0.attn.pattern": np.stack(heads)[None].astype(np.float16)}
    if query is not None:
        arrays["blocks.0.attn.w_q"] = query.astype(np.float16)
    axes = {"blocks.0.attn.pattern": ("probe", "head", "query", "key")}
    return Capture(step, arrays | options.pop("scores", {}), axes=axes, **options)


def test_a_head_that_looks_elsewhere_comes_first_and_one_that_stays_last():
    first = capture(0, [LOOKS_BACK, LOOKS_BACK, LOOKS_BACK])
    mixed = (LOOKS_BACK + LOOKS_AT_ITSELF) / 2
    last = capture(9, [LOOKS_BACK, LOOKS_AT_ITSELF, mixed])
    changes = head_changes(first, last)
    assert [change.head for change in changes] == [(0, 1), (0, 2), (0, 0)]
    assert [change.attention for change in changes] == pytest.approx([1, 0.311, 0], abs=1e-3)


def test_the_weights_of_a_heads_queries_are_its_own_rows():
    query = np.arange(1, 17, dtype=np.float16).reshape(4, WIDTH)
    changed = query.copy()
    changed[2:] *= 1.5
    model = {"n_heads": 2}
    heads = [LOOKS_BACK, LOOKS_BACK]
    changes = head_changes(
        capture(0, heads, query=query, model=model), capture(9, heads, query=changed, model=model)
    )
    assert [change.query for change in changes] == pytest.approx([0, 0.5])


def test_the_score_that_changed_most_is_named_and_a_distance_in_tokens_is_not():
    def scores(induction, distance):
        return {
            "scores.head.induction": np.array([[induction]], np.float32),
            "scores.head.sink": np.array([[0.5]], np.float32),
            "scores.head.distance": np.array([[distance]], np.float32),
        }

    (change,) = head_changes(
        capture(0, [LOOKS_BACK], scores=scores(0.9, 1)),
        capture(9, [LOOKS_BACK], scores=scores(0.1, 30)),
    )
    assert (change.score, change.before, change.after) == pytest.approx(("induction", 0.9, 0.1))
    assert str(change) == "L0H0  attention 0.00 bits  induction 0.90 -> 0.10"


def test_heads_keep_their_numbers_where_not_all_are_kept_and_broken_ones_come_last():
    labels = {"blocks.0.head": ("3", "11")}
    broken = np.full_like(LOOKS_BACK, np.nan)
    first = capture(0, [LOOKS_BACK, LOOKS_BACK], labels=labels)
    last = capture(9, [broken, LOOKS_AT_ITSELF], labels=labels)
    assert [change.head for change in head_changes(first, last)] == [(0, 11), (0, 3)]
    other = dataclasses.replace(last, labels={"blocks.0.head": ("4", "11")})
    assert [change.head for change in head_changes(first, other)] == [(0, 11)]


def test_captures_of_different_probes_are_refused():
    shorter = capture(9, [LOOKS_BACK[:4, :4]])
    with pytest.raises(ValueError, match="different models or probes"):
        head_changes(capture(0, [LOOKS_BACK]), shorter)


def test_a_mixing_map_changes_by_its_shares_and_signs_and_not_by_its_scale():
    maps = np.tril(np.random.default_rng(0).normal(size=(3, LENGTH, LENGTH))).astype(np.float32)
    name = "blocks.2.mixer.mixing"
    first = Capture(0, {name: maps[None]}, axes={name: ("probe", "head", "query", "key")})
    scaled, turned, moved = 7 * maps[0], -maps[1], np.tril(np.roll(maps[2], 1, axis=-1))
    now = np.stack([scaled, turned, moved])[None]
    last = Capture(1, {name: now}, axes={name: ("probe", "head", "query", "key")})
    bits = {change.head: change.attention for change in head_changes(first, last)}
    assert {change.kind for change in head_changes(first, last)} == {"mixing"}
    assert bits[2, 0] == pytest.approx(0, abs=1e-5)
    assert bits[2, 1] == pytest.approx(1)
    assert 0.1 < bits[2, 2] < 1


def test_weights_are_ranked_by_how_far_they_moved_and_broken_ones_come_last():
    generator = np.random.default_rng(0)
    first = {f"blocks.{block}.mlp.w_up": generator.normal(size=(6, 4)) for block in range(3)}
    last = dict(first)
    last["blocks.1.mlp.w_up"] = 1.5 * first["blocks.1.mlp.w_up"]
    last["blocks.0.mlp.w_up"] = np.full((6, 4), np.nan)
    last["blocks.0.mlp.w_up.norms"] = np.zeros(4)
    before, after = (
        Capture(step, arrays, axes={name: ("out", "in")[: a.ndim] for name, a in arrays.items()})
        for step, arrays in enumerate((first, last))
    )
    changes = weight_changes(before, after)
    assert [change.block for change in changes] == [1, 2, 0]
    assert str(changes[0]) == "L1 mlp.w_up  50.0%"


def test_weights_and_heads_that_changed_alike_come_in_the_order_of_blocks():
    blocks = range(12)
    patterns = {f"blocks.{block}.attn.pattern": np.full((1, 1, 4, 4), np.nan) for block in blocks}
    weights = {f"blocks.{block}.mlp.w_{kind}": np.ones((2, 2)) for block in blocks for kind in "ab"}
    for change in (0.0, np.nan):
        last = {name: weight + change for name, weight in weights.items()}
        changes = weight_changes(Capture(0, weights | patterns), Capture(1, last | patterns))
        places = [(each.block, each.name) for each in changes]
        assert places == [(block, f"mlp.w_{kind}") for block in blocks for kind in "ab"]

    heads = head_changes(Capture(0, patterns), Capture(1, patterns))
    assert [each.head for each in heads] == [(block, 0) for block in blocks]

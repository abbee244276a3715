"""Composition of heads, held to the formula in matrices of the residual stream's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tracker_viz.metrics import score
from tracker_viz.metrics.circuits.composition import (
    KINDS,
    composition,
    compositions,
    random_composition,
    split_heads,
    thinned,
)
from tracker_viz.types import Capture

D_MODEL, CHANNELS = 24, 4


def matrices(n_heads, n_kv_heads, seed):
    """w_q, w_k, w_v, w_o of one block, as the capture holds them."""
    rng = np.random.default_rng(seed)
    rows = (n_heads, n_kv_heads, n_kv_heads)
    made = [rng.normal(size=(n * CHANNELS, D_MODEL)) for n in rows]
    return [*made, rng.normal(size=(D_MODEL, n_heads * CHANNELS))]


def block(n_heads=4, n_kv_heads=4, seed=0):
    return split_heads(*matrices(n_heads, n_kv_heads, seed), n_heads=n_heads, n_kv_heads=n_kv_heads)


def slowly(later, earlier, kind, *, n_heads, n_kv_heads):
    """The formula of Elhage et al. 2021 in [d_model, d_model], head by head."""
    values = np.zeros((n_heads, n_heads))
    for row in range(n_heads):
        for column in range(n_heads):
            w_q, w_k, w_v, w_o = of_head(later, row, n_heads // n_kv_heads)
            _, _, earlier_v, earlier_o = of_head(earlier, column, n_heads // n_kv_heads)
            written = earlier_o @ earlier_v
            reads = {"q": (w_q.T @ w_k).T, "k": w_q.T @ w_k, "v": w_o @ w_v}[kind]
            size = np.linalg.norm(reads) * np.linalg.norm(written)
            values[row, column] = np.linalg.norm(reads @ written) / size
    return values


def of_head(whole, head, shared):
    w_q, w_k, w_v, w_o = whole
    own = slice(head * CHANNELS, (head + 1) * CHANNELS)
    with_others = slice(head // shared * CHANNELS, (head // shared + 1) * CHANNELS)
    return w_q[own], w_k[with_others], w_v[with_others], w_o[:, own]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_it_equals_the_formula_in_whole_matrices(kind, n_kv_heads):
    later, earlier = matrices(4, n_kv_heads, 1), matrices(4, n_kv_heads, 2)
    counts = {"n_heads": 4, "n_kv_heads": n_kv_heads}
    found = composition(split_heads(*later, **counts), split_heads(*earlier, **counts), kind)
    np.testing.assert_allclose(found, slowly(later, earlier, kind, **counts), rtol=1e-10)


def test_matrices_on_a_device_give_the_same():
    later, earlier = block(seed=1), block(seed=2)
    as_torch = []
    for seed in (1, 2):
        whole = [torch.from_numpy(each) for each in matrices(4, 4, seed)]
        as_torch.append(split_heads(*whole, n_heads=4, n_kv_heads=4))
    for kind in KINDS:
        found = composition(*as_torch, kind).numpy()
        np.testing.assert_allclose(found, composition(later, earlier, kind), rtol=1e-10)


def test_unrelated_matrices_compose_as_much_as_is_said_of_random_ones():
    values = [composition(block(seed=2 * n), block(seed=2 * n + 1), "k") for n in range(40)]
    root_mean_square = np.sqrt(np.mean(np.square(values)))
    assert root_mean_square == pytest.approx(random_composition(D_MODEL), rel=0.02)


def test_a_key_that_reads_what_an_earlier_head_writes_stands_out():
    later, earlier = matrices(4, 4, 1), matrices(4, 4, 2)
    later[1][2 * CHANNELS : 3 * CHANNELS] = earlier[3][:, CHANNELS : 2 * CHANNELS].T
    counts = {"n_heads": 4, "n_kv_heads": 4}
    found = composition(split_heads(*later, **counts), split_heads(*earlier, **counts), "k")
    assert np.unravel_index(found.argmax(), found.shape) == (2, 1)
    assert found[2, 1] > 2 * random_composition(D_MODEL)


def test_only_earlier_blocks_are_read():
    found = compositions({0: block(seed=0), 2: block(seed=1)}, n_blocks=3)
    for values in found.values():
        assert values.shape == (3, 4, 3, 4)
        assert np.isfinite(values[2, :, 0]).all()
        assert np.isfinite(values).sum() == 16


def test_a_dead_head_is_nan_and_leaves_the_others():
    later, earlier = matrices(4, 4, 1), matrices(4, 4, 2)
    earlier[2][:CHANNELS] = 0
    counts = {"n_heads": 4, "n_kv_heads": 4}
    blocks = {0: split_heads(*earlier, **counts), 1: split_heads(*later, **counts)}
    found = compositions(blocks, n_blocks=2)["scores.composition.v"][1, :, 0]
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found[:, 1:]).all()


def test_blocks_of_a_large_model_are_thinned_evenly():
    assert thinned(range(4), 128) == [0, 1, 2, 3]
    kept = thinned(range(32), 4096)
    assert kept == [0, 31]
    assert thinned(range(9), 1000, most_operations=9 * 6e9) == [0, 3, 5, 8]


def captured(**model):
    arrays = {}
    for number in range(2):
        for name, matrix in zip("qkvo", matrices(4, 2, number), strict=True):
            arrays[f"blocks.{number}.attn.w_{name}"] = matrix.astype(np.float32)
    described = {"n_blocks": 2, "n_heads": 4, "n_kv_heads": 2, **model}
    return Capture(0, arrays, model=described)


def test_a_capture_with_whole_matrices_is_scored():
    scored = score(captured())
    found = scored.arrays["scores.composition.k"]
    expected = slowly(matrices(4, 2, 1), matrices(4, 2, 0), "k", n_heads=4, n_kv_heads=2)
    np.testing.assert_allclose(found[1, :, 0], expected, atol=1e-3)
    assert scored.axes["scores.composition.k"] == (
        "block",
        "head",
        "earlier_block",
        "earlier_head",
    )


@pytest.mark.parametrize("model", [{"cut": {"weight_side": 8}}, {"pooling": {"*": "rms"}}])
def test_matrices_that_were_made_smaller_are_not_scored(model):
    assert not any("composition" in name for name in score(captured(**model)).arrays)


def test_pairs_of_more_heads_than_fit_a_capture_are_left_out():
    many = captured(n_blocks=130)
    assert not any("composition" in name for name in score(many).arrays)

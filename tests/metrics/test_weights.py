"""Scores of weight matrices against numpy's own decompositions and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.metrics import weights

NOISE = np.random.default_rng(0).normal(size=(96, 160)).astype(np.float32)


def low_rank(rank, shape=(80, 60)):
    rng = np.random.default_rng(rank)
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], rank)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], rank)))
    return (left @ right.T).astype(np.float32)


@pytest.mark.parametrize("matrix", [NOISE, NOISE.T, low_rank(7)], ids=["wide", "tall", "low rank"])
def test_singular_values_are_those_of_the_full_decomposition(matrix):
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(weights.singular_values(matrix), expected, atol=1e-6 * expected[0])


def test_ranks_count_the_directions_in_use():
    for rank in (1, 7, 60):
        singular = weights.singular_values(low_rank(rank))
        assert weights.stable_rank(singular) == pytest.approx(rank / 60, rel=1e-3)
        assert weights.effective_rank(singular) == pytest.approx(rank / 60, rel=1e-3)
        assert weights.spectral_norm(singular) == pytest.approx(1, rel=1e-4)


def test_scale_changes_norms_and_nothing_else():
    scores, _ = weights.weight_scores({(0, "mlp.w_in"): NOISE}, n_blocks=1)
    tripled, _ = weights.weight_scores({(0, "mlp.w_in"): 3 * NOISE}, n_blocks=1)
    assert tripled["spectral_norm"] == pytest.approx(3 * scores["spectral_norm"])
    for name in set(scores) - {"spectral_norm"}:
        assert tripled[name] == pytest.approx(scores[name], rel=1e-4), name


def test_power_law_exponent_is_recovered():
    rng = np.random.default_rng(1)
    for alpha in (2.0, 3.0):
        eigenvalues = (1 - rng.random(1200)) ** (-1 / (alpha - 1))  # p(x) ~ x^-alpha for x >= 1
        assert weights.power_law_exponent(np.sqrt(np.sort(eigenvalues)[::-1])) == pytest.approx(alpha, rel=0.1)


def test_power_law_tail_is_found_above_a_bulk():
    rng = np.random.default_rng(2)
    tail = 5 * (1 - rng.random(700)) ** (-1 / 1.5)  # alpha = 2.5 above 5
    eigenvalues = np.concatenate([rng.uniform(0.1, 5, 700), tail])
    assert weights.power_law_exponent(np.sqrt(np.sort(eigenvalues)[::-1])) == pytest.approx(2.5, rel=0.1)


def test_power_law_is_not_fitted_to_a_small_matrix():
    assert np.isnan(weights.power_law_exponent(weights.singular_values(NOISE[:49])))
    assert np.isfinite(weights.power_law_exponent(weights.singular_values(NOISE[:50])))
    assert np.isnan(weights.power_law_exponent(weights.singular_values(low_rank(30)))), "zero eigenvalues are no tail"


def test_gini_and_kurtosis_have_their_known_values():
    big = np.random.default_rng(3).normal(size=(256, 256)).astype(np.float32)
    assert weights.gini(big) == pytest.approx(np.sqrt(2) - 1, abs=0.01)  # of a half-normal distribution
    assert weights.kurtosis(big) == pytest.approx(0, abs=0.05)
    assert weights.gini(np.ones((9, 9), np.float32)) == pytest.approx(0, abs=1e-6)
    one = np.zeros((80, 80), np.float32)
    one[3, 4] = -2
    assert weights.gini(one) == pytest.approx(1, abs=1e-3)
    laplace = np.random.default_rng(4).laplace(size=(256, 256)).astype(np.float32)
    assert weights.kurtosis(laplace) == pytest.approx(3, abs=0.3)


def test_gini_of_a_large_matrix_meets_all_its_columns():
    matrix = np.zeros((512, 1024), np.float32)
    matrix[:, 1::2] = np.random.default_rng(5).normal(size=(512, 512))
    whole = np.sort(np.abs(matrix).ravel()).astype(np.float64)
    rank = np.arange(1, whole.size + 1)
    exact = 1 - 2 * np.sum(whole * (whole.size - rank + 0.5)) / (whole.size * whole.sum())
    assert weights.gini(matrix) == pytest.approx(exact, abs=0.01)


def test_distance_is_relative_to_the_reference():
    assert weights.relative_distance(NOISE, NOISE) == 0
    assert weights.relative_distance(3 * NOISE, NOISE.astype(np.float16)) == pytest.approx(2, rel=1e-3)
    assert np.isnan(weights.relative_distance(NOISE, np.zeros_like(NOISE)))


def test_projections_stand_in_the_order_of_the_computation():
    names = ["mlp.w_down", "attn.w_o", "mlp.w_gate", "attn.w_q", "mlp.experts.1.w_up", "attn.w_v"]
    expected = ("attn.w_q", "attn.w_v", "attn.w_o", "mlp.w_gate", "mlp.w_down", "mlp.experts.1.w_up")
    assert weights.projection_order(names) == expected


def test_missing_damaged_and_reshaped_matrices_are_nan():
    broken = NOISE.copy()
    broken[0, 0] = np.inf
    matrices = {(0, "attn.w_q"): NOISE, (1, "attn.w_q"): broken, (1, "mlp.w_in"): NOISE}
    scores, projections = weights.weight_scores(matrices, n_blocks=3, first={(0, "attn.w_q"): NOISE, (1, "mlp.w_in"): NOISE.T})
    assert projections == ("attn.w_q", "mlp.w_in")
    assert "update" not in scores
    assert np.isfinite(scores["stable_rank"]).tolist() == [[True, False], [False, True], [False, False]]
    assert np.isfinite(scores["distance"]).tolist() == [[True, False], [False, False], [False, False]]


def test_zero_matrix_has_a_norm_but_no_rank():
    scores, _ = weights.weight_scores({(0, "attn.w_o"): np.zeros((60, 60), np.float32)}, n_blocks=1)
    assert scores["spectral_norm"][0, 0] == 0
    for name in ("stable_rank", "effective_rank", "power_law_exponent", "gini", "kurtosis"):
        assert np.isnan(scores[name][0, 0]), name


def test_a_large_matrix_is_thinned_alike_on_both_sides():
    thinned = weights.evenly_thinned(np.zeros((512, 2048), np.float32))
    assert thinned.shape == (256, 1024)
    assert weights.evenly_thinned(NOISE) is NOISE

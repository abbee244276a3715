"""Scores of weight matrices against numpy's own decompositions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest

from tracker_viz.metrics.weights import weight_measures
from tracker_viz.metrics.weights.weight_scores import (
    MAX_SPECTRUM_SIDE,
    Weight,
    projection_order,
    singular_values,
    weight_scores,
)

NOISE = np.random.default_rng(0).normal(size=(96, 160)).astype(np.float32)


def scores_of(matrices, **options):
    return weight_scores({place: Weight(matrix) for place, matrix in matrices.items()}, **options)


def low_rank(rank, shape=(80, 60)):
    rng = np.random.default_rng(rank)
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], rank)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], rank)))
    return (left @ right.T).astype(np.float32)


@pytest.mark.parametrize("matrix", [NOISE, NOISE.T, low_rank(7)], ids=["wide", "tall", "low rank"])
def test_singular_values_are_those_of_the_full_decomposition(matrix):
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_values(matrix), expected, atol=1e-6 * expected[0])


def test_ranks_count_the_directions_in_use():
    for rank in (1, 7, 60):
        singular = singular_values(low_rank(rank))
        assert weight_measures.effective_rank(singular) == pytest.approx(rank / 60, rel=1e-3)
        scores, _ = scores_of({(0, "mlp.w_in"): low_rank(rank)}, n_blocks=1)
        assert scores["stable_rank"][0, 0] == pytest.approx(rank / 60, rel=1e-3)
        assert scores["spectral_norm"][0, 0] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "stable", "effective"), [((300, 300), 0.25, 0.80), ((200, 800), 4 / 9, 0.97)]
)
def test_random_matrices_have_the_ranks_that_the_docstrings_say(shape, stable, effective):
    scores, _ = scores_of(
        {(0, "mlp.w_in"): np.random.default_rng(0).normal(size=shape).astype(np.float32)},
        n_blocks=1,
    )
    assert scores["stable_rank"][0, 0] == pytest.approx(stable, rel=0.05)
    assert scores["effective_rank"][0, 0] == pytest.approx(effective, abs=0.01)


def test_a_sample_of_a_matrix_has_not_its_ranks_and_is_not_asked_for_them():
    """One direction that stands out of the noise of the whole matrix is lost in that of a tenth of
    its rows and columns."""
    rng = np.random.default_rng(7)
    left, right = rng.normal(size=(1000, 1)), rng.normal(size=(1, 1000))
    strength = 3 * (2 * np.sqrt(1000))
    whole = (
        rng.normal(size=(1000, 1000))
        + strength * left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    ).astype(np.float32)
    norms = np.array([np.linalg.norm(whole), np.linalg.norm(whole, 2), 1000, 1000], np.float32)
    sample = np.ascontiguousarray(whole[::10, ::10])
    scores, _ = weight_scores({(0, "mlp.w_in"): Weight(sample, norms)}, n_blocks=1)
    exact = norms[0] ** 2 / norms[1] ** 2 / 1000
    of_sample = np.linalg.norm(sample) ** 2 / np.linalg.norm(sample, 2) ** 2 / 100
    assert of_sample > 4 * exact
    assert scores["stable_rank"][0, 0] == pytest.approx(exact, rel=1e-5)
    assert scores["spectral_norm"][0, 0] == norms[1]
    assert {"effective_rank", "power_law_exponent"}.isdisjoint(scores)
    assert scores["kurtosis"][0, 0] == pytest.approx(weight_measures.kurtosis(whole), abs=0.15), (
        "entries of a sample are like those of the whole"
    )
    assert scores["gini"][0, 0] == pytest.approx(weight_measures.gini(whole), abs=0.02)


def test_a_matrix_that_is_stored_whole_has_its_spectrum_beside_its_norms():
    norms = np.array([np.linalg.norm(NOISE), np.linalg.norm(NOISE, 2), *NOISE.shape], np.float32)
    beside, _ = weight_scores({(0, "mlp.w_in"): Weight(NOISE, norms)}, n_blocks=1)
    alone, _ = weight_scores({(0, "mlp.w_in"): Weight(NOISE)}, n_blocks=1)
    assert beside.keys() == alone.keys() >= {"effective_rank", "stable_rank"}
    for name in alone:
        assert beside[name] == pytest.approx(alone[name]), name


def test_means_over_rectangles_are_no_weights():
    pooled, norms = NOISE[:20, :30] ** 2, np.array([4, 2, 96, 160], np.float32)
    scores, _ = weight_scores(
        {(0, "mlp.w_in"): Weight(pooled, norms, pooled=True)},
        n_blocks=1,
        first={(0, "mlp.w_in"): pooled},
    )
    assert scores["stable_rank"][0, 0] == pytest.approx(4 / 96)
    for name in ("kurtosis", "gini", "distance"):
        assert np.isnan(scores[name][0, 0]), name


def test_more_singular_values_than_every_capture_can_pay_for_are_left_to_the_norms():
    side = MAX_SPECTRUM_SIDE + 1
    large = np.random.default_rng(8).normal(size=(side, side)).astype(np.float32)
    weight = Weight(large, np.array([np.linalg.norm(large), 45.0, side, side], np.float32))
    small = Weight(large[:300, :300])
    scores, projections = weight_scores(
        {(0, "mlp.w_in"): weight, (0, "mlp.w_out"): small}, n_blocks=1
    )
    assert projections == ("mlp.w_in", "mlp.w_out")
    assert scores["spectral_norm"][0, 0] == 45
    assert np.isfinite(scores["effective_rank"][0]).tolist() == [False, True]
    assert np.isfinite(scores["kurtosis"][0]).all(), "it is whole, only its spectrum is not taken"


def test_scale_changes_norms_and_nothing_else():
    scores, _ = scores_of({(0, "mlp.w_in"): NOISE}, n_blocks=1)
    tripled, _ = scores_of({(0, "mlp.w_in"): 3 * NOISE}, n_blocks=1)
    assert tripled["spectral_norm"] == pytest.approx(3 * scores["spectral_norm"])
    for name in set(scores) - {"spectral_norm"}:
        assert tripled[name] == pytest.approx(scores[name], rel=1e-4), name


def test_power_law_exponent_is_recovered():
    rng = np.random.default_rng(1)
    for alpha in (2.0, 3.0):
        eigenvalues = (1 - rng.random(1200)) ** (-1 / (alpha - 1))  # p(x) ~ x^-alpha for x >= 1
        assert weight_measures.power_law_exponent(
            np.sqrt(np.sort(eigenvalues)[::-1])
        ) == pytest.approx(alpha, rel=0.1)


@pytest.mark.parametrize("n", [*range(250, 262), 700])
def test_power_law_is_that_of_the_tail_with_the_least_kolmogorov_smirnov_distance(n):
    """Tail by tail, and scipy measures the distance."""
    eigenvalues = np.sort(np.random.default_rng(n).lognormal(0, 1.5, n))
    fits = []
    for start in np.unique(
        np.linspace(0, n - n // 5, weight_measures.MAX_TAIL_CANDIDATES).astype(int)
    ):
        tail = eigenvalues[start:]
        alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
        fits.append(
            (
                kstest(
                    tail, lambda x, least=tail[0], alpha=alpha: 1 - (x / least) ** (1 - alpha)
                ).statistic,
                alpha,
            )
        )
    assert weight_measures.power_law_exponent(np.sqrt(eigenvalues[::-1])) == pytest.approx(
        min(fits)[1], rel=1e-6
    )


def test_power_law_tail_is_found_above_a_bulk():
    rng = np.random.default_rng(2)
    tail = 5 * (1 - rng.random(700)) ** (-1 / 1.5)  # alpha = 2.5 above 5
    eigenvalues = np.concatenate([rng.uniform(0.1, 5, 700), tail])
    assert weight_measures.power_law_exponent(np.sqrt(np.sort(eigenvalues)[::-1])) == pytest.approx(
        2.5, rel=0.1
    )


def test_power_law_is_not_fitted_to_a_small_matrix():
    noise = np.random.default_rng(9).normal(size=(300, 300)).astype(np.float32)
    least = weight_measures.MIN_POWER_LAW_EIGENVALUES
    assert np.isnan(weight_measures.power_law_exponent(singular_values(noise[: least - 1])))
    assert np.isfinite(weight_measures.power_law_exponent(singular_values(noise[:least])))
    assert np.isnan(
        weight_measures.power_law_exponent(singular_values(low_rank(30, (300, 260))))
    ), "zero eigenvalues are no tail"
    demo, _ = scores_of(
        {(0, "mlp.w_gate"): noise[:128], (0, "attn.w_q"): noise[:128, :128]}, n_blocks=1
    )
    assert "power_law_exponent" not in demo, (
        "a score that no matrix of the model can have is left out"
    )
    mixed, _ = scores_of({(0, "mlp.w_gate"): noise, (0, "attn.w_q"): noise[:128, :128]}, n_blocks=1)
    assert np.isfinite(mixed["power_law_exponent"][0]).tolist() == [False, True], (
        "attn.w_q stands first, and is too small"
    )


@pytest.mark.parametrize("shape", [(250, 250), (400, 400), (250, 1000)])
def test_random_matrices_have_exponents_too(shape):
    """So an exponent alone is no sign of a well trained layer: the docstring says what noise
    gives."""
    noise = np.random.default_rng(10).normal(size=shape).astype(np.float32)
    assert 2.5 < weight_measures.power_law_exponent(singular_values(noise)) < 7


# -- neurons ---------------------------------------------------------------------------------------


def neurons(activations):
    """[token, neuron] -> what the recorder sums up of it."""
    magnitudes = np.abs(activations).astype(np.float32)
    return magnitudes.max(0), np.stack([magnitudes.mean(1), np.sqrt(np.square(magnitudes).mean(1))])


def test_of_units_that_act_alike_the_active_share_is_how_many_act():
    tokens = np.zeros((6, 100))
    tokens[
        np.arange(6)[:, None],
        np.random.default_rng(0).permuted(np.tile(np.arange(100), (6, 1)), axis=1)[:, :30],
    ] = [
        [2],
        [-2],
        [5],
        [5],
        [1],
        [1],
    ]
    assert weight_measures.active_share(*neurons(tokens)) == pytest.approx(0.3, rel=1e-5)
    assert weight_measures.active_share(*neurons(np.eye(100))) == pytest.approx(0.01, rel=1e-5), (
        "one neuron a token"
    )
    assert weight_measures.active_share(*neurons(np.ones((3, 100)))) == pytest.approx(1, rel=1e-5)
    silent_too = np.concatenate([tokens, np.zeros((10, 100))])
    assert weight_measures.active_share(*neurons(silent_too)) == pytest.approx(0.3, rel=1e-5), (
        "tokens on which nothing acts say nothing"
    )


def test_active_share_of_normal_activations_is_as_the_docstring_says():
    normal = np.random.default_rng(1).normal(size=(50, 4000))
    assert weight_measures.active_share(*neurons(normal)) == pytest.approx(2 / np.pi, abs=0.01)
    assert weight_measures.active_share(*neurons(np.maximum(normal, 0))) == pytest.approx(
        1 / np.pi, abs=0.01
    )
    assert weight_measures.active_share(*neurons(1e-4 * normal)) == pytest.approx(
        2 / np.pi, abs=0.01
    ), "it has no scale"


def gelu(x):
    return x * np.vectorize(math.erf)(x / np.sqrt(2)) / 2 + x / 2


@pytest.mark.parametrize(
    "activation",
    [lambda x: np.maximum(x, 0), gelu, lambda x: x / (1 + np.exp(-x))],
    ids=["ReLU", "GELU", "SiLU"],
)
def test_neurons_that_stay_far_below_zero_are_dead_whatever_the_activation(activation):
    before = np.random.default_rng(2).normal(size=(64, 50))
    before[:, :5] -= 20
    before[1:, 5] = -20  # wakes once
    before[0, 5] = 2
    assert weight_measures.dead_share(*neurons(activation(before))) == pytest.approx(0.1)


def test_a_neuron_is_dead_below_a_hundredth_of_the_layers_rms_however_many_tokens_there_are():
    layer = np.random.default_rng(6).normal(0, 3.0, size=(400, 200))
    layer[:, :40] = 0
    root_mean_square = np.sqrt(np.mean(layer**2))
    layer[:, :20], layer[:, 20:40] = 0.009 * root_mean_square, 0.011 * root_mean_square
    assert weight_measures.dead_share(*neurons(layer)) == pytest.approx(0.1)


def test_a_layer_at_zero_is_dead_and_one_that_is_not_finite_has_no_score():
    assert weight_measures.dead_share(*neurons(np.zeros((3, 8)))) == 1
    assert np.isnan(weight_measures.active_share(*neurons(np.zeros((3, 8)))))
    for measure in (weight_measures.dead_share, weight_measures.active_share):
        assert np.isnan(measure(*neurons(np.full((3, 8), np.nan))))
        assert np.isnan(measure(*neurons(np.array([[np.inf, 1], [1, 1]]))))
    assert np.isnan(
        weight_measures.dead_share(np.array([np.nan, 1], np.float32), np.ones((2, 3), np.float32))
    )


def test_gini_and_kurtosis_have_their_known_values():
    big = np.random.default_rng(3).normal(size=(256, 256)).astype(np.float32)
    assert weight_measures.gini(big) == pytest.approx(
        np.sqrt(2) - 1, abs=0.01
    )  # of a half-normal distribution
    assert weight_measures.kurtosis(big) == pytest.approx(0, abs=0.05)
    assert weight_measures.kurtosis(big + 5) == pytest.approx(
        weight_measures.kurtosis(big), abs=1e-3
    )
    assert weight_measures.gini(np.ones((9, 9), np.float32)) == pytest.approx(0, abs=1e-6)
    one = np.zeros((80, 80), np.float32)
    one[3, 4] = -2
    assert weight_measures.gini(one) == pytest.approx(1, abs=1e-3)
    laplace = np.random.default_rng(4).laplace(size=(256, 256)).astype(np.float32)
    assert weight_measures.kurtosis(laplace) == pytest.approx(3, abs=0.3)


def test_gini_of_a_large_matrix_meets_all_its_columns():
    matrix = np.zeros((512, 1024), np.float32)
    matrix[:, 1::2] = np.random.default_rng(5).normal(size=(512, 512))
    whole = np.sort(np.abs(matrix).ravel()).astype(np.float64)
    rank = np.arange(1, whole.size + 1)
    exact = 1 - 2 * np.sum(whole * (whole.size - rank + 0.5)) / (whole.size * whole.sum())
    assert weight_measures.gini(matrix) == pytest.approx(exact, abs=0.01)


def test_distance_is_relative_to_the_reference():
    assert weight_measures.relative_distance(NOISE, NOISE) == 0
    assert weight_measures.relative_distance(3 * NOISE, NOISE.astype(np.float16)) == pytest.approx(
        2, rel=1e-3
    )
    assert weight_measures.relative_distance(3e-6 * NOISE, 1e-6 * NOISE) == pytest.approx(
        2, rel=1e-3
    )
    assert np.isnan(weight_measures.relative_distance(NOISE, np.zeros_like(NOISE)))


def test_projections_stand_in_the_order_of_the_computation():
    names = ["mlp.w_down", "attn.w_o", "mlp.w_gate", "attn.w_q", "mlp.experts.1.w_up", "attn.w_v"]
    expected = (
        "attn.w_q",
        "attn.w_v",
        "attn.w_o",
        "mlp.w_gate",
        "mlp.w_down",
        "mlp.experts.1.w_up",
    )
    assert projection_order(names) == expected


def test_missing_damaged_and_reshaped_matrices_are_nan():
    broken = NOISE.copy()
    broken[0, 0] = np.inf
    matrices = {(0, "attn.w_q"): NOISE, (1, "attn.w_q"): broken, (1, "mlp.w_in"): NOISE}
    scores, projections = scores_of(
        matrices, n_blocks=3, first={(0, "attn.w_q"): NOISE, (1, "mlp.w_in"): NOISE.T}
    )
    assert projections == ("attn.w_q", "mlp.w_in")
    assert "update" not in scores
    assert np.isfinite(scores["stable_rank"]).tolist() == [
        [True, False],
        [False, True],
        [False, False],
    ]
    assert np.isfinite(scores["distance"]).tolist() == [
        [True, False],
        [False, False],
        [False, False],
    ]


def test_zero_matrix_has_a_norm_but_no_rank():
    scores, _ = scores_of({(0, "attn.w_o"): np.zeros((60, 60), np.float32)}, n_blocks=1)
    assert scores["spectral_norm"][0, 0] == 0
    for name in ("stable_rank", "effective_rank", "gini", "kurtosis"):
        assert np.isnan(scores[name][0, 0]), name

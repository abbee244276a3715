"""Norms of whole matrices and the neurons' activity on the probe are measured on the device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hf_decoders import build
from plain_decoders import VOCAB, D, FusedAttention, Model, Residual, T, by_kernel, two_layers
from torch import nn

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.norms import krylov, norms
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.metrics import Scorer

PROBE = make_probe(VOCAB, T, text_ids=range(T), score_rows=0)


def captured(model, probe=PROBE, **options):
    """Return captures of the untrained model, and once more after a step."""
    captures = []
    recorder = record(model, probe, Schedule.every(1), captures.append, **options)
    recorder.step(1)
    recorder.close()
    return captures


def norms_of(stored, **projection):
    projection = {"shape": tuple(stored.shape[-2:]), **projection}
    return norms(
        krylov({"w": stored}, Projection(0, "mlp.w_in", ("w",), **projection)).numpy(),
        projection["shape"],
    )


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# -- norms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(300, 300), (200, 800), (800, 200)])
def test_norms_of_noise_are_at_most_three_percent_too_small(shape):
    matrix = random(*shape)
    frobenius, spectral, *whole = norms_of(matrix)
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    assert frobenius == pytest.approx(float(matrix.norm()), rel=1e-5)
    assert 0.97 * exact < spectral < (1 + 1e-5) * exact
    assert tuple(whole) == shape


def with_one_strong_direction(shape, strength):
    left, right = random(shape[0], 1), random(1, shape[1])
    edge = shape[0] ** 0.5 + shape[1] ** 0.5  # where the largest singular value of noise lies
    return random(*shape) + strength * edge * left @ right / (left.norm() * right.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_direction_that_stands_out_is_measured_exactly(dtype):
    matrix = with_one_strong_direction((300, 900), 1.5).to(dtype)
    exact = float(torch.linalg.matrix_norm(matrix.float(), 2))
    assert norms_of(matrix)[1] == pytest.approx(exact, rel=1e-4 if dtype == torch.float32 else 5e-3)


def test_norms_are_of_the_projections_own_rows_however_they_are_stored():
    stored = with_one_strong_direction((240, 100), 2)
    exact = float(torch.linalg.matrix_norm(stored, 2))
    assert norms_of(stored.t().contiguous(), shape=(240, 100), transposed=True)[1] == pytest.approx(
        exact, rel=1e-4
    )
    third = stored[80:160]
    assert norms_of(stored, shape=(80, 100), rows=((80, 160),))[1] == pytest.approx(
        float(torch.linalg.matrix_norm(third, 2)), rel=5e-3
    )
    every_second = stored[1::2]
    got = norms_of(stored, shape=(120, 100), rows=((1, 240),), stride=2)
    assert got[:2] == pytest.approx(
        [float(every_second.norm()), float(torch.linalg.matrix_norm(every_second, 2))], rel=5e-3
    )
    experts = torch.stack([random(240, 100), stored, random(240, 100)])
    assert norms_of(experts, expert=1)[1] == pytest.approx(exact, rel=1e-4)


def test_what_has_no_norms_says_nan():
    ruined = random(40, 30)
    ruined[3, 3] = math.inf
    assert np.isnan(norms_of(ruined)[:2]).all()
    assert norms_of(torch.zeros(40, 30)).tolist() == [0, 0, 40, 30]
    assert np.isnan(norms_of(random(3, 40, 30))[:2]).all(), (
        "a mean over experts is no matrix of the model"
    )
    assert torch.isnan(
        krylov(
            {"w": random(40, 30).to(torch.float8_e4m3fn)},
            Projection(0, "mlp.w_in", ("w",), (40, 30)),
        )
    ).all()


def test_stable_rank_of_a_capture_that_holds_samples_is_that_of_the_whole_matrix():
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), two_layers()), 1)
    with torch.no_grad():
        model.blocks[0].mlp[0].weight.copy_(with_one_strong_direction((4 * D, D), 2))
    whole, cut = (Scorer()(captured(model, max_mb=max_mb)[0]) for max_mb in (10, 0.006))
    assert cut.arrays["blocks.0.mlp.w_in"].size < whole.arrays["blocks.0.mlp.w_in"].size / 4
    column = whole.labels["projection"].index("mlp.w_in")
    for score in ("spectral_norm", "stable_rank"):
        exact = whole.arrays[f"scores.weight.{score}"][0]
        assert cut.arrays[f"scores.weight.{score}"][0, column] == pytest.approx(
            exact[column], rel=1e-3
        )
        np.testing.assert_allclose(cut.arrays[f"scores.weight.{score}"][0], exact, rtol=0.1)
    assert "scores.weight.effective_rank" in whole.arrays
    assert "scores.weight.effective_rank" not in cut.arrays
    assert not any(name.endswith((".norms", ".peak", ".spread")) for name in cut.arrays)


def test_norms_are_taken_in_full_precision_under_the_users_autocast():
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), two_layers()), 1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = captured(model, max_mb=0.006)[-1]
    np.testing.assert_array_equal(
        inside.arrays["blocks.0.mlp.w_in.norms"],
        captured(model, max_mb=0.006)[-1].arrays["blocks.0.mlp.w_in.norms"],
    )


# -- neurons ---------------------------------------------------------------------------------------


def by_hand(entering):
    """Peaks [neuron] and spread [2, token] of what enters a down projection."""
    neurons = entering.detach().reshape(-1, entering.shape[-1]).double().abs().numpy()
    return neurons.max(0), np.stack([neurons.mean(1), np.sqrt(np.square(neurons).mean(1))])


def entering(model, layer):
    """Return the layer's input when the model sees the probe."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(PROBE.input_ids)
    handle.remove()
    return seen


def check(model, layers, name="w_down"):
    for capture in captured(model):
        for index, layer in layers.items():
            peaks, spread = by_hand(entering(model, layer)[0])
            np.testing.assert_allclose(
                capture.arrays[f"blocks.{index}.mlp.{name}.peak"], peaks, rtol=1e-4
            )
            np.testing.assert_allclose(
                capture.arrays[f"blocks.{index}.mlp.{name}.spread"], spread, rtol=1e-4
            )


def test_neurons_of_a_gated_layer_are_seen_behind_gate_and_activation():
    torch.manual_seed(0)
    model = Decoder(
        ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=48, context_length=T, vocab_size=VOCAB)
    )
    check(model, {index: block.mlp.down_proj for index, block in enumerate(model.blocks)})
    mlp, normed = model.blocks[1].mlp, entering(model, model.blocks[1].mlp)[0]
    peaks, _ = by_hand(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))
    np.testing.assert_allclose(
        captured(model)[0].arrays["blocks.1.mlp.w_down.peak"], peaks, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("model_type", "layer", "name"),
    [
        ("gpt2", "transformer.h.1.mlp.c_proj", "w_out"),
        ("opt", "model.decoder.layers.1.fc2", "w_out"),
        ("llama", "model.layers.1.mlp.down_proj", "w_down"),
    ],
)
def test_neurons_of_public_architectures_are_seen_where_they_enter_the_down_projection(
    model_type, layer, name
):
    model = build(model_type)
    check(model, {1: model.get_submodule(layer)}, name)


def test_neurons_that_never_fire_are_counted():
    torch.manual_seed(0)
    model = Model(
        lambda _: Residual(
            FusedAttention(by_kernel, noted=False),
            nn.Sequential(nn.Linear(D, 40), nn.ReLU(), nn.Linear(40, D)),
        ),
        2,
    )
    with torch.no_grad():
        model.blocks[1].mlp[0].bias[:10] = -100
    scored = Scorer()(captured(model)[0])
    column = scored.labels["projection"].index("mlp.w_out")
    firing = entering(model, model.blocks[0].mlp[2])[0].reshape(-1, 40).amax(0) > 0
    dead = scored.arrays["scores.weight.dead_share"]
    assert dead[0, column] == pytest.approx(1 - float(firing.float().mean()), abs=1e-6)
    assert dead[1, column] >= 10 / 40
    assert np.isnan(np.delete(dead, column, axis=1)).all(), "only a down projection reads neurons"


def test_neurons_are_followed_on_the_rows_that_are_drawn_alone():
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), two_layers()), 2)
    of_drawn = captured(model)
    with_hidden = captured(model, make_probe(VOCAB, T, text_ids=range(3 * T), score_rows=2))
    for one, other in zip(of_drawn, with_hidden, strict=True):
        assert len(other.probe["rows"]) == 6
        for name in ("peak", "spread"):
            np.testing.assert_allclose(
                other.arrays[f"blocks.1.mlp.w_out.{name}"],
                one.arrays[f"blocks.1.mlp.w_out.{name}"],
                rtol=1e-4,
            )


def test_blocks_that_share_a_layer_are_each_shown_their_own_neurons():
    torch.manual_seed(0)
    shared = two_layers()
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), shared), 2)
    calls = entering(model, shared[2])
    for capture in (*captured(model), *captured(model, only_blocks=[1])):
        np.testing.assert_allclose(
            capture.arrays["blocks.1.mlp.w_out.peak"], by_hand(calls[1])[0], rtol=1e-4
        )


@pytest.mark.parametrize(
    "compile_",
    [torch.compile, lambda model, **how: (model.compile(**how), model)[1]],
    ids=["wrapped", "in place"],
)
def test_neurons_of_a_compiled_model_are_seen_and_its_code_is_left_as_it_is(compile_):
    torch.manual_seed(0)
    model = Decoder(
        ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=48, context_length=T, vocab_size=VOCAB)
    )
    expected = captured(model)[0].arrays["blocks.1.mlp.w_down.peak"]
    graphs = []
    compiled = compile_(model, backend=lambda graph, _inputs: (graphs.append(1), graph.forward)[1])
    compiled(PROBE.input_ids)
    before = len(graphs)
    np.testing.assert_allclose(
        captured(compiled)[1].arrays["blocks.1.mlp.w_down.peak"], expected, rtol=1e-5
    )
    compiled(PROBE.input_ids)
    assert before == len(graphs) > 0


def test_experts_and_layers_without_a_module_have_no_neuron_scores_and_cost_no_capture():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w_in, self.w_out = nn.Parameter(random(D, 64) / 8), nn.Parameter(random(64, D) / 8)

        def forward(self, x):
            return F.gelu(x @ self.w_in) @ self.w_out

    bare = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), Bare()), 1)
    for model in (bare, build("mixtral")):
        scored = Scorer()(captured(model)[0])
        assert any(name.endswith(("w_out", "w_down")) for name in scored.labels["projection"])
        assert "scores.weight.dead_share" not in scored.arrays
        assert "scores.weight.kurtosis" in scored.arrays


def test_a_layer_that_is_given_only_some_of_the_tokens_is_not_summed_up():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = two_layers()

        def forward(self, x):
            return F.pad(self.inner(x[:, : T // 2]), (0, 0, 0, T - T // 2))

    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), Routed()), 1)
    assert not any(name.endswith(".peak") for name in captured(model)[1].arrays)

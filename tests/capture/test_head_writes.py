"""What heads write equals what TransformerLens attributes to them, and a slow direct computation.

What TransformerLens says is stored beside this file: importing it takes longer than all tests here.
``python tests/capture/test_head_writes.py`` asks it again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_decoders import D, FusedAttention, Model, Residual, T, by_kernel, two_layers
from torch import nn

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.capture.signals.attribution import frozen_norm, head_attributions
from tracker_viz.capture.signals.head_writes import MAX_POSITIONS, N_RAISED

THEIRS = Path(__file__).with_name("transformer_lens_attributions.npz")
VOCAB = 101
PROBE = make_probe(VOCAB, T, text_ids=torch.arange(3 * T) * 7 % VOCAB, period=4, score_rows=1)
N_HEADS = 4


class WithNorm(Model):
    """A decoder with a final norm between its blocks and its vocabulary."""

    def __init__(self, norm, make=Residual):
        torch.manual_seed(0)
        super().__init__(lambda _: make(FusedAttention(by_kernel), two_layers()), 2)
        self.tokens, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB)
        self.norm = norm(D)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 1.0, 0.3)

    def forward(self, ids):
        hidden = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class Scaled(Residual):
    """Adds half of what its heads give."""

    def forward(self, x):
        x = x + 0.5 * self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


def captured(model, probe=PROBE):
    captures = []
    recorder = record(model, probe, Schedule.every(1), captures.append, signals=["head_writes"])
    recorder.step(1)
    recorder.close()
    return captures[-1]


def slowly(model, ids):
    """Return what each head adds to every logit, float64 [block, head, row, position, token], head
    by head through the output projection and the frozen norm, each as the model has it."""
    streams, inputs = [], []
    hooks = [model.norm.register_forward_pre_hook(lambda _, given: streams.append(given[0]))]
    for block in model.blocks:
        hooks.append(
            block.attn.c_proj.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        )
    model(ids)
    for hook in hooks:
        hook.remove()
    (stream,) = streams
    is_layer_norm = isinstance(model.norm, nn.LayerNorm)
    centered = stream - stream.mean(-1, keepdim=True) if is_layer_norm else stream
    size = centered.square().mean(-1, keepdim=True) + (model.norm.eps or 0.0)
    found = torch.zeros(len(inputs), N_HEADS, *ids.shape, VOCAB)
    for block, entering in enumerate(inputs):
        for head in range(N_HEADS):
            alone = torch.zeros_like(entering)
            own = slice(head * D // N_HEADS, (head + 1) * D // N_HEADS)
            alone[..., own] = entering[..., own]
            added = F.linear(alone, model.blocks[block].attn.c_proj.weight)
            if is_layer_norm:
                added = added - added.mean(-1, keepdim=True)
            normed = added / size.sqrt() * model.norm.weight
            found[block, head] = F.linear(normed, model.head.weight)
    return found.detach().double()


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_heads_raise_the_right_token_as_in_a_slow_computation(norm):
    model = WithNorm(norm)
    capture = captured(model)
    drawn = PROBE.input_ids[:2]
    added = slowly(model, drawn)
    over_mean = added - added.mean(-1, keepdim=True)
    first = PROBE.rows[0].start + PROBE.rows[0].period
    for row, name, start in ((0, "right_repeated", first), (1, "right_text", 0)):
        right = drawn[row, start + 1 :]
        raised = over_mean[:, :, row, start:-1]
        wanted = raised.gather(-1, right[None, None, :, None].expand(*raised.shape[:3], 1))
        found = capture.arrays[f"scores.write.{name}"]
        np.testing.assert_allclose(found, wanted[..., 0].mean(-1), rtol=1e-4, atol=1e-5)

    read_at = slice(-1 - MAX_POSITIONS, -1)
    top = over_mean[:, :, 1, read_at].topk(N_RAISED)
    np.testing.assert_array_equal(capture.arrays["write.top"], top.indices)
    np.testing.assert_allclose(capture.arrays["write.top_logit"], top.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(capture.arrays["write.token"], drawn[1, read_at])
    np.testing.assert_array_equal(capture.arrays["write.right"], drawn[1, -MAX_POSITIONS:])

    there = torch.unique(drawn[0])
    most = there[added[:, :, 0, first:-1][..., there].argmax(-1)]
    copied = (most == drawn[0, first + 1 :]).double().mean(-1)
    np.testing.assert_allclose(capture.arrays["scores.write.copying"], copied, atol=1e-6)


def test_a_block_that_scales_what_heads_give_is_not_scored():
    capture = captured(WithNorm(nn.RMSNorm, Scaled))
    assert not any(name.startswith("scores.write") for name in capture.arrays)
    (why,) = capture.model["missing_signals"]
    assert "no block's output is the sum" in why


def test_a_norm_of_another_kind_is_not_frozen():
    class Softsign(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x):
            return F.softsign(x)

    capture = captured(WithNorm(Softsign))
    (why,) = capture.model["missing_signals"]
    assert "neither a LayerNorm nor an RMSNorm" in why


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_attributions_equal_those_of_transformer_lens(norm):
    kind = {nn.LayerNorm: "LN", nn.RMSNorm: "RMS"}[norm]
    with np.load(THEIRS) as stored:
        theirs = {name.partition(".")[2]: stored[name] for name in stored if kind in name}
    theirs = {name: torch.from_numpy(values) for name, values in theirs.items()}
    ours = norm(16, eps=1e-5)
    for name, parameter in ours.named_parameters():
        parameter.data[:] = theirs[{"weight": "gain"}.get(name, name)]
    with torch.no_grad():
        frozen = frozen_norm(ours, theirs["entering"], theirs["leaving"])
    assert frozen is not None
    assert frozen.is_centered == (kind == "LN")
    # It takes gains to be folded into the unembedding: ours is divided by them.
    unembedding = theirs["w_u"].T / theirs["gain"]
    right = theirs["tokens"][:, 1:]
    directions = frozen.turned(unembedding[right]) / frozen.scales[:, :-1, None]
    found = []
    for z, w_o in zip(theirs["z"], theirs["w_o"], strict=True):
        outputs = z[:, :-1].flatten(2)
        added = head_attributions(outputs, w_o.flatten(0, 1).T, directions, N_HEADS)
        found.append(added.movedim(-1, 0))
    torch.testing.assert_close(torch.cat(found), theirs["attributions"], rtol=1e-5, atol=1e-6)


def main() -> None:
    """Make ``THEIRS`` again, by TransformerLens."""
    from transformer_lens.model_bridge.sources.native import boot

    made = {}
    for kind in ("LN", "RMS"):
        torch.manual_seed(0)
        sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 8, "d_head": 4, "n_heads": 4}
        words = {"d_mlp": 32, "d_vocab": 30, "act_fn": "gelu", "normalization_type": kind}
        model = boot({**sizes, **words, "seed": 0})
        for name, parameter in model.named_parameters():
            is_gain = parameter.ndim == 1 and "weight" in name
            nn.init.normal_(parameter, float(is_gain), 0.3 if parameter.ndim == 1 else 0.25)
        tokens = torch.randint(0, 30, (2, 8))
        _, cache = model.run_with_cache(tokens)
        results = cache.stack_head_results(layer=-1, pos_slice=(0, -1))
        entering = cache["blocks.1.hook_resid_post"]
        arrays = {
            "tokens": tokens,
            "entering": entering,
            "leaving": model.ln_final(entering),
            "attributions": cache.logit_attrs(results, tokens=tokens[:, 1:], pos_slice=(0, -1)),
            "w_u": model.W_U,
            "w_o": model.W_O,
            "z": torch.stack([cache[f"blocks.{block}.attn.hook_z"] for block in range(2)]),
        }
        for name, parameter in model.ln_final.named_parameters():
            arrays["gain" if name.endswith("weight") else "bias"] = parameter
        made |= {f"{kind}.{name}": values.detach().numpy() for name, values in arrays.items()}
    np.savez_compressed(THEIRS, **made)


if __name__ == "__main__":
    main()

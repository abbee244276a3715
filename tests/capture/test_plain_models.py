"""Attention of decoders in plain PyTorch, against attention worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_decoders import (
    DK,
    VOCAB,
    AllInOneBlock,
    Alone,
    D,
    Encoder,
    FusedAttention,
    GroupedAttention,
    H,
    ManyHeads,
    Model,
    Multihead,
    NamedBlocks,
    NamedOperands,
    Notes,
    Residual,
    SoftmaxModule,
    SwappedGate,
    T,
    TimmAttention,
    by_flex,
    by_hand,
    by_kernel,
    by_large_negative_mask,
    by_softmax,
    examine,
    largest_logits,
    merge,
    randomised,
    reference,
    split,
    two_layers,
)
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention_hop

from tracker_viz.capture import Schedule, record
from tracker_viz.errors import ConfigError, ProbeError, UnsupportedModelError

GPT = {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "mlp.w_in", "mlp.w_out"}
LLAMA = {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "mlp.w_gate", "mlp.w_up", "mlp.w_down"}
PER_HEAD = {f"attn.{head}.w_{part}" for head in range(H) for part in "qkv"} | {
    "attn.w_o",
    "mlp.w_in",
    "mlp.w_out",
}

MODELS = {
    "nanoGPT, flash": (
        lambda: Model(lambda _: Residual(FusedAttention(by_kernel), two_layers())),
        "blocks.0",
        GPT,
    ),
    "nanoGPT, softmax": (
        lambda: Model(lambda _: Residual(FusedAttention(by_softmax), two_layers())),
        "blocks.0",
        GPT,
    ),
    "einsum and a mask of -10000": (
        lambda: Model(lambda _: Residual(FusedAttention(by_large_negative_mask), two_layers())),
        "blocks.0",
        GPT,
    ),
    "exp and sum by hand": (
        lambda: Model(lambda _: Residual(FusedAttention(by_hand), two_layers())),
        "blocks.0",
        GPT,
    ),
    "flex_attention": (
        lambda: Model(lambda _: Residual(FusedAttention(by_flex), two_layers())),
        "blocks.0",
        GPT,
    ),
    "operands by name": (
        lambda: Model(lambda _: Residual(NamedOperands(), two_layers())),
        "blocks.0",
        GPT,
    ),
    "timm": (lambda: Model(lambda _: Residual(TimmAttention(), two_layers())), "blocks.0", GPT),
    "grouped queries, swapped gate": (
        lambda: Model(lambda _: Residual(GroupedAttention(), SwappedGate())),
        "blocks.0",
        LLAMA,
    ),
    "a module for each head": (
        lambda: Model(lambda _: Residual(ManyHeads(), two_layers())),
        "blocks.0",
        PER_HEAD,
    ),
    "a softmax module": (
        lambda: Model(lambda _: Residual(SoftmaxModule(), two_layers())),
        "blocks.0",
        GPT,
    ),
    "nn.MultiheadAttention": (
        lambda: Model(lambda _: Residual(Multihead(True), two_layers())),
        "blocks.0",
        GPT,
    ),
    "nn.MultiheadAttention, sequence first": (
        lambda: Model(lambda _: Residual(Multihead(False), two_layers())),
        "blocks.0",
        GPT,
    ),
    "nn.TransformerEncoder": (Encoder, "encoder.layers.0", GPT),
    "attention in the block itself": (lambda: Model(lambda _: AllInOneBlock()), "blocks.0", GPT),
    "blocks as attributes": (NamedBlocks, "layer_0", GPT),
    "attention alone": (Alone, "attn", {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o"}),
    "one block": (
        lambda: Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()), 1),
        "blocks.0",
        GPT,
    ),
}

# Their softmax is written out, and its logits are in no call that is seen.
WITHOUT_LOGITS = {"exp and sum by hand"}


@pytest.mark.parametrize("name", MODELS)
def test_attention_of_a_model_in_plain_pytorch(name):
    make, first_block, projections = MODELS[name]
    model = randomised(make)
    structure, attention = examine(model)
    noted = torch.cat(Notes.patterns, dim=1)
    seen = torch.cat(attention, dim=1)
    assert seen.shape == noted.shape
    assert (seen - noted).abs().max() <= 1e-5
    assert structure.blocks[0] == first_block
    assert set(structure.n_heads) == {H}
    assert {projection.name for projection in structure.projections} == projections
    assert structure.d_model == D

    found, noted_logits = largest_logits(model, structure)
    if name in WITHOUT_LOGITS:
        assert found.isnan().all()
    else:
        torch.testing.assert_close(found, noted_logits, rtol=1e-5, atol=1e-5)


def test_a_mask_of_another_dtype_than_the_model_is_taken_as_its_own_kernel_takes_it():
    """As nn.Transformer makes it: float32, whatever the model is in. The kernel takes that; torch's
    weights in the open do not."""
    model = randomised(Encoder).double()
    model(torch.randint(VOCAB, (1, T)))
    _, attention = examine(model)
    assert (torch.cat(attention, dim=1) - torch.cat(Notes.patterns, dim=1)).abs().max() <= 1e-5


def test_keys_shared_by_several_heads_are_counted():
    structure, _ = examine(
        randomised(lambda: Model(lambda _: Residual(GroupedAttention(), two_layers())))
    )
    assert (structure.n_heads, structure.n_kv_heads) == ((4, 4), (2, 2))


def test_a_layer_that_blocks_share_is_captured_in_each():
    shared = two_layers()
    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(by_kernel), shared)))
    captures = []
    record(model, torch.randint(VOCAB, (1, T)), Schedule.every(1), captures.append).close()
    assert (
        captures[0].arrays["blocks.0.mlp.w_in"] == captures[0].arrays["blocks.1.mlp.w_in"]
    ).all()


def test_flex_attention_with_biases_and_windows_is_worked_out_from_its_own_functions():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    slopes = torch.tensor([0.1, 0.2, 0.4, 0.8])
    near = create_block_mask(
        lambda _b, _h, query, key: (query >= key) & (query - key < 5),
        None,
        None,
        T,
        T,
        device="cpu",
    )

    def attend(q, k, v):
        return flex_attention(
            q,
            k,
            v,
            score_mod=lambda score, _b, head, query, key: score - slopes[head] * (query - key),
            block_mask=near,
        )

    structure, attention = examine(
        randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), two_layers())))
    )
    assert structure.error <= 1e-5
    assert not attention[0].triu(1).any()
    assert not attention[0].tril(-5).any()


def test_a_block_that_runs_twice_is_shown_as_it_ran_first():
    class Looped(Model):
        def forward(self, ids):
            x = self.tokens(ids)
            for _ in range(2):
                for block in self.blocks:
                    x = block(x)
            return self.head(x)

    structure, attention = examine(
        randomised(lambda: Looped(lambda _: Residual(FusedAttention(by_kernel), two_layers())))
    )
    assert structure.n_heads == (H, H)
    torch.testing.assert_close(
        torch.cat(attention, dim=1), torch.cat(Notes.patterns[:2], dim=1), atol=1e-5, rtol=0
    )


def test_a_module_that_raises_and_is_worked_around_does_not_misname_what_follows():
    class Fast(nn.Module):
        def forward(self, x):
            raise RuntimeError("no kernel for this device")

    class WithFallback(FusedAttention):
        def __init__(self):
            super().__init__(by_kernel)
            self.fast = Fast()

        def forward(self, x):
            try:
                return self.fast(x)
            except RuntimeError:
                return super().forward(x)

    structure, _ = examine(
        randomised(lambda: Model(lambda _: Residual(WithFallback(), two_layers())))
    )
    assert [site[0][-1] for sites in structure.sites for site in sites] == [
        "blocks.0.attn",
        "blocks.1.attn",
    ]


def test_the_embedding_and_the_head_of_a_sequential_model_are_no_blocks():
    def make():
        return nn.Sequential(
            nn.Embedding(VOCAB, D),
            *(Residual(FusedAttention(by_kernel), two_layers()) for _ in range(2)),
            nn.Linear(D, 7),
        )

    structure, _ = examine(randomised(make))
    assert (structure.blocks, structure.n_heads) == (("1", "2"), (H, H))


def test_attention_outside_of_the_blocks_is_named():
    class WithPooling(Model):
        def __init__(self):
            super().__init__(lambda _: Residual(FusedAttention(by_kernel), two_layers()))
            self.pooling = FusedAttention(by_softmax)

        def forward(self, ids):
            x = self.tokens(ids)
            for block in self.blocks:
                x = block(x)
            return self.pooling(x)

    structure, _ = examine(randomised(WithPooling))
    assert structure.blocks == ("blocks.0", "blocks.1")
    assert structure.left_out == ("attention in pooling, outside of these blocks",)
    assert structure.sources == ("scaled_dot_product_attention",)


def test_blocks_may_be_named_by_hand():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(VOCAB, D)
            self.groups = nn.ModuleList(
                nn.Sequential(
                    *(Residual(FusedAttention(by_kernel), two_layers()) for _ in range(2))
                )
                for _ in range(2)
            )

        def forward(self, ids):
            x = self.tokens(ids)
            for group in self.groups:
                x = group(x)
            return x

    model = randomised(Grouped)
    structure, _ = examine(model, blocks="groups.*.*")
    assert structure.blocks == ("groups.0.0", "groups.0.1", "groups.1.0", "groups.1.1")
    assert structure.n_heads == (H,) * 4
    structure, _ = examine(model, blocks=["groups.1.1"])
    assert structure.blocks == ("groups.1.1",)
    with pytest.raises(ConfigError, match=r"blocks=\['groups.7'\] are not modules of the model"):
        examine(model, blocks=["groups.7"])
    with pytest.raises(ConfigError, match="matches no module"):
        examine(model, blocks="layers.*")


def test_attention_that_looks_ahead_is_refused_and_named():
    class Bidirectional(FusedAttention):
        def forward(self, x):
            q, k, v = (split(part, H) for part in self.c_attn(x).split(D, dim=-1))
            return self.c_proj(merge(torch.softmax(q @ k.transpose(-2, -1), -1) @ v))

    with pytest.raises(
        UnsupportedModelError,
        match=r"softmax that looks into the future of shape 2x4x16x16 in blocks\.0\.attn",
    ):
        examine(randomised(lambda: Model(lambda _: Residual(Bidirectional(None), two_layers()))))


def test_weights_that_are_no_probabilities_are_a_mixing_map():
    class Signed(FusedAttention):
        def forward(self, x):
            q, k, v = (split(part, H) for part in self.c_attn(x).split(D, dim=-1))
            weights = torch.tanh(q @ k.transpose(-2, -1)).tril()
            expected.append(weights)
            return self.c_proj(merge(weights @ v))

    expected, maps = [], {}
    structure, attention = examine(
        randomised(lambda: Model(lambda _: Residual(Signed(None), two_layers()))), mixing=maps
    )
    torch.testing.assert_close(torch.stack([maps[0], maps[1]]), torch.stack(expected))
    assert structure.n_heads == (0, 0)
    assert [pattern.numel() for pattern in attention] == [0, 0]
    assert structure.mixing.notes == ("by matmul", "by matmul")


@pytest.mark.parametrize("is_linear", [True, False])
def test_of_two_products_the_map_is_that_of_both_where_they_are_one_linear_step(is_linear):
    class TwoSteps(FusedAttention):
        def forward(self, x):
            q, k, v = (split(part, H) for part in self.c_attn(x).split(D, dim=-1))
            weights = torch.tanh(q @ k.transpose(-2, -1)).tril()
            expected.append((weights if is_linear else torch.eye(T)) @ weights.sin())
            once = weights.sin() @ v
            return self.c_proj(merge(weights @ (once if is_linear else once.tanh())))

    expected, maps = [], {}
    kinds = (TwoSteps, FusedAttention)
    model = randomised(lambda: Model(lambda index: Residual(kinds[index](by_kernel), two_layers())))
    structure, _ = examine(model, mixing=maps)
    assert structure.n_heads == (0, H)
    note = "by its module, run again"
    if not is_linear:
        note += ", one step of several"
    assert structure.mixing.notes[0] == note
    assert structure.left_out == ()
    torch.testing.assert_close(maps[0], expected[0], atol=1e-5, rtol=0)


def by_parts(model, ids):
    for row in ids:
        x = model.tokens(row[None])
        for block in model.blocks:
            x = block(x)


def test_rows_of_the_probe_that_are_run_one_by_one_are_not_taken_for_heads():
    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(by_kernel), two_layers())))
    _, together = examine(model)
    structure, one_by_one = examine(model, forward=lambda model, ids: [model(r[None]) for r in ids])
    assert structure.n_heads == (H, H)
    torch.testing.assert_close(one_by_one, together, atol=1e-6, rtol=0)
    with pytest.raises(ProbeError, match="forward gave the model 1 of the probe's 2 rows"):
        examine(model, forward=lambda model, ids: model(ids[0][None]))
    with pytest.raises(
        UnsupportedModelError,
        match="over another batch than the probe's 2 rows, of shape 1x4x16x16 in blocks",
    ):
        examine(model, forward=by_parts)


def test_a_hidden_kernel_is_refused_and_its_module_named():
    class Hidden(FusedAttention):
        def forward(self, x):
            return self.c_proj(x.cummax(dim=1).values)

    with pytest.raises(
        UnsupportedModelError,
        match=(
            r"no attention .* was seen in Model; its modules blocks\.0\.attn, blocks\.1\.attn "
            r"use a kernel"
        ),
    ):
        examine(randomised(lambda: Model(lambda _: Residual(Hidden(None), two_layers()))))


class OwnFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        torch.ops.aten.lerp(q, k, v)  # three of a kind, and no attention
        return torch.ops.aten.scaled_dot_product_attention(q, k, v, None, 0.0, True)


def test_attention_inside_an_autograd_function_is_seen():
    structure, attention = examine(
        randomised(
            lambda: Model(lambda _: Residual(FusedAttention(OwnFunction.apply), two_layers()))
        )
    )
    torch.testing.assert_close(
        torch.cat(attention, dim=1), torch.cat(Notes.patterns, dim=1), atol=1e-5, rtol=0
    )
    assert structure.left_out == ()


@torch.library.custom_op("fused_by_others::attend", mutates_args=())
def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.normalize(by_kernel(q, k, v), dim=-1)


def test_somebody_elses_fused_kernel_is_refused_by_its_name_and_module():
    with pytest.raises(
        UnsupportedModelError,
        match=(
            r"fused_by_others\.attend, a kernel that hides its probabilities, in "
            r"blocks\.0\.attn: asked, it is not linear in its values.* blocks\.1\."
        ),
    ):
        examine(randomised(lambda: Model(lambda _: Residual(FusedAttention(fused), two_layers()))))


def test_a_block_whose_kernel_hides_its_probabilities_is_named_and_the_others_are_shown(caplog):
    kinds = (by_kernel, fused)
    model = randomised(
        lambda: Model(lambda index: Residual(FusedAttention(kinds[index]), two_layers()))
    )
    with caplog.at_level("INFO", "tracker_viz.capture"):
        recorder = record(model, torch.randint(VOCAB, (1, T)), Schedule.every(1), print)
    (left_out,) = recorder.camera.model_info["found"]["left_out"]
    assert left_out == (
        "fused_by_others.attend, a kernel that hides its probabilities, in blocks.1.attn: asked, "
        "it is not linear in its values, or mixes other tokens than the probe's; its form in plain "
        "torch can be run for the probe (forward=, watch's option)"
    )
    assert recorder.camera.model_info["n_heads"] == [H, 0]
    assert "2 blocks (blocks.0 .. 1) (1 of them attend), [4, 0] heads" in caplog.text
    assert f"left out: {left_out}" in caplog.text


@torch.library.custom_op("flash_attn::_flash_attn_forward", mutates_args=())
def flash_kernel(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    return_softmax: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stands where flash_attn, which needs a GPU to be installed, registers its own kernel, with
    the same arguments."""
    raise RuntimeError("FlashAttention only supports fp16 and bf16 data type")


class FlashFunction(torch.autograd.Function):
    """As flash_attn calls its kernel; [batch, position, head, channel]."""

    @staticmethod
    def forward(ctx, q, k, v, options):
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        options = {
            "window_size_left": -1,
            "window_size_right": -1,
            "softcap": 0.0,
            "alibi_slopes": None,
            **options,
        }
        out, *for_backward = torch.ops.flash_attn._flash_attn_forward(
            q, k, v, 0.1, DK**-0.5, causal=True, **options, return_softmax=False
        )
        ctx.save_for_backward(q, k, v, out, *for_backward)
        return out.transpose(1, 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_size_left": 4},
        {"softcap": 2.0},
        {"alibi_slopes": torch.tensor([0.1, 0.2, 0.4, 0.8])},
    ],
    ids=str,
)
def test_attention_by_the_flash_attn_package_is_worked_out_in_the_open(options):
    def attend(q, k, v):  # what is expected is worked out in numpy, out of sight of the watch
        logits = q.numpy().astype(np.float64) @ k.numpy().swapaxes(-2, -1) / DK**0.5
        distance = np.subtract.outer(np.arange(T), np.arange(T))
        if "softcap" in options:
            logits = options["softcap"] * np.tanh(logits / options["softcap"])
        if "alibi_slopes" in options:
            logits = logits - options["alibi_slopes"].numpy()[:, None, None] * distance
        weights = np.exp(logits) * (
            (distance >= 0) & (distance <= options.get("window_size_left", T))
        )
        expected.append(torch.from_numpy(weights / weights.sum(-1, keepdims=True)).float())
        mixed = FlashFunction.apply(q, k, v, options)
        np.testing.assert_allclose(mixed.numpy(), expected[-1].numpy() @ v.numpy(), atol=1e-5)
        return mixed

    expected = []
    structure, attention = examine(
        randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), two_layers())))
    )
    torch.testing.assert_close(
        torch.cat(attention, dim=1), torch.cat(expected, dim=1), atol=1e-5, rtol=0
    )
    assert structure.sources == ("flash_attn",)
    assert {projection.name for projection in structure.projections} == GPT


def test_keys_shared_by_several_heads_of_a_flash_attn_kernel_are_repeated():
    class Grouped(GroupedAttention):
        def forward(self, x):
            q, k, v = split(self.wq(x), H), split(self.wk(x), H // 2), split(self.wv(x), H // 2)
            reference(q, k)
            return self.wo(merge(FlashFunction.apply(q, k, v, {})))

    structure, attention = examine(
        randomised(lambda: Model(lambda _: Residual(Grouped(), two_layers())))
    )
    torch.testing.assert_close(
        torch.cat(attention, dim=1), torch.cat(Notes.patterns, dim=1), atol=1e-5, rtol=0
    )
    assert structure.n_kv_heads == (2, 2)


def test_a_probe_longer_than_the_position_table_is_refused_before_it_is_looked_up():
    class Learned(Model):
        def forward(self, ids):
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            return self.head(self.blocks[1](self.blocks[0](x)))

    model = randomised(lambda: Learned(lambda _: Residual(FusedAttention(by_kernel), two_layers())))
    with pytest.raises(
        ProbeError, match=f"{T + 1} tokens a row; positions holds {T}: cut the probe"
    ):
        examine(model, torch.zeros(1, T + 1, dtype=torch.int64))
    with pytest.raises(
        ProbeError, match=f"token id {VOCAB}; the model's vocabulary has {VOCAB} tokens"
    ):
        examine(model, torch.full((1, T), VOCAB))


def test_a_model_that_is_called_in_another_way_says_how_to_pass_it():
    class Picky(Model):
        def forward(self, ids, mask):
            return super().forward(ids) * mask

    model = randomised(lambda: Picky(lambda _: Residual(FusedAttention(by_kernel), two_layers())))
    with pytest.raises(
        ProbeError,
        match=(
            r"missing 1 required positional argument: 'mask'.*pass forward=lambda model, "
            r"input_ids"
        ),
    ):
        examine(model)
    structure, _ = examine(model, forward=lambda model, ids: model(ids, torch.ones(1)))
    assert structure.n_heads == (H, H)


def subtracting(q, k, v):
    """As gpt-oss: the largest logit of every row is taken off before the softmax."""
    logits = (q @ k.transpose(-2, -1)) / math.sqrt(DK)
    logits = logits.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
    return F.softmax(logits - logits.amax(-1, keepdim=True), dim=-1) @ v


def test_logits_that_were_shifted_before_the_softmax_are_not_known():
    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(subtracting), two_layers())))
    found, _ = largest_logits(model, examine(model)[0])
    assert found.isnan().all()


@pytest.mark.parametrize("attend", [by_kernel, by_softmax], ids=["sdpa", "softmax"])
def test_an_untrained_model_whose_logits_are_all_zero_has_a_largest_logit_of_zero(attend):
    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), two_layers())))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.c_attn.weight[: 2 * D] = 0
            block.attn.c_attn.bias[: 2 * D] = 0
    found, _ = largest_logits(model, examine(model)[0])
    assert (found == 0).all()


def test_the_largest_logit_is_flex_attentions_own():
    scores = []
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, T, T, device="cpu")

    def attend(q, k, v):
        # The API returns these on a GPU alone; the operator beneath works them out anywhere, as
        # powers of two.
        out, _, largest = flex_attention_hop(
            q,
            k,
            v,
            lambda score, _b, head, query, key: score - (query - key) / (head + 2),
            mask.as_tuple(),
            DK**-0.5,
            {},
            (),
            (),
        )
        scores.append(largest.amax(-1) * math.log(2))
        return out

    model = randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), two_layers())))
    structure, _ = examine(model)
    scores.clear()
    found, _ = largest_logits(model, structure)
    torch.testing.assert_close(found, torch.cat(scores, dim=1), rtol=1e-6, atol=1e-6)

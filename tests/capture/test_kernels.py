"""Kernels that hide their probabilities, by stand-ins with the signatures of the real ones: their
attention is what they answer when they are asked."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_decoders import (
    DK,
    VOCAB,
    D,
    FusedAttention,
    H,
    Model,
    Notes,
    Residual,
    T,
    by_kernel,
    examine,
    largest_logits,
    randomised,
    reference,
    split,
    two_layers,
)
from torch import nn
from torch.nn.attention import varlen
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from tracker_viz.capture import Schedule, record
from tracker_viz.capture.attention.einsums import mixing_operands

ATOL = 1e-5


# The arguments of these have no names by which they would be taken for kernels themselves.
def causal_probabilities(of, to, scale):
    """[batch, head, query, key], of [batch, head, position, channel], out of sight of the watch."""
    of, to = of.numpy(), to.numpy().repeat(of.shape[1] // to.shape[1], axis=1)
    weights = np.tril(np.exp(of @ to.swapaxes(-2, -1) * scale))
    return torch.from_numpy(weights / weights.sum(-1, keepdims=True))


def mix_packed(of, to, mixed, cu_seqlens, scale):
    """Attend within each row of [packed, head, channel]."""
    n_rows = len(cu_seqlens) - 1
    of, to, mixed = (part.unflatten(0, (n_rows, -1)).transpose(1, 2) for part in (of, to, mixed))
    mixed = mixed.repeat_interleave(of.shape[1] // mixed.shape[1], dim=1)
    mixed = causal_probabilities(of, to, scale) @ mixed
    return mixed.transpose(1, 2).flatten(0, 1)


class Packed(nn.Module):
    """Rows of the batch in one sequence, as training on packed text has them; two heads share
    their keys and values."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.wq, self.wk = nn.Linear(H * DK, H * DK), nn.Linear(H * DK, H * DK // 2)
        self.wv, self.wo = nn.Linear(H * DK, H * DK // 2), nn.Linear(H * DK, H * DK)

    def forward(self, x):
        q, k, v = self.wq(x), self.wk(x), self.wv(x)
        reference(split(q, H), split(k, H // 2))
        q, k, v = (part.flatten(0, 1).unflatten(-1, (-1, DK)) for part in (q, k, v))
        cu_seqlens = torch.arange(0, len(x) * T + 1, T, dtype=torch.int32)
        return self.wo(self.attend(q, k, v, cu_seqlens).flatten(1).unflatten(0, (len(x), T)))


def is_shown(make, source):
    """Check a model's attention against what it noted; return its structure."""
    model = randomised(lambda: Model(lambda _: Residual(make(), two_layers())))
    structure, attention = examine(model)
    shown = torch.stack(attention)
    expected = torch.stack(Notes.patterns)
    torch.testing.assert_close(shown, expected, atol=ATOL, rtol=0)
    assert structure.sources == (source,)
    assert structure.error <= ATOL
    assert structure.mixing.blocks == ()
    assert structure.left_out == ()
    found, by_hand = largest_logits(model, structure)
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=ATOL)
    return structure


@pytest.fixture
def varlen_on_the_cpu():
    """Register for the CPU what PyTorch registers for GPUs alone."""
    with torch.library._scoped_library("torch_attn", "IMPL") as library:

        def attend(query, key, value, cu_q, cu_k, max_q, max_k, is_causal=False, *options):
            scale = options[0] or query.shape[-1] ** -0.5
            mixed = mix_packed(query, key, value, cu_q, scale)
            return mixed, query.new_zeros(query.shape[1], len(query)), query.new_zeros(2)

        library.impl("_varlen_attn", attend, "CPU", allow_override=True)
        yield


def test_pytorchs_attention_over_packed_rows_is_asked(varlen_on_the_cpu):
    def attend(q, k, v, cu_seqlens):
        return varlen.varlen_attn(
            q, k, v, cu_seqlens, cu_seqlens, T, T, window_size=(-1, 0), enable_gqa=True
        )

    structure = is_shown(lambda: Packed(attend), "torch_attn._varlen_attn (asked)")
    assert structure.n_kv_heads == (H // 2, H // 2)
    names = {projection.name for projection in structure.projections}
    assert {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o"} <= names


@torch.library.custom_op("flash_attn::_flash_attn_varlen_forward", mutates_args=())
def flash_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return mix_packed(q, k, v, cu_seqlens_q, softmax_scale), q.new_zeros(1)


def test_flash_attns_packed_kernel_is_asked():
    def attend(q, k, v, cu_seqlens):
        cu = (cu_seqlens, cu_seqlens)
        return torch.ops.flash_attn._flash_attn_varlen_forward(
            q, k, v, *cu, T, T, 0.0, DK**-0.5, causal=True
        )[0]

    is_shown(lambda: Packed(attend), "flash_attn._flash_attn_varlen_forward (asked)")


@torch.library.custom_op("flash_attn_3::_flash_attn_forward", mutates_args=("out_",))
def flash_attn_3(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    k_new: torch.Tensor | None = None,
    v_new: torch.Tensor | None = None,
    out_: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mixed = (causal_probabilities(q, k, softmax_scale or DK**-0.5) @ v).transpose(1, 2)
    if out_ is not None:
        out_.copy_(mixed)
    return mixed.clone(), q.new_zeros(1)


class FlashFunction(torch.autograd.Function):
    """Calls the kernel as flash_attn_interface does; [batch, head, position, channel] here."""

    @staticmethod
    def forward(ctx, q, k, v):
        q, k, v = (part.transpose(1, 2).contiguous() for part in (q, k, v))
        out = torch.full_like(q, math.nan)
        torch.ops.flash_attn_3._flash_attn_forward(q, k, v, out_=out, causal=True)
        assert not out.isnan().any()
        return out.transpose(1, 2)


def test_flash_attention_3_is_asked_and_what_it_wrote_stays():
    is_shown(
        lambda: FusedAttention(FlashFunction.apply), "flash_attn_3._flash_attn_forward (asked)"
    )


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    """xformers: [batch, position, head, channel]; a fused kernel shows torch nothing of itself."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    mixed = causal_probabilities(query, key, DK**-0.5).numpy() @ value.numpy()
    return torch.from_numpy(mixed).transpose(1, 2)


xops = SimpleNamespace(memory_efficient_attention=memory_efficient_attention)


def attend_by_xformers(*parts):
    return xops.memory_efficient_attention(*(part.transpose(1, 2) for part in parts)).transpose(
        1, 2
    )


def test_xformers_attention_is_asked_by_its_name_and_signature():
    is_shown(lambda: FusedAttention(attend_by_xformers), "memory_efficient_attention (asked)")


class SigmoidCore(nn.Module):
    """A module between projections, as x-transformers has it."""

    def forward(self, q, k, v):
        return torch.sigmoid(q @ k.mT / math.sqrt(DK)).tril() @ v


def test_a_module_that_takes_queries_keys_and_values_is_asked_and_named_by_its_class():
    maps = {}
    structure, _ = examine(
        randomised(lambda: Model(lambda _: Residual(FusedAttention(SigmoidCore()), two_layers()))),
        mixing=maps,
    )
    assert structure.mixing.notes == ("by SigmoidCore.forward (asked)",) * 2
    assert float(maps[0].min()) >= 0
    assert float(maps[0].sum(-1).max()) > 1.5


def with_sinks(sinks):
    """gpt-oss: a sink for each head takes its share after the kernel, by the kernel's own sum of
    exponentials."""
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, T, T, device="cpu")

    def attend(q, k, v):
        out, aux = flex_attention(q, k, v, block_mask=mask, return_aux=AuxRequest(lse=True))
        logits = (q @ k.mT).numpy() / math.sqrt(DK)
        Notes.patterns.append(sinking(torch.from_numpy(logits), sinks))
        return out * torch.sigmoid(aux.lse - sinks[:, None]).unsqueeze(-1)

    return attend


def sinking(logits, sinks):
    exponentials = logits.double().exp().tril()
    return (
        exponentials / (exponentials.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    ).float()


def test_flex_attention_that_is_renormalised_afterwards_shows_the_share_of_its_sinks():
    sinks = torch.tensor([-2.0, 0.0, 1.0, 3.0])
    structure, attention = examine(
        randomised(
            lambda: Model(
                lambda _: Residual(FusedAttention(with_sinks(sinks), noted=False), two_layers())
            )
        )
    )
    torch.testing.assert_close(
        torch.stack(attention), torch.stack(Notes.patterns), atol=ATOL, rtol=0
    )
    assert structure.sources == ("flex_attention",)
    assert float(attention[0][:, 3].sum(-1).min()) < 0.9


def test_the_sum_of_exponentials_alone_changes_nothing():
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, T, T, device="cpu")

    def attend(q, k, v):
        out, _ = flex_attention(q, k, v, block_mask=mask, return_aux=AuxRequest(lse=True))
        return out

    structure, attention = examine(
        randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), two_layers())))
    )
    torch.testing.assert_close(
        torch.stack(attention), torch.stack(Notes.patterns), atol=ATOL, rtol=0
    )
    assert structure.sources == ("flex_attention",)


def mamba_split_conv1d_scan_combined(zxbcdt, conv1d_weight):
    return zxbcdt.cumsum(1)


class Combined(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1d = nn.Conv1d(32, 32, 3)

    def forward(self, x):
        return mamba_split_conv1d_scan_combined(x, self.conv1d.weight)


def test_a_kernel_that_cannot_be_asked_is_named_with_the_way_round_and_the_others_are_shown():
    kinds = (Combined, lambda: FusedAttention(by_kernel))
    structure, _ = examine(
        randomised(lambda: Model(lambda index: Residual(kinds[index](), two_layers())))
    )
    assert structure.n_heads == (0, H)
    assert structure.left_out == (
        "mamba_split_conv1d_scan_combined, a kernel that hides its probabilities, in "
        "blocks.0.attn: asked, it does more than mix its values; use_mem_eff_path=False "
        "(use_fast_path=False) runs its steps apart",
    )


def linear_attention_by_einsum(of, to, mixed):
    """Katharopoulos et al. 2020, without its normalizer; the values first, as some write it."""
    scores = torch.einsum("bhqd,bhkd->bhqk", F.elu(of) + 1, F.elu(to) + 1).tril()
    return torch.einsum("bhkd, bhqk -> bhqd", mixed, scores)


def test_linear_attention_that_is_written_in_einsum_is_a_mixing_map():
    maps = {}
    attend = linear_attention_by_einsum
    model = randomised(
        lambda: Model(lambda _: Residual(FusedAttention(attend, noted=False), two_layers()))
    )
    seen = []
    model.blocks[1].attn.c_attn.register_forward_hook(lambda _m, _i, output: seen.append(output))
    structure, _ = examine(model, mixing=maps)
    assert structure.mixing.notes == ("by matmul",) * 2
    q, k, v = (split(part, H) for part in seen[0].split(H * DK, dim=-1))
    torch.testing.assert_close(
        maps[1] @ v, linear_attention_by_einsum(q, k, v), atol=1e-4, rtol=1e-4
    )


def test_attention_that_is_normalised_by_hand_and_applied_by_einsum_is_attention():
    def attend(of, to, mixed):
        weights = torch.einsum("bhqd,bhkd->bhqk", of, to).div(DK**0.5).exp().tril()
        return torch.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdim=True), mixed)

    structure, attention = examine(
        randomised(lambda: Model(lambda _: Residual(FusedAttention(attend), two_layers())))
    )
    expected = torch.stack(Notes.patterns)
    torch.testing.assert_close(torch.stack(attention), expected, atol=ATOL, rtol=0)
    assert structure.n_heads == (H, H)


def test_products_of_an_einsum_that_mix_no_tokens_are_none_of_its_business():
    square = torch.ones(2, T, T)
    mixed = mixing_operands(["bqk,bkd->bqd", square, torch.ones(2, T, 5)], T)
    assert [tuple(each.shape) for each in mixed] == [(2, T, T), (2, T, 5)]
    for args in (
        ["bqk,kd->bqd", square, torch.ones(T, T)],  # a layer
        ["bqk,bkd->bdq", square[:, 1:], torch.ones(2, T, 5)],
        ["...qk,...kd->...qd", square, square],
        ["bqk,bqk->bq", square, square],
        ["bqk->bkq", square],
    ):
        assert mixing_operands(args, T) is None


class DocumentAttention(nn.Module):
    """Rotary queries and keys, normalized, and flex_attention under the mask that the model makes
    of its tokens, as modded-nanogpt and torchtitan have it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)

    def forward(self, x, block_mask):
        q, k, v = self.qkv(x).unflatten(-1, (3, H, DK)).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, (DK,)), F.rms_norm(k, (DK,))
        mixed = flex_attention(q, k, v, block_mask=block_mask, scale=0.12)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class DocumentBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = DocumentAttention(), two_layers()

    def forward(self, x, block_mask):
        x = x + self.attn(F.rms_norm(x, (D,)), block_mask)
        return x + self.mlp(F.rms_norm(x, (D,)))


class OneFlatSequence(nn.Module):
    """Takes tokens [position]; a document begins at each token 0, and ends the one before it."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB, bias=False)
        self.blocks = nn.ModuleList(DocumentBlock() for _ in range(2))

    def forward(self, tokens):
        assert tokens.ndim == 1
        document = (tokens == 0).cumsum(0)

        def is_seen(_batch, _head, query, key):
            return (query >= key) & (document[query] == document[key]) & (query - key < 6)

        mask = create_block_mask(is_seen, None, None, len(tokens), len(tokens), device="cpu")
        x = self.embed(tokens)[None]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


def test_packed_documents_under_flex_attention_are_captured_without_a_backward_pass():
    """flex_attention has no backward pass on a CPU: weights change by hand here."""
    model, captures = randomised(OneFlatSequence), []
    ids = torch.randint(1, VOCAB, (2, T), generator=torch.Generator().manual_seed(1))
    ids[:, 7] = 0
    one_by_one = {"forward": lambda model, input_ids: [model(row) for row in input_ids]}
    recorder = record(model, ids, Schedule.every(1), captures.append, **one_by_one)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(2)
    recorder.step(1)
    recorder.close()
    assert [capture.step for capture in captures] == [0, 1]

    document = (ids == 0).cumsum(1)
    place = torch.arange(T)
    seen = (place[:, None] >= place) & (place[:, None] - place < 6)
    seen = seen & (document[:, :, None] == document[:, None, :])
    with torch.no_grad():
        q, k, _ = model.blocks[0].attn.qkv(F.rms_norm(model.embed(ids), (D,))).chunk(3, dim=-1)
        q, k = (F.rms_norm(split(part, H), (DK,)) for part in (q, k))  # twice as large: the same
        expected = (0.12 * q @ k.mT).masked_fill(~seen[:, None], -math.inf).softmax(-1)
    first, second = (capture.arrays for capture in captures)
    for arrays in (first, second):
        pattern = torch.from_numpy(arrays["blocks.0.attn.pattern"]).float()
        torch.testing.assert_close(pattern, expected, atol=1e-3, rtol=0)
    assert (first["blocks.1.attn.pattern"] != second["blocks.1.attn.pattern"]).any()
    assert captures[0].model["found"]["attention"] == ["flex_attention"]

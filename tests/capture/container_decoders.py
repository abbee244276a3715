"""Decoders whose layers are put together as people do it: in lists that are never called, side by
side, by stage, in loops, for one flat sequence.

Each notes its attention as those of ``plain_decoders`` do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from plain_decoders import (
    VOCAB,
    D,
    FusedAttention,
    H,
    Model,
    Notes,
    Residual,
    by_kernel,
    examine,
    merge,
    randomised,
    reference,
    split,
    two_layers,
)
from torch import Tensor, nn


def attention():
    return FusedAttention(by_kernel)


class Containers(nn.Module):
    """lucidrains' idiom: a layer is a list, or a dict, of an attention and a feed-forward part."""

    def __init__(self, make, n_layers=2):
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB)
        self.layers = nn.ModuleList(make() for _ in range(n_layers))

    def forward(self, ids):
        x = self.tokens(ids)
        for layer in self.layers:
            parts = layer.values() if isinstance(layer, nn.ModuleDict) else layer
            for part in parts:
                x = x + part(x)
        return self.head(x)


class Alternating(Containers):
    """x-transformers: [norms, attention, residual], [norms, feed-forward, residual], ..."""

    def __init__(self, *kinds):
        super().__init__(nn.ModuleList, 0)
        for part in (make() for make in kinds * 2):
            self.layers.append(nn.ModuleList([nn.ModuleList([nn.LayerNorm(D)]), part]))

    def forward(self, ids):
        x = self.tokens(ids)
        for (norm,), part in self.layers:
            x = x + part(norm(x))
        return self.head(x)


class TalkingHeads(FusedAttention):
    """Heads are mixed by a convolution inside the module that attends."""

    def __init__(self):
        super().__init__(AmongHeads())


class AmongHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(H, H, 1, bias=False)

    def forward(self, q, k, v):
        return by_kernel(q, k, self.mix(v))


class TwoLists(nn.Module):
    """A list of attentions beside a list of feed-forward parts."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB)
        self.attns = nn.ModuleList(attention() for _ in range(2))
        self.ffs = nn.ModuleList(two_layers() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))

    def forward(self, ids):
        x = self.tokens(ids)
        for attn, ff, norm in zip(self.attns, self.ffs, self.norms, strict=True):
            x = x + attn(norm(x))
            x = x + ff(x)
        return self.head(x)


class Nested(nn.Module):
    """Lists of lists of blocks, the inner ones called."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        blocks = (lambda: Residual(attention(), two_layers()),) * 2
        self.groups = nn.ModuleList(nn.Sequential(*(make() for make in blocks)) for _ in range(2))

    def forward(self, ids):
        x = self.tokens(ids)
        for group in self.groups:
            x = group(x)
        return x


class Stages(nn.Module):
    """Blocks in a dict, by the name of their stage."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        self.stages = nn.ModuleDict(
            {name: Residual(attention(), two_layers()) for name in ("early", "late")}
        )

    def forward(self, ids):
        x = self.tokens(ids)
        for stage in self.stages.values():
            x = stage(x)
        return x


class Recurrent(nn.Module):
    """Some blocks before, some that are looped, some after (a universal transformer's core)."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        self.prelude, self.core, self.coda = (
            nn.ModuleList([Residual(attention(), two_layers())]) for _ in range(3)
        )

    def forward(self, ids):
        x = self.tokens(ids)
        for block in (*self.prelude, *self.core, *self.core, *self.coda):
            x = block(x)
        return x


class OnceForAll(nn.Module):
    """ALBERT: one block, run again and again."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        self.layers = nn.ModuleList([nn.ModuleList([attention(), two_layers()])])

    def forward(self, ids):
        x = self.tokens(ids)
        for _ in range(3):
            for attn, ff in self.layers:
                x = x + attn(x)
                x = x + ff(x)
        return x


@dataclass
class Passed:
    hidden: Tensor
    extra: int = 0


class Returning(nn.Module):
    """Blocks that return a dataclass, or a tuple with something else in front."""

    def __init__(self, as_dataclass):
        super().__init__()
        self.attn, self.ff, self.as_dataclass = attention(), two_layers(), as_dataclass

    def forward(self, x):
        x = x.hidden if isinstance(x, Passed) else x
        x = x[1] if isinstance(x, tuple) else x
        x = x + self.attn(x)
        x = x + self.ff(x)
        return Passed(x) if self.as_dataclass else (None, x)


class ReturningModel(nn.Module):
    def __init__(self, as_dataclass):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        self.blocks = nn.ModuleList(Returning(as_dataclass) for _ in range(2))

    def forward(self, ids):
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x)
        return x


def attend(x, qkv, out):
    q, k, v = (split(part, H) for part in qkv(x).chunk(3, dim=-1))
    reference(q, k)
    return out(merge(by_kernel(q, k, v)))


class ByFunction(nn.Module):
    """Attention is a function; its layers are the block's own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        x = x + attend(F.layer_norm(x, (D,)), self.first, self.second)
        return x + self.down(F.gelu(self.up(F.layer_norm(x, (D,)))))


class EncoderDecoder(nn.Module):
    """An encoder that looks ahead, and a decoder that attends to itself and to what it made."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, D)
        self.encoder = nn.ModuleList(Both() for _ in range(3))
        self.decoder = nn.ModuleList(Both(cross=True) for _ in range(2))

    def forward(self, ids):
        memory = x = self.tokens(ids)
        for block in self.encoder:
            memory = block(memory, causal=False)
        for block in self.decoder:
            x = block(x, memory)
        return x


class Both(nn.Module):
    def __init__(self, *, cross=False):
        super().__init__()
        self.self_attn, self.ff = Attend(), two_layers()
        self.cross_attn = Attend() if cross else None

    def forward(self, x, memory=None, *, causal=True):
        x = x + self.self_attn(F.layer_norm(x, (D,)), F.layer_norm(x, (D,)), causal)
        if self.cross_attn is not None:
            x = x + self.cross_attn(F.layer_norm(x, (D,)), memory, False)
        return x + self.ff(F.layer_norm(x, (D,)))


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(D, D), nn.Linear(D, 2 * D), nn.Linear(D, D)

    def forward(self, x, memory, causal):
        q, (k, v) = self.q(x), self.kv(memory).chunk(2, dim=-1)
        q, k, v = split(q, H), split(k, H), split(v, H)
        if causal:
            reference(q, k)
        return self.out(merge(F.scaled_dot_product_attention(q, k, v, is_causal=causal)))


class Flat(nn.Module):
    """modded-nanogpt: one flat sequence of tokens, no batch."""

    def __init__(self):
        super().__init__()
        self.model = Model(lambda _: Residual(attention(), two_layers()))

    def forward(self, tokens):
        assert tokens.ndim == 1, "one sequence"
        return self.model(tokens[None])


def row_after_row(model, input_ids):
    return [model(row) for row in input_ids]


class Wrapper(nn.Module):
    """Somebody's own module around the model, as Lightning's or a loss is."""

    def __init__(self, inner):
        super().__init__()
        self.net = inner

    def forward(self, ids):
        return self.net(ids)


def stacked(make):
    return Wrapper(torch.compile(Wrapper(make()), backend="eager"))


def plain():
    return Model(lambda _: Residual(attention(), two_layers()))


# name -> (make, forward, names of the blocks)
MODELS = {
    "nn.ModuleList([attn, ff]) as a layer": (
        lambda: Containers(lambda: nn.ModuleList([attention(), two_layers()])),
        None,
        ("layers.0", "layers.1"),
    ),
    "nn.ModuleDict as a layer": (
        lambda: Containers(lambda: nn.ModuleDict({"attn": attention(), "ff": two_layers()})),
        None,
        ("layers.0", "layers.1"),
    ),
    "layers that alternate, as in x-transformers": (
        lambda: Alternating(attention, two_layers),
        None,
        ("layers.0", "layers.2"),
    ),
    "feed-forward, attention (talking heads), feed-forward": (
        lambda: Alternating(two_layers, TalkingHeads, two_layers),
        None,
        ("layers.1", "layers.4"),
    ),
    "a list of attentions, a list of feed-forwards": (TwoLists, None, ("attns.0", "attns.1")),
    "lists of lists of blocks": (
        Nested,
        None,
        ("groups.0.0", "groups.0.1", "groups.1.0", "groups.1.1"),
    ),
    "blocks in a dict, by stage": (Stages, None, ("stages.early", "stages.late")),
    "prelude, looped core, coda": (Recurrent, None, ("prelude.0", "core.0", "coda.0")),
    "one block for all layers": (OnceForAll, None, ("layers.0",)),
    "blocks that return a dataclass": (
        lambda: ReturningModel(True),
        None,
        ("blocks.0", "blocks.1"),
    ),
    "blocks that return a tuple": (lambda: ReturningModel(False), None, ("blocks.0", "blocks.1")),
    "attention as a function": (
        lambda: Model(lambda _: ByFunction()),
        None,
        ("blocks.0", "blocks.1"),
    ),
    "the decoder of an encoder-decoder": (EncoderDecoder, None, ("decoder.0", "decoder.1")),
    "one flat sequence, row after row": (
        Flat,
        row_after_row,
        ("model.blocks.0", "model.blocks.1"),
    ),
    "wrapped, compiled and wrapped again": (
        lambda: stacked(plain),
        None,
        ("net._orig_mod.net.blocks.0", "net._orig_mod.net.blocks.1"),
    ),
}


def compare(name):
    """Return (structure, largest difference from the attention that the model noted)."""
    make, forward, _ = MODELS[name]
    options = {"forward": forward} if forward else {}
    structure, patterns = examine(randomised(make), **options)
    noted = list(Notes.patterns)
    if forward is row_after_row:
        n_blocks = len(structure.blocks)
        noted = [torch.cat(noted[index::n_blocks]) for index in range(n_blocks)]
    if name == "prelude, looped core, coda":
        del noted[2]  # the core's second run
    difference = torch.cat(patterns, dim=1) - torch.cat(noted[: len(patterns)], dim=1)
    return structure, float(difference.abs().max())


def container_lines():
    """Yield the rows of the page's table."""
    for name in MODELS:
        structure, difference = compare(name)
        blocks = ", ".join(f"`{block}`" for block in structure.blocks)
        yield f"| {name} | {blocks} | {difference:.0e} |"

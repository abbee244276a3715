"""Measure how much each head writes of each token that it can look at: the norm of the token's
value behind the output projection, by which attention is weighted.

Source: Kobayashi et al. 2020 (arXiv:2004.10102), "Attention is Not Only a Weight": a head adds
``sum_j a_ij (v_j W_O)``, so a token with a large ``a_ij`` and a small ``v_j W_O`` adds little.
Sinks are such tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.probe import Probe
from tracker_viz.capture.signals.signal import Signal, SignalArray
from tracker_viz.capture.signals.whole import is_of_probe, whole_projections
from tracker_viz.capture.weights.matrices import Projection, read

# How far the mean of the values, weighted by attention, may lie from what the heads give, relative
# to its size: bfloat16 rounds by 0.4 %.
_TOLERANCE = 0.02


class ValueNorms(Signal):
    """Gives ``blocks.<i>.attn.value_norm``, float32 (probe, head, key): ``||v_j W_O||`` of each
    head, on the rows that are drawn; NaN on hidden ones.

    A head's map times this, each row divided by its sum, is its value-weighted attention. Values
    are worked out from what enters ``attn.w_v``; a block counts if these, weighted by its
    attention, give what enters ``attn.w_o``, but for the same vector at all positions, which is
    their bias.
    """

    def __init__(self, probe: Probe, structure: ModelStructure) -> None:
        self._ids = probe.input_ids
        self._drawn = [at for at, row in enumerate(probe.rows) if not row.hidden]
        self._structure = structure
        self._parameters: Mapping[str, Tensor] = {}
        # (block, name of a projection) -> what enters it, [row, position, channel], rows drawn
        self._entering: dict[tuple[int, str], Tensor] = {}
        self._norms: dict[int, Tensor] = {}

    def hooks(self, model: nn.Module) -> Iterable[RemovableHandle]:
        """Follow the projections of values and of outputs."""
        self._parameters = dict(model.named_parameters())
        for name in ("attn.w_v", "attn.w_o"):
            for block, projection in self._projections(name).items():
                module = model.get_submodule(projection.parameters[0].rpartition(".")[0])
                yield module.register_forward_hook(self._seeing((block, name)))

    def saw_attention(self, block: int, pattern: Tensor) -> None:
        """Measure one block."""
        seen = [self._entering.get((block, name)) for name in ("attn.w_v", "attn.w_o")]
        if seen[0] is None or seen[1] is None:
            return
        n_heads, n_shared = self._structure.n_heads[block], self._structure.n_kv_heads[block]
        w_v = read(self._parameters, self._projections("attn.w_v")[block])
        w_o = read(self._parameters, self._projections("attn.w_o")[block])
        if not n_shared or n_heads % n_shared or w_v.shape[0] * n_heads != w_o.shape[1] * n_shared:
            return
        values = (seen[0].float() @ w_v.T).unflatten(-1, (n_shared, -1))
        values = values.repeat_interleave(n_heads // n_shared, dim=2)
        given = seen[1].float().unflatten(-1, (n_heads, -1))

        weighted = torch.einsum("phqk,pkhd->pqhd", pattern[self._drawn].float(), values)
        bias = (given - weighted).mean((0, 1))
        # NaN passes: a model that has diverged has norms that are NaN.
        if bool((given - weighted - bias).abs().max() > _TOLERANCE * given.abs().max()):
            return
        # ||v W||^2 = v (W W^T) v: the channels of a head are far fewer than those of the stream.
        by_head = w_o.unflatten(1, (n_heads, -1))
        products = torch.einsum("dhc,dhe->hce", by_head, by_head)
        values = values + bias
        squared = torch.einsum("pkhc,hce,pkhe->phk", values, products, values)
        norms = squared.new_full((len(self._ids), n_heads, self._ids.shape[1]), torch.nan)
        norms[self._drawn] = squared.clamp(min=0).sqrt()
        self._norms[block] = norms

    def arrays(self) -> Iterable[SignalArray]:
        """Return one array for each block that was measured."""
        for block, norms in sorted(self._norms.items()):
            yield SignalArray(f"blocks.{block}.attn.value_norm", norms, ("probe", "head", "key"))

    def missing(self) -> str:
        """Return which blocks were not measured."""
        blocks = [
            block
            for block, n_heads in enumerate(self._structure.n_heads)
            if n_heads and block not in self._norms
        ]
        if not blocks:
            return ""
        return (
            f"value-weighted attention of blocks {blocks}: it needs projections of values and "
            "outputs that are one whole matrix each, with nothing but attention between them"
        )

    def _projections(self, name: str) -> dict[int, Projection]:
        return whole_projections(self._structure, self._parameters, name)

    def _seeing(self, place: tuple[int, str]) -> Callable[..., None]:
        def see(_module: nn.Module, inputs: Any, _output: Any) -> None:
            entering = inputs[0] if inputs else None
            if is_of_probe(entering, self._ids):
                self._entering[place] = entering[self._drawn]

        return see

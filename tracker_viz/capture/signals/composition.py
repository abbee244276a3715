"""Measure how heads compose from the whole matrices on the model's device, for models whose
captures hold them only in part (see ``metrics.circuits.composition``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.distributed import is_dtensor
from tracker_viz.capture.probe import Probe
from tracker_viz.capture.signals.signal import Signal, SignalArray
from tracker_viz.capture.weights.matrices import Projection, read
from tracker_viz.metrics import (
    COMPOSITION_AXES,
    MOST_HEADS,
    HeadMatrices,
    composition_arrays,
    composition_of,
    pairs_of,
    split_heads,
    thinned,
)

_MATRICES = ("attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o")
# Multiplications of one capture up to which all pairs of blocks are measured: about 50 ms of an
# accelerator, and a second of two cores.
_MOST_ON_ACCELERATOR, _MOST_ON_CPU = 2e12, 50e9


class Composition(Signal):
    """Gives ``scores.composition.<kind>``, float16 [block, head, earlier block, earlier head], of
    as many blocks as its price allows, evenly spaced; NaN for all others."""

    def __init__(self, _probe: Probe, structure: ModelStructure) -> None:
        self._structure = structure
        self._parameters: Mapping[str, Tensor] = {}

    def hooks(self, model: nn.Module) -> Iterable[RemovableHandle]:
        """Keep the parameters; no module is followed."""
        self._parameters = dict(model.named_parameters())
        return ()

    def arrays(self) -> Iterable[SignalArray]:
        """Return the composition of every two of the blocks."""
        blocks = self._blocks()
        if len(blocks) < 2 or self._n_heads > MOST_HEADS:
            return
        d_model = next(iter(blocks.values()))[0].shape[1]
        device = next(iter(self._parameters.values())).device
        most = _MOST_ON_CPU if device.type == "cpu" else _MOST_ON_ACCELERATOR
        matrices = {block: self._read(blocks[block]) for block in thinned([*blocks], d_model, most)}
        pairs: dict[tuple[int, int], Mapping[str, NDArray[np.float32]]] = {}
        for later, earlier in pairs_of(list(matrices)):
            found = composition_of(matrices[later], matrices[earlier])
            pairs[later, earlier] = {kind: values.cpu().numpy() for kind, values in found.items()}
        for name, laid in composition_arrays(pairs, len(self._structure.n_heads)).items():
            yield SignalArray(name, torch.from_numpy(laid).to(torch.float16), COMPOSITION_AXES)

    def missing(self) -> str:
        """Return why there is none."""
        if self._n_heads > MOST_HEADS:
            return (
                f"composition: {self._n_heads} heads make too many pairs; it is kept of at most "
                f"{MOST_HEADS}"
            )
        if len(self._blocks()) < 2:
            return (
                "composition: fewer than two blocks have w_q, w_k, w_v and w_o that are whole on "
                "this process and divide into heads"
            )
        return ""

    @property
    def _n_heads(self) -> int:
        return len(self._structure.n_heads) * max(self._structure.n_heads)

    def _blocks(self) -> dict[int, list[Projection]]:
        """Return block -> its four projections."""
        by_name = {(each.block, each.name): each for each in self._structure.projections}
        found = {}
        for block, n_heads in enumerate(self._structure.n_heads):
            four = [by_name.get((block, name)) for name in _MATRICES]
            known = [each for each in four if each is not None and self._is_whole(each)]
            if n_heads and len(known) == len(_MATRICES) and self._divides(block, known):
                found[block] = known
        return found

    def _is_whole(self, projection: Projection) -> bool:
        parameters = [self._parameters.get(name) for name in projection.parameters]
        return len(parameters) == 1 and all(
            each is not None and each.is_floating_point() and not is_dtensor(each)
            for each in parameters
        )

    def _divides(self, block: int, four: list[Projection]) -> bool:
        query, key, value, output = (each.shape for each in four)
        n_heads, n_shared = self._structure.n_heads[block], self._structure.n_kv_heads[block]
        return (
            n_shared > 0
            and n_heads % n_shared == 0
            and query[0] % n_heads == 0
            and key == value
            and key[0] * n_heads == query[0] * n_shared
            and output == (query[1], query[0])
        )

    def _read(self, four: list[Projection]) -> HeadMatrices:
        block = four[0].block
        return split_heads(
            *(read(self._parameters, each) for each in four),
            n_heads=self._structure.n_heads[block],
            n_kv_heads=self._structure.n_kv_heads[block],
        )

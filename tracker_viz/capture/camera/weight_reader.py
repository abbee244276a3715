"""Read the weights of a capture, each smaller than it is, with the norms of the whole matrix
beside it. ``Camera`` makes a ``WeightReader`` for the model that it has explored."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from tracker_viz.capture.budget import weight_side, weights_share
from tracker_viz.capture.camera.arrays import Arrays
from tracker_viz.capture.isolation import model_device
from tracker_viz.capture.weights.gathering import Gatherer
from tracker_viz.capture.weights.matrices import Pooling, Projection, read
from tracker_viz.capture.weights.norms import krylov, norms
from tracker_viz.capture.weights.stored import StoredWeights
from tracker_viz.metrics import MAX_SPECTRUM_SIDE, WEIGHT_NAME


class WeightReader:
    """Reads the same weights of one model again and again.

    Args:
        projections: which, in the order of blocks.
        asked_for: names of layers that are called with the identity (``StoredWeights``).
        pooling: pattern of a name -> how weights become smaller; the others are sampled.
        max_mb: size of a capture.

    Attributes:
        projections: which weights.
        is_pooled: some are not sampled.
    """

    def __init__(
        self,
        model: nn.Module,
        projections: Sequence[Projection],
        asked_for: Collection[str],
        *,
        pooling: Mapping[str, Pooling],
        max_mb: float,
    ) -> None:
        self.projections = tuple(projections)
        self._model, self._asked_for, self._pooling = model, asked_for, pooling
        self.is_pooled = any(self._pooling_of(each) != "sample" for each in projections)
        # Leaving out rows of a pooled map would lose weights, so ``Budget.fit`` must not cut it
        # again: pool to the final size here.
        nbytes = weights_share(max_mb) if self.is_pooled else max_mb * 1e6
        self._side = weight_side([projection.shape for projection in projections], nbytes)

    def add_to(self, held: Arrays) -> None:
        """Add the weights as they are now, and what their norms are worked out from."""
        gatherer = Gatherer(self._model)
        of_blocks = itertools.groupby(self.projections, lambda each: each.block)
        weights = self._stored()
        with torch.no_grad(), _without_autocast(model_device(self._model).type):
            for _, of_block in of_blocks:
                projections = tuple(of_block)
                with gatherer.of_modules(_modules_of(projections)):
                    if gatherer.is_needed:
                        weights = self._stored()
                    for projection in projections:
                        self._add(held, projection, weights)

    def with_norms(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays of a capture, on the host, with the norms worked out."""
        worked_out = {}
        for projection in self.projections:
            name = f"{projection.array_name}.norms"
            if name in arrays:
                worked_out[name] = norms(arrays[name], projection.shape)
        return arrays | worked_out

    def _stored(self) -> StoredWeights:
        return StoredWeights(self._model, self._asked_for)

    def _add(self, held: Arrays, projection: Projection, weights: StoredWeights) -> None:
        name = projection.array_name
        side = self._side, self._side
        held.tensors[name] = read(weights, projection, side, self._pooling_of(projection))
        held.axes[name] = ("out", "in")
        is_scored = WEIGHT_NAME.fullmatch(name) is not None
        is_large = min(projection.shape) > MAX_SPECTRUM_SIDE
        # Where the capture holds all of a small matrix, its scores follow from that.
        if is_scored and (is_large or max(projection.shape) > self._side):
            held.tensors[f"{name}.norms"] = krylov(weights, projection)

    def _pooling_of(self, projection: Projection) -> Pooling:
        for pattern, how in self._pooling.items():
            if fnmatch.fnmatchcase(projection.name, pattern):
                return how
        return "sample"


def _modules_of(projections: Iterable[Projection]) -> list[str]:
    """Return the names of the modules that have these weights, each once."""
    names: dict[str, None] = {}
    for projection in projections:
        for parameter in projection.parameters:
            names[parameter.rpartition(".")[0]] = None
    return list(names)


def _without_autocast(device_type: str) -> contextlib.AbstractContextManager[object]:
    # ``Recorder.step`` may be called inside the user's own autocast.
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()

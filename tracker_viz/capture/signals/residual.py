"""Measure the residual stream behind every block: how large it is, and whether a few channels hold
most of it.

Massive activations are a few channels with values far above all others, mostly at the first
position (Sun et al. 2024, arXiv:2402.17762), which is measured apart for that reason.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tracker_viz.capture.signals.signal import Signal, SignalArray

# Channels whose share of the energy is measured: Sun et al. find up to four in a model.
N_LARGEST = 4


class ResidualStream(Signal):
    """Gives ``blocks.<i>.stream``, float32 (probe, place, measure): of each row, at its first
    position and over all others, the root mean square of the stream and the share of its energy in
    its largest channels (see ``_measured``)."""

    def __init__(self) -> None:
        # block -> of each part of the rows, [row, place, measure]
        self._parts: dict[int, list[Tensor]] = {}

    def saw_block(self, block: int, stream: Tensor, first_row: int) -> None:
        """Measure the stream of some rows, which come in order."""
        places = [_measured(stream[:, :1])]
        if stream.shape[1] > 1:
            places.append(_measured(stream[:, 1:]))
        self._parts.setdefault(block, []).append(torch.stack(places, dim=1))

    def arrays(self) -> Iterable[SignalArray]:
        """Return one array for each block that was seen."""
        for block, parts in sorted(self._parts.items()):
            yield SignalArray(
                f"blocks.{block}.stream", torch.cat(parts), ("probe", "place", "measure")
            )


def _measured(stream: Tensor) -> Tensor:
    """Return float32 [row, 2] of a stream [row, position, channel]: the root mean square over
    positions and channels, and the share, 0..1, of the energy in the ``N_LARGEST`` channels that
    have most of it over these positions."""
    norms = torch.linalg.vector_norm(stream, dim=1, dtype=torch.float32)
    energy = norms.square()
    total = energy.sum(-1)
    largest = energy.topk(min(N_LARGEST, energy.shape[-1]), dim=-1).values.sum(-1)
    rms = (total / (stream.shape[1] * stream.shape[2])).sqrt()
    # NaN where the stream is all zeros.
    return torch.stack([rms, largest / total], dim=-1)

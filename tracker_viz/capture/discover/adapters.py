"""Show adapters' own low-rank matrices beside the weights that they change, and leave out weights
that cannot be read.

Called by ``blocks.discover`` for every block, and by the ``Camera`` once for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch import nn

from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.weights.adapters import OwnMatrix, own_matrices
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.stored import Readable, try_to_read


def adapter_projections(
    model: nn.Module, projections: Iterable[Projection]
) -> Iterator[Projection]:
    """Yield ``attn.w_q.lora_a`` [rank, in] and ``attn.w_q.lora_b`` [out, rank] for each projection
    that an adapter of low rank changes; parts of a fused one share ``lora_a``."""
    for projection in projections:
        if len(projection.parameters) == 1 and projection.expert is None:
            for own in own_matrices(model, projection.parameters[0]):
                yield _part_of(own, projection)


def without_unreadable(
    structure: ModelStructure, model: nn.Module, *, sharded: bool
) -> tuple[ModelStructure, Readable]:
    """Return the structure without the projections whose weights cannot be read, which it names
    among what is left out, and how the others are read.

    Args:
        sharded: the model is split over processes, so its layers cannot be tried by themselves.
    """
    names = dict.fromkeys(name for each in structure.projections for name in each.parameters)
    readable = Readable(frozenset(), {}) if sharded else try_to_read(model, names)
    if not readable.refused:
        return structure, readable
    kept = [each for each in structure.projections if not _is_refused(each, readable)]
    reasons = _in_words(structure.projections, readable)
    left_out = (*structure.left_out, *reasons)
    return replace(structure, projections=tuple(kept), left_out=left_out), readable


def _part_of(own: OwnMatrix, projection: Projection) -> Projection:
    whole = Projection(
        projection.block, f"{projection.name}.{own.name}", (own.parameter,), own.shape
    )
    if own.is_first:
        return whole
    shape = (projection.shape[0], own.shape[1])
    return replace(whole, shape=shape, rows=projection.rows, stride=projection.stride)


def _is_refused(projection: Projection, readable: Readable) -> bool:
    return any(name in readable.refused for name in projection.parameters)


def _in_words(projections: Sequence[Projection], readable: Readable) -> list[str]:
    """Say once for each reason which weights it leaves out."""
    names: dict[str, dict[str, None]] = {}
    for projection in projections:
        for parameter in projection.parameters:
            if parameter in readable.refused:
                names.setdefault(readable.refused[parameter], {})[projection.name] = None
    return [f"weights {', '.join(of_reason)}: {reason}" for reason, of_reason in names.items()]

"""Say what is whole on this process: signals that read matrices leave all else out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor

from tracker_viz.capture.discover.model_info import ModelStructure
from tracker_viz.capture.distributed import is_dtensor
from tracker_viz.capture.weights.matrices import Projection


def whole_projections(
    structure: ModelStructure, parameters: Mapping[str, Tensor], name: str
) -> dict[int, Projection]:
    """Return block -> its projection ``name``, where that is one parameter of numbers, whole on
    this process."""
    found = {}
    for projection in structure.projections:
        if projection.name != name or len(projection.parameters) != 1:
            continue
        parameter = parameters.get(projection.parameters[0])
        is_plain = parameter is not None and parameter.is_floating_point()
        if is_plain and not is_dtensor(parameter):
            found[projection.block] = projection
    return found


def is_of_probe(tensor: Any, input_ids: Tensor) -> TypeGuard[Tensor]:
    """Return whether this is [row, position, channel] of the whole probe, on this process."""
    return (
        isinstance(tensor, Tensor)
        and not is_dtensor(tensor)
        and tensor.ndim == 3
        and tensor.shape[:2] == input_ids.shape
    )

"""What capturing must know of wrappers and processes: who records, what lies inside a wrapper, how
a sharded tensor becomes whole.

Plain and DistributedDataParallel models: only the main process works, on the unwrapped model, and
no other waits for it except in its own next collective. Sharded models (FSDP2, any DTensor): every
process takes part in the pass and in the gathering, one matrix at a time, and the main process
keeps the result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.errors import UnsupportedModelError


def is_main_process() -> bool:
    """Rank 0, or the only process. Before the process group is up, the launcher's ``RANK``
    decides."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and ``torch.compile``."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            model = compiled
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def is_sharded(model: nn.Module) -> bool:
    """Parameters lie in pieces on several processes, so that a forward pass is a collective.

    Raises:
        UnsupportedModelError: in pieces that no single process can see through (tensor parallelism,
            DeepSpeed ZeRO-3, FSDP1).
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise UnsupportedModelError(
                f"parameter {name} is partitioned by DeepSpeed ZeRO-3, which hides it; use ZeRO-2 "
                "or PyTorch's FSDP2"
            )
    in_pieces = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if (in_pieces and not _fully_sharded(model)) or any(map(_cut_twice, model.parameters())):
        raise UnsupportedModelError(
            "the model's layers are split over processes (tensor parallelism), so that no process "
            "sees all heads of a block; "
            "capture it afterwards, whole, from its checkpoints: tracker-viz backfill"
        )
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise UnsupportedModelError(
            "FSDP1 (FullyShardedDataParallel) flattens the weights away; shard with fully_shard "
            "(FSDP2) instead, with accelerate by "
            "fsdp_version: 2 in its configuration"
        )
    return in_pieces


def put_away(model: nn.Module) -> None:
    """Let go of parameters that a pass has gathered, so that the next one gathers what the
    optimiser made of them since."""
    for module in _fully_sharded(model):
        module.reshard()


def _fully_sharded(model: nn.Module) -> list[Any]:
    return [
        module
        for module in model.modules()
        if callable(getattr(module, "reshard", None)) and hasattr(module, "unshard")
    ]


def _cut_twice(parameter: Tensor) -> bool:
    """A matrix in pieces along two axes of the mesh: of FSDP, and of tensor parallelism inside it
    (stacks of experts may be so, too)."""
    placements = getattr(parameter, "placements", ())
    return parameter.ndim == 2 and sum(not placement.is_replicate() for placement in placements) > 1


@dataclass(frozen=True, slots=True)
class Piece:
    """What this process holds of a tensor.

    Attributes:
        values: all of it, or a slice along one axis.
        start: the slice's first index along each axis of the whole.
        group: processes that hold the other slices; None where ``values`` is all.
        device_type: where those processes talk.
    """

    values: Tensor
    start: tuple[int, ...]
    group: Any = None
    device_type: str = "cpu"

    def summed(self, part: Tensor) -> Tensor:
        """The sum of what every process made of its slice (a collective), on the slice's own
        device."""
        if self.group is None:
            return part
        shared = part.to(self.device_type)  # parameters may be offloaded to the CPU
        torch.distributed.all_reduce(shared, group=self.group)
        return shared.to(part.device)


def piece_of(tensor: Tensor) -> Piece:
    """A plain tensor as it is; of a sharded one this process's slice. Otherwise laid out ones are
    gathered whole (a collective)."""
    gather = getattr(tensor, "full_tensor", None)
    if gather is None:
        return Piece(tensor, (0,) * tensor.ndim)
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    sharded = [axis for axis, placement in enumerate(placements) if not placement.is_replicate()]
    if len(sharded) != 1 or type(placements[sharded[0]]).__name__ != "Shard":
        return Piece(gather(), (0,) * tensor.ndim)
    (mesh_axis,) = sharded
    axis = placements[mesh_axis].dim % tensor.ndim
    size, n_slices = tensor.shape[axis], mesh.size(mesh_axis)
    start = min(
        size, -(-size // n_slices) * mesh.get_local_rank(mesh_axis)
    )  # slices as torch.chunk cuts them
    starts = tuple(start if each == axis else 0 for each in range(tensor.ndim))
    return Piece(tensor.to_local(), starts, mesh.get_group(mesh_axis), mesh.device_type)  # type: ignore[attr-defined]


def agreed(number: int, device: torch.device) -> int:
    """The main process's ``number``, on every process."""
    shared = torch.tensor([number], dtype=torch.int64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())

"""Handle wrappers and processes: who records, what a wrapper wraps, and what this process holds of
a sharded tensor.

Plain and DistributedDataParallel models: only the main process works, on the unwrapped model, and
the others wait for it only in their own next collective. Sharded models (FSDP2, tensor parallelism,
any DTensor): every process takes part in the pass and in the gathering, one matrix at a time, and
the main process keeps the result. Under tensor parallelism each process sees its own heads, and
those are gathered as well.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.errors import UnsupportedModelError

_FROM_CHECKPOINTS = (
    "capture it afterwards from checkpoints that were gathered (tracker-viz backfill)"
)


def is_main_process() -> bool:
    """Return whether this is rank 0 or the only process. Before the process group is up, the
    launcher's ``RANK`` decides."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel, ``torch.compile`` and
    Lightning Fabric's wrapper."""
    while (inner := _wrapped_module(model)) is not None:
        model = inner
    return model


def _wrapped_module(model: nn.Module) -> nn.Module | None:
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return compiled
    is_parallel = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    # By its name: Lightning need not be installed.
    is_fabric = type(model).__name__ == "_FabricModule"
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) and (is_parallel or is_fabric) else None


def is_sharded(model: nn.Module) -> bool:
    """Return whether parameters are split over processes, so that a forward pass is a collective.

    Raises:
        UnsupportedModelError: they are split so that no single process can see a whole layer
            (DeepSpeed ZeRO-3, FSDP1).
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise UnsupportedModelError(
                f"parameter {name} is partitioned by DeepSpeed ZeRO-3, which hides it; use ZeRO-2 "
                f"or PyTorch's FSDP2, or {_FROM_CHECKPOINTS}"
            )
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise UnsupportedModelError(
            "FSDP1 (FullyShardedDataParallel) flattens the weights away; shard with fully_shard "
            "(FSDP2) instead, with accelerate by fsdp_version: 2 in its configuration, or "
            f"{_FROM_CHECKPOINTS}"
        )
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or all of a sharded one (a collective)."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gathered_heads(pattern: Tensor, group: Any) -> Tensor:
    """Return the heads of all processes of ``group``, in their order (a collective).

    Args:
        pattern: [probe, head, ...], of this process's heads.
    """
    if group is None:
        return pattern
    parts = [torch.empty_like(pattern) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, pattern.contiguous(), group=group)
    return torch.cat(parts, dim=1)


def put_away(model: nn.Module) -> None:
    """Free the parameters that a pass has gathered, so that the next pass gathers what the
    optimizer made of them since."""
    for module in _fully_sharded(model):
        module.reshard()


def _fully_sharded(model: nn.Module) -> list[Any]:
    sharded = []
    for module in model.modules():
        if callable(getattr(module, "reshard", None)) and hasattr(module, "unshard"):
            sharded.append(module)
    return sharded


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a tensor on this process.

    Attributes:
        values: all of it, or a slice along one axis.
        start: the slice's first index along each axis of the whole.
        group: processes that hold the other slices; None where ``values`` is all.
        device_type: where those processes communicate.
    """

    values: Tensor
    start: tuple[int, ...]
    group: Any = None
    device_type: str = "cpu"

    def summed(self, part: Tensor) -> Tensor:
        """Return the sum of what every process made of its slice (a collective), on the slice's own
        device."""
        if self.group is None:
            return part
        shared = part.to(self.device_type)  # parameters may be offloaded to the CPU
        torch.distributed.all_reduce(shared, group=self.group)
        return shared.to(part.device)


def piece_of(tensor: Tensor) -> Piece:
    """Return a plain tensor as it is, and this process's slice of a sharded one. Tensors that are
    split in another way are gathered whole (a collective)."""
    gather = getattr(tensor, "full_tensor", None)
    if gather is None:
        return Piece(tensor, (0,) * tensor.ndim)
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    sharded = [axis for axis, placement in enumerate(placements) if not placement.is_replicate()]
    if len(sharded) != 1 or type(placements[sharded[0]]).__name__ != "Shard":
        return Piece(gather(), (0,) * tensor.ndim)

    (mesh_axis,) = sharded
    axis = placements[mesh_axis].dim % tensor.ndim
    size = tensor.shape[axis]
    # Slices as torch.chunk cuts them.
    longest_slice = -(-size // mesh.size(mesh_axis))
    starts = [0] * tensor.ndim
    starts[axis] = min(size, longest_slice * mesh.get_local_rank(mesh_axis))
    return Piece(tensor.to_local(), tuple(starts), mesh.get_group(mesh_axis), mesh.device_type)  # type: ignore[attr-defined]


def agreed(number: int, device: torch.device) -> int:
    """Return the main process's ``number`` on every process (a collective)."""
    shared = torch.tensor([number], dtype=torch.int64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())


def agreed_steps(steps: Collection[int], device: torch.device) -> list[int]:
    """Return the main process's ``steps`` on every process, in order (two collectives)."""
    shared = torch.tensor(sorted(steps), dtype=torch.int64, device=device)
    n_steps = agreed(len(shared), device)
    if not is_main_process():
        shared = torch.empty(n_steps, dtype=torch.int64, device=device)
    if n_steps:
        torch.distributed.broadcast(shared, src=0)
    return shared.tolist()

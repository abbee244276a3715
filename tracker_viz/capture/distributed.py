"""Handle wrappers and processes: who records, what a wrapper wraps, and what this process holds of
a sharded tensor.

Plain and DistributedDataParallel models: only the main process works, on the unwrapped model, and
the others wait for it only in their own next collective. Sharded models (FSDP2, tensor parallelism,
any DTensor): every process takes part in the pass and in the gathering, one matrix at a time, and
the main process keeps the result; of FSDP1 and ZeRO-3 one block at a time (``weights.gathering``).
Under tensor parallelism each process sees its own heads, and those are gathered as well.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


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
    """Return whether parameters are split over processes, so that a forward pass is a
    collective."""
    is_split = any(map(is_dtensor, model.parameters()))
    return is_split or is_partitioned(model) or bool(fsdp1_units(model))


def is_partitioned(model: nn.Module) -> bool:
    """Return whether DeepSpeed ZeRO-3 keeps the parameters in parts."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def fsdp1_units(model: nn.Module) -> dict[str, Any]:
    """Return the modules that FSDP1 wraps, by name, outermost first."""
    return {name: module for name, module in model.named_modules() if is_fsdp1(module)}


def wrapped_to_shard(model: nn.Module) -> nn.Module:
    """Return the model inside FSDP1's or DeepSpeed's wrapper, which passes on what it is given and
    has to be called in its place."""
    while is_fsdp1(model) or type(model).__name__ == "DeepSpeedEngine":
        model = cast(nn.Module, model.module)
    return model


def is_fsdp1(module: nn.Module) -> bool:
    """Return whether a module is FSDP1's wrapper around another."""
    # By its name: it need not be loaded.
    return type(module).__name__ == "FullyShardedDataParallel"


def is_dtensor(tensor: Any) -> bool:
    """Return whether each process may hold a part of this tensor alone (a ``DTensor``)."""
    return hasattr(tensor, "full_tensor")


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
    if not is_dtensor(tensor):
        return Piece(tensor, (0,) * tensor.ndim)
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    sharded = [axis for axis, placement in enumerate(placements) if not placement.is_replicate()]
    if len(sharded) != 1 or type(placements[sharded[0]]).__name__ != "Shard":
        return Piece(whole_tensor(tensor), (0,) * tensor.ndim)

    (mesh_axis,) = sharded
    axis = placements[mesh_axis].dim % tensor.ndim
    size = tensor.shape[axis]
    # Slices as torch.chunk cuts them.
    longest_slice = -(-size // mesh.size(mesh_axis))
    starts = [0] * tensor.ndim
    starts[axis] = min(size, longest_slice * mesh.get_local_rank(mesh_axis))
    return Piece(tensor.to_local(), tuple(starts), mesh.get_group(mesh_axis), mesh.device_type)  # type: ignore[attr-defined]


def any_of(is_so: bool) -> bool:
    """Return whether ``is_so`` on any process (a collective)."""
    answers = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(answers, is_so)
    return any(answers)


def first_of(place: int, name: str) -> str:
    """Return the name with the smallest place on any process (a collective)."""
    found = [(0, "")] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, (place, name))
    return min(found)[1]


def local_part(tensor: Tensor) -> Tensor:
    """Return a tensor as it is, or what this process holds of a sharded one."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


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

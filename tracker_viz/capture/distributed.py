"""What capturing must know of wrappers and processes: who records, what lies inside a wrapper, how a sharded tensor becomes whole.

Plain and DistributedDataParallel models: only the main process works, on the unwrapped model, and no other waits for it except
in its own next collective. Sharded models (FSDP2, any DTensor): every process takes part in the pass and in the gathering, one
matrix at a time, and the main process keeps the result.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.errors import UnsupportedModelError


def is_main_process() -> bool:
    """Rank 0, or the only process. Before the process group is up, the launcher's ``RANK`` decides."""
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
        UnsupportedModelError: in pieces that no single process can see through (tensor parallelism, DeepSpeed ZeRO-3, FSDP1).
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise UnsupportedModelError(
                f"parameter {name} is partitioned by DeepSpeed ZeRO-3, which hides it; use ZeRO-2 or PyTorch's FSDP2"
            )
    in_pieces = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if in_pieces and not _fully_sharded(model):
        raise UnsupportedModelError(
            "the model's layers are split over processes (tensor parallelism): no process sees all heads of a block"
        )
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise UnsupportedModelError("FSDP1 (FullyShardedDataParallel) flattens the weights away; shard with fully_shard (FSDP2) instead")
    return in_pieces


def put_away(model: nn.Module) -> None:
    """Let go of parameters that a pass has gathered, so that the next one gathers what the optimiser made of them since."""
    for module in _fully_sharded(model):
        module.reshard()


def _fully_sharded(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if callable(getattr(module, "reshard", None)) and hasattr(module, "unshard")]


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor (a collective), or the tensor itself."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather is not None else tensor


def agreed(number: int, device: torch.device) -> int:
    """The main process's ``number``, on every process."""
    shared = torch.tensor([number], dtype=torch.int64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())

"""What capturing must know of wrappers and processes: who records, what lies inside a wrapper, how a sharded tensor becomes whole.

Plain and DistributedDataParallel models: only the main process works, on the unwrapped model, and no other waits for it except
in its own next collective. Sharded models (FSDP2, any DTensor): every process takes part in the pass and in the gathering, one
matrix at a time, and the main process keeps the result.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn


def is_main_process() -> bool:
    """Rank 0, or the only process. Before the process group is up, the launcher's ``RANK`` decides."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and ``torch.compile``; not inside FSDP1, whose wrapper gathers."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            model = compiled
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def is_sharded(model: nn.Module) -> bool:
    """Some parameter lies in pieces on several processes, so that a forward pass is a collective."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor (a collective), or the tensor itself."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather is not None else tensor


def agreed(number: int, device: torch.device) -> int:
    """The main process's ``number``, on every process."""
    shared = torch.tensor([number], dtype=torch.int64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())
